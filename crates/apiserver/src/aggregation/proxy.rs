//! Passing requests on to the server that answers for them.

use super::remote::Remote;
use crate::connect::{Connector, wants_upgrade, words};
use crate::handlers::Exchange;
use crate::registry::read::Reader;
use crate::request::RequestInfo;
use crate::respond;
use crate::server::Core;
use http::header::{HeaderName, HeaderValue, LOCATION};
use http::{HeaderMap, Response, StatusCode};
use machinery::status::ApiError;
use machinery::user::UserInfo;
use std::sync::Arc;
use wire::body::Body;

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// Who answers for a request, if it is another server.
pub(crate) fn find(core: &Core, info: &RequestInfo) -> Option<Arc<Remote>> {
    let remotes = core.aggregation.remotes.load();
    if remotes.is_empty() {
        return None;
    }
    let place = if info.is_resource {
        (info.group.as_str().into(), info.version.as_str().into())
    } else {
        let segments: Vec<&str> = info.path.trim_matches('/').split('/').collect();
        match segments[..] {
            ["apis", group, version, ..] | ["openapi", "v3", "apis", group, version] => {
                (group.into(), version.into())
            }
            _ => return None,
        }
    };
    remotes.get(&place).cloned()
}

/// Has the other server answer.
pub(crate) async fn answer(exchange: Exchange, remote: &Remote) -> Result<Response<Body>, ApiError> {
    if !remote.is_available() {
        return Ok(unavailable());
    }
    if let Some(why) = remote.misconfigured() {
        return Ok(failure(StatusCode::INTERNAL_SERVER_ERROR, why));
    }
    let Exchange {
        core,
        user,
        mut request,
        ..
    } = exchange;
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    let objects = Reader {
        registry: Arc::clone(&core.registry),
        routes: Arc::clone(&core.routes),
    };
    let target = match remote.target(&objects, path).await {
        Ok(target) => target,
        Err(why) => {
            tracing::warn!(api_service = %remote.name, why, "resolving an API service");
            return Ok(unavailable());
        }
    };
    let upgrade = wants_upgrade(request.headers());
    identify(request.headers_mut(), &user);
    let reached = match remote.connect(&target).await {
        Ok(io) => Connector::over(Box::new(io), &target, request)
            .await
            .map_err(|failure| failure.to_string()),
        Err(error) => Err(format!("dial tcp {}: {}", target.place(), words(&error))),
    };
    match reached {
        Ok(answer) if answer.status().is_redirection() && answer.headers().contains_key(LOCATION) => {
            Ok(failure(
                StatusCode::SERVICE_UNAVAILABLE,
                "the backend attempted to redirect this request, which is not permitted",
            ))
        }
        Ok(answer) => Ok(answer),
        Err(why) if upgrade => Ok(failure(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("error dialing backend: {why}"),
        )),
        Err(why) => Ok(failure(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("error trying to reach service: {why}"),
        )),
    }
}

fn unavailable() -> Response<Body> {
    failure(StatusCode::SERVICE_UNAVAILABLE, "service unavailable")
}

fn failure(code: StatusCode, why: &str) -> Response<Body> {
    respond::text(code, format!("{why}\n"))
}

/// Says who asks, whatever the caller said of that.
pub(super) fn identify(headers: &mut HeaderMap, user: &UserInfo) {
    let claimed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-remote-") || name.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in claimed {
        headers.remove(name);
    }
    let mut say = |name: HeaderName, value: &str| match HeaderValue::from_bytes(value.as_bytes()) {
        Ok(value) => {
            headers.append(name, value);
        }
        Err(error) => tracing::warn!(%error, %name, "a header cannot say who asks"),
    };
    say(USER, &user.name);
    if !user.uid.is_empty() {
        say(UID, &user.uid);
    }
    for group in &user.groups {
        say(GROUP, group);
    }
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", escaped(key));
        let Ok(name) = HeaderName::try_from(name) else {
            continue;
        };
        for value in values {
            say(name.clone(), value);
        }
    }
}

/// A key as a header's name may have it: what may not stand there is percent-encoded.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        let stands = byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
        if stands {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_ours_to_say() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "admin"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-scopes", "all"),
            ("impersonate-user", "root"),
            ("accept", "*/*"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut user = UserInfo::authenticated("jane", &["dev"]);
        user.uid = "7".to_owned();
        user.extra.insert(
            "example.org/scopes".to_owned(),
            vec!["a".to_owned(), "b".to_owned()],
        );
        identify(&mut headers, &user);
        let all = |name: &str| -> Vec<&str> {
            headers
                .get_all(name)
                .iter()
                .map(|value| value.to_str().unwrap())
                .collect()
        };
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-uid"), ["7"]);
        assert_eq!(all("x-remote-group"), ["dev", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-example.org%2fscopes"), ["a", "b"]);
        assert!(all("x-remote-extra-scopes").is_empty() && all("impersonate-user").is_empty());
        assert_eq!(all("accept"), ["*/*"]);
    }
}
