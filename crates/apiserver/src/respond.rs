//! Answers: objects, lists and errors as responses, with the headers upstream sends.

use crate::object;
use crate::request::{Encoding, Output};
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, VARY, WARNING,
};
use http::{Response, StatusCode};
use machinery::Value;
use machinery::status::ApiError;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use wire::body::{Body, BoxError};

pub(crate) const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Answers of at least this size are compressed for clients that take it.
const GZIP_FROM: usize = 128 * 1024;
/// Warnings sent at most, in bytes.
const WARNINGS_MOST: usize = 16 * 1024;

/// Bytes in a form.
pub(crate) fn bytes(code: StatusCode, output: &Output, body: Bytes) -> Response<Body> {
    let gzipped = (output.gzip && body.len() >= GZIP_FROM)
        .then(|| gzip(&body))
        .flatten();
    let is_gzipped = gzipped.is_some();
    let mut response = Response::new(Body::from(gzipped.unwrap_or(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, output.content_type());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if is_gzipped {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

/// One document. In JSON it ends its line, as Go's encoder has it, unless it is made for reading.
pub(crate) fn document(code: StatusCode, output: &Output, body: Bytes) -> Response<Body> {
    bytes(code, output, end_line(output.encoding, output.pretty, body))
}

/// The document with its line's end, if it has one.
pub(crate) fn end_line(encoding: Encoding, pretty: bool, document: Bytes) -> Bytes {
    if encoding != Encoding::Json || pretty {
        return document;
    }
    let mut out = Vec::with_capacity(document.len() + 1);
    out.extend_from_slice(&document);
    out.push(b'\n');
    out.into()
}

/// A body made piece by piece; `about` is roughly its size.
pub(crate) fn body(code: StatusCode, output: &Output, body: Body, about: usize) -> Response<Body> {
    if let Some(whole) = body.as_bytes() {
        return bytes(code, output, whole.clone());
    }
    let zipped = output.gzip && about >= GZIP_FROM;
    let mut response = Response::new(if zipped {
        Body::stream(Gzip::new(body))
    } else {
        body
    });
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, output.content_type());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if zipped {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

/// A body compressed as it is sent.
struct Gzip {
    inner: Body,
    /// `None` once the end is written.
    encoder: Option<flate2::write::GzEncoder<Vec<u8>>>,
}

impl Gzip {
    fn new(inner: Body) -> Self {
        Self {
            inner,
            encoder: Some(flate2::write::GzEncoder::new(
                Vec::new(),
                flate2::Compression::fast(),
            )),
        }
    }
}

impl http_body::Body for Gzip {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            let Some(encoder) = &mut this.encoder else {
                return Poll::Ready(None);
            };
            let out = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    encoder.write_all(&data)?;
                    std::mem::take(encoder.get_mut())
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => match this.encoder.take().map(flate2::write::GzEncoder::finish) {
                    Some(rest) => rest?,
                    None => return Poll::Ready(None),
                },
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(http_body::Frame::data(out.into()))));
            }
        }
    }
}

/// Any JSON-like value that needs no table: reviews, discovery, statuses.
pub(crate) fn value(code: StatusCode, output: &Output, value: &Value) -> Response<Body> {
    let kind = machinery::gvk::GroupVersion::parse(object::text(value, "apiVersion"))
        .map(|gv| gv.with_kind(object::text(value, "kind")));
    let table = kind.and_then(|gvk| api::kind(&gvk));
    let encoded = match table {
        Some(ty) => object::encode_value(value, output.encoding, api::types(), ty, output.pretty).ok(),
        None => None,
    };
    match encoded {
        Some(encoded) => document(code, output, encoded),
        None => {
            let output = Output {
                encoding: Encoding::Json,
                ..*output
            };
            let mut out = Vec::new();
            machinery::codec::json::encode(value, &mut out);
            document(code, &output, out.into())
        }
    }
}

/// A `Status` that says what went wrong.
pub(crate) fn error(error: &ApiError, output: &Output) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if error.code >= 500 && error.code != 504 {
        tracing::warn!(code = error.code, message = %error.message, "request failed");
    }
    let mut response = document(
        code,
        output,
        object::encode_status(&error.to_value(), output.encoding, output.pretty),
    );
    let after = error.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if after > 0 {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(after));
    }
    response
}

/// Plain text.
pub(crate) fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
        .headers_mut()
        .insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Text of which only the type is known.
pub(crate) fn plain_text(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Adds what there is to warn of.
pub(crate) fn add_warnings(response: &mut Response<Body>, warnings: Vec<String>) {
    let mut size = 0;
    for warning in warnings {
        let mut quoted = String::with_capacity(warning.len() + 8);
        quoted.push_str("299 - \"");
        for c in warning.chars() {
            match c {
                '"' | '\\' => {
                    quoted.push('\\');
                    quoted.push(c);
                }
                c if c.is_control() => quoted.push(' '),
                c => quoted.push(c),
            }
        }
        quoted.push('"');
        size += quoted.len();
        if size > WARNINGS_MOST {
            return;
        }
        if let Ok(value) = HeaderValue::from_bytes(quoted.as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

pub(crate) fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut encoder =
        flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 6), flate2::Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}
