//! What of a request and its answer audit events hold.

use crate::handlers::attributes;
use crate::request::{Query, RequestInfo};
use access::admission::Notes;
use access::audit::{Auditor, Record, Request, Stage};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use machinery::user::UserInfo;
use machinery::{codec, gvk};
use std::io::Read as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use wire::body::{Body, BoxError};
use wire::server::Connection;

/// The largest answer an event holds.
const MAX_ANSWER: usize = 64 << 20;

/// A record of a request by `user`, if the policy wants one.
pub(crate) fn begin(
    auditor: &Arc<Auditor>,
    request: &http::Request<Body>,
    (info, query, user): (&RequestInfo, &Query, &UserInfo),
    (audit_id, received): (&http::HeaderValue, jiff::Timestamp),
) -> Option<Arc<Record>> {
    let headers = request.headers();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    auditor.begin(&attributes(info, user, query), || Request {
        audit_id: text(audit_id),
        uri: request
            .uri()
            .path_and_query()
            .map_or_else(|| info.path.clone(), ToString::to_string),
        source_ips: source_ips(headers, request.extensions().get::<Arc<Connection>>()),
        user_agent: headers.get(USER_AGENT).map(text).unwrap_or_default(),
        received,
    })
}

/// Nobody knows who asks: the only event of such a request.
pub(crate) fn unauthenticated(record: &Record, headers: &HeaderMap) {
    let how = match headers.get(AUTHORIZATION) {
        Some(_) => "Authentication failed, attempted: bearer",
        None => "Authentication failed, attempted: x509",
    };
    let status =
        serde_json::json!({"metadata": {}, "status": "Failure", "reason": "Unauthorized", "message": how});
    record.response_status(401, Some(status.to_string().as_bytes()));
    record.stage(Stage::ResponseStarted);
    record.forget();
}

/// The addresses a request came by: what proxies say, and the last one itself.
fn source_ips(headers: &HeaderMap, connection: Option<&Arc<Connection>>) -> Vec<String> {
    let values = |name: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
    };
    let mut ips: Vec<String> = values("x-forwarded-for")
        .flat_map(|value| value.split(','))
        .chain(values("x-real-ip"))
        .filter_map(|text| text.trim().parse::<std::net::IpAddr>().ok())
        .map(|ip| ip.to_string())
        .collect();
    if let Some(connection) = connection {
        let peer = connection.peer.ip().to_string();
        if ips.last() != Some(&peer) {
            ips.push(peer);
        }
    }
    ips.dedup();
    ips
}

/// What was sent, for those events that hold it.
pub(crate) fn sent(record: &Record, headers: &HeaderMap, bytes: &[u8]) {
    if let Some(json) = json(headers, bytes) {
        record.request_object(&json);
    }
}

/// Ends a record with the answer, or with the end of its stream.
pub(crate) async fn answered(
    record: Arc<Record>,
    notes: &Notes,
    response: Response<Body>,
    long_running: bool,
) -> Response<Body> {
    for (key, value) in notes.annotations() {
        record.annotate(&key, value);
    }
    let code = response.status();
    let (parts, body) = response.into_parts();
    if long_running && code.is_success() || code.is_informational() {
        record.response_status(code.as_u16(), None);
        record.stage(Stage::ResponseStarted);
        // The record ends with the body it goes along with.
        return Response::from_parts(
            parts,
            Body::stream(Along {
                body,
                _record: record,
            }),
        );
    }
    let whole = body.as_bytes().cloned();
    let (body, bytes) = match whole {
        Some(bytes) => (body, Some(bytes)),
        None if record.wants_response() => match body.limited(MAX_ANSWER).await {
            Ok(bytes) => (Body::from(bytes.clone()), Some(bytes)),
            Err(error) => {
                tracing::error!(%error, "an answer cannot be read for audit");
                (Body::empty(), None)
            }
        },
        None => (body, None),
    };
    let fails = !code.is_success();
    let shown = bytes
        .filter(|_| fails || record.wants_response())
        .and_then(|bytes| json(&parts.headers, &bytes));
    record.response_status(code.as_u16(), shown.as_deref().filter(|_| fails));
    if let Some(json) = &shown {
        record.response_object(json);
    }
    record.stage(Stage::ResponseComplete);
    Response::from_parts(parts, body)
}

/// A body as JSON, whatever form it has.
fn json(headers: &HeaderMap, bytes: &[u8]) -> Option<Vec<u8>> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &http::HeaderValue| value.to_str().ok())
            .unwrap_or_default()
    };
    let unzipped = if text(CONTENT_ENCODING) == "gzip" {
        let mut out = Vec::new();
        let limit = MAX_ANSWER as u64;
        flate2::read::GzDecoder::new(bytes)
            .take(limit)
            .read_to_end(&mut out)
            .ok()?;
        Some(out)
    } else {
        None
    };
    let bytes = unzipped.as_deref().unwrap_or(bytes);
    if bytes.starts_with(codec::proto::MAGIC) {
        let envelope = codec::proto::open_envelope(bytes).ok()?;
        let gvk = gvk::GroupVersion::parse(&envelope.api_version)?.with_kind(&envelope.kind);
        let mut object = codec::proto::decode(envelope.raw, api::types(), api::kind(&gvk)?).ok()?;
        crate::object::set_kind(&mut object, &envelope.api_version, &envelope.kind);
        return Some(codec::json::to_vec(&object));
    }
    if text(CONTENT_TYPE).contains("yaml") {
        return codec::yaml::to_json(bytes).ok();
    }
    Some(bytes.to_vec())
}

/// A body and the record that ends with it.
struct Along {
    body: Body,
    _record: Arc<Record>,
}

impl http_body::Body for Along {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
