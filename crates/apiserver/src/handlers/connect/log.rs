//! `pods/log`: the kubelet's text, plain or in the messages of a WebSocket, or its refusal as a `Status`.

use super::{container, encode, kubelet_of};
use crate::connect::Failure;
use crate::handlers::Exchange;
use crate::registry::{Resource, stored_error};
use crate::respond;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::UPGRADE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use machinery::field::{Error, ErrorList, Path};
use machinery::gvk::GroupResource;
use machinery::status::{ApiError, Details, Reason};
use std::sync::Arc;
use wire::body::Body;
use wire::server::{RawIo, UpgradeError, take_upgrade};
use wire::streams::{Kind, Upgrade};

/// Of a refusal so much is read.
const REFUSAL_MOST: usize = 50_000;
const STREAMS: [&str; 3] = ["All", "Stderr", "Stdout"];

pub(super) async fn log(exchange: Exchange, resource: &Arc<Resource>) -> Result<Response<Body>, ApiError> {
    let core = Arc::clone(&exchange.core);
    let (namespace, name) = (exchange.info.namespace.clone(), exchange.info.name.clone());
    let query = options(&exchange, &name)?;
    let entry = core.registry.get(resource, &namespace, &name, false).await?;
    let pod = entry.value(resource).map_err(stored_error)?;
    let container = container(&exchange, &pod, &name, false)?;
    if pod
        .get_str_path(&["spec", "nodeName"])
        .unwrap_or_default()
        .is_empty()
    {
        // Nothing runs yet, so nothing was said.
        return Ok(respond::plain_text(Body::empty()));
    }
    let mut target = kubelet_of(&exchange, &entry, &pod).await?;
    target.path = format!("/containerLogs/{namespace}/{name}/{container}{query}");
    let (place, path) = (target.place(), target.path.clone());
    let Exchange { mut request, .. } = exchange;
    // Taken here, so that the kubelet is asked for plain text.
    let upgrade = match wants_messages(request.headers()) {
        true => Some(negotiated(&mut request)?),
        false => None,
    };
    let answer = core.connector.proxy(target, request).await.map_err(|failure| {
        let why = match failure {
            Failure::Dial(why) => format!("dial tcp {place}: {why}"),
            Failure::Request(why) => why,
        };
        ApiError::new(
            500,
            Reason::Unknown,
            format!("Get \"https://{place}{path}\": {why}"),
        )
    })?;
    let code = answer.status();
    if (200..=206).contains(&code.as_u16()) {
        return Ok(match upgrade {
            Some((upgrade, io)) => {
                let response = upgrade.response().map(|()| Body::empty());
                tokio::spawn(async move {
                    let sent = async {
                        let io = io.await.map_err(std::io::Error::other)?;
                        upgrade.body(Box::new(io), answer.into_body()).await
                    };
                    if let Err(error) = sent.await {
                        tracing::debug!(%error, "a log over a WebSocket ended");
                    }
                });
                response
            }
            None => respond::plain_text(answer.into_body()),
        });
    }
    let text = answer
        .into_body()
        .limited(REFUSAL_MOST)
        .await
        .unwrap_or_else(|error| {
            tracing::debug!(%error, "reading a kubelet's refusal");
            Bytes::new()
        });
    Err(refusal(code, &String::from_utf8_lossy(&text), &name))
}

/// Other upgrades are passed over, as upstream does.
fn wants_messages(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(UPGRADE).map(HeaderValue::as_bytes);
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(b"websocket"))
        && crate::connect::wants_upgrade(headers)
}

type Upgraded = BoxFuture<'static, Result<Box<dyn RawIo>, UpgradeError>>;

/// A client that wants its text in the messages of a WebSocket.
fn negotiated(request: &mut Request<Body>) -> Result<(Upgrade, Upgraded), ApiError> {
    let upgrade = Upgrade::negotiate(request.headers(), Kind::Body)
        .map_err(|refused| ApiError::bad_request(refused.message))?;
    let io =
        take_upgrade(request).ok_or_else(|| ApiError::bad_request("the connection cannot be upgraded"))?;
    Ok((upgrade, io.boxed()))
}

/// What the kubelet is asked for: the options it knows, checked.
fn options(exchange: &Exchange, name: &str) -> Result<String, ApiError> {
    let query = &exchange.query;
    let mut errors = ErrorList::new();
    let (tail, limit, since) = (
        query.number("tailLines")?,
        query.number("limitBytes")?,
        query.number("sinceSeconds")?,
    );
    let since_time = query.get("sinceTime");
    let stream = query.get("stream").unwrap_or("All");
    if let Some(lines) = tail.filter(|n| *n < 0) {
        let why = "must be greater than or equal to 0";
        errors.push(Error::invalid(&Path::new("tailLines"), lines, why));
    }
    if let Some(bytes) = limit.filter(|n| *n < 1) {
        errors.push(Error::invalid(
            &Path::new("limitBytes"),
            bytes,
            "must be greater than 0",
        ));
    }
    match since {
        Some(_) if since_time.is_some() => errors.push(Error::forbidden(
            &Path::new(""),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        )),
        Some(seconds) if seconds < 1 => {
            errors.push(Error::invalid(
                &Path::new("sinceSeconds"),
                seconds,
                "must be greater than 0",
            ));
        }
        _ => {}
    }
    if !STREAMS.contains(&stream) {
        errors.push(Error::not_supported(&Path::new("stream"), stream, &STREAMS));
    }
    if stream != "All" && tail.is_some() {
        errors.push(Error::forbidden(
            &Path::new(""),
            "`tailLines` and specific `stream` are mutually exclusive for now",
        ));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid("", "PodLogOptions", name, errors));
    }
    let mut pairs = Vec::new();
    for flag in ["follow", "previous", "timestamps"] {
        if query.flag(flag) {
            pairs.push(format!("{flag}=true"));
        }
    }
    for (key, number) in [
        ("sinceSeconds", since),
        ("tailLines", tail),
        ("limitBytes", limit),
    ] {
        if let Some(number) = number {
            pairs.push(format!("{key}={number}"));
        }
    }
    if let Some(time) = since_time {
        pairs.push(format!("sinceTime={}", encode(time)));
    }
    if stream != "All" {
        pairs.push(format!("stream={stream}"));
    }
    Ok(if pairs.is_empty() {
        String::new()
    } else {
        format!("?{}", pairs.join("&"))
    })
}

/// A kubelet's plain refusal in the words of a `Status`.
fn refusal(code: StatusCode, text: &str, name: &str) -> ApiError {
    let (reason, message) = match code.as_u16() {
        500 => return ApiError::internal(text),
        400 => return ApiError::bad_request(text),
        401 => (
            Reason::Unauthorized,
            "the server has asked for the client to provide credentials",
        ),
        403 => (Reason::Forbidden, text),
        404 => (
            Reason::NotFound,
            "the server could not find the requested resource",
        ),
        405 => (
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        ),
        409 => (Reason::Conflict, "the server reported a conflict"),
        429 => (
            Reason::TooManyRequests,
            "the server has received too many requests and has asked us to try again later",
        ),
        503 => (
            Reason::ServiceUnavailable,
            "the server is currently unable to handle the request",
        ),
        504 => (
            Reason::Timeout,
            "the server was unable to return a response in the time allotted, but may still be processing the request",
        ),
        _ => (Reason::Unknown, ""),
    };
    let message = match (message, code.as_u16()) {
        ("", 500..) => format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        ("", code) => {
            format!("the server responded with the status code {code} but did not return more information")
        }
        (message, _) => message.to_owned(),
    };
    let reason = if reason == Reason::Unknown && code.as_u16() >= 500 {
        Reason::InternalError
    } else {
        reason
    };
    let resource = GroupResource::new("", "pods/log");
    ApiError::new(code.as_u16(), reason, format!("{message} ( {resource} {name})")).with_details(Details {
        name: name.to_owned(),
        kind: resource.resource.to_string(),
        ..Details::default()
    })
}
