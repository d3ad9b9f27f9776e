//! `/containerLogs`: which container's log, from where, for how long.
//!
//! Follows upstream's `validateContainerLogStatus` with its messages.

use std::path::PathBuf;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use tokio_stream::wrappers::ReceiverStream;
use wire::body::Body;

use super::query::Query;
use super::{Refusal, Server};
use crate::logs::line::Stream;
use crate::logs::read::{self, Options};
use crate::pod::{PodExt, container_status};
use crate::runtime::status::State;
use crate::status::containers::{bare_id, is_running, last_terminated, terminated};

pub(super) fn container_logs(
    server: &Server,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    match open(server, namespace, pod, container, query) {
        Ok(answer) => answer,
        Err(refusal) => refusal.answer(),
    }
}

fn open(
    server: &Server,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let options = options(query, server.node.clock.now())
        .map_err(|message| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message))?;
    let pod = server.pod(namespace, name)?;
    if pod.find_container(container).is_none() {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("container {container:?} not found in pod {name:?}"),
        ));
    }
    let refuse = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let status = server
        .node
        .status
        .get(pod.uid())
        .unwrap_or_else(|| pod.status().clone());
    let id = chosen(name, &status, container, query.flag("previous")).map_err(refuse)?;
    let mut seen = server
        .workers
        .runtime_status(pod.uid())
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist")))?;
    let log_path = seen
        .borrow()
        .containers
        .iter()
        .find(|c| c.id == id)
        .map(|c| PathBuf::from(&c.log_path));
    let Some(path) = log_path.filter(|p| !p.as_os_str().is_empty()) else {
        return Err(refuse(format!(
            "unable to retrieve container logs for {}://{id}",
            server.node.runtime.name()
        )));
    };
    let ended: BoxFuture<'static, ()> = async move {
        let over = |status: &std::sync::Arc<crate::runtime::status::PodStatus>| {
            !status
                .containers
                .iter()
                .any(|c| c.id == id && c.state == State::Running)
        };
        // The worker going away ends a follow too.
        drop(seen.wait_for(over).await);
    }
    .boxed();
    let chunks = read::stream(path, options, ended).map_err(|error| refuse(error.to_string()))?;
    let body = StreamBody::new(ReceiverStream::new(chunks).map(|chunk| chunk.map(Frame::data)));
    let mut answer = Response::new(Body::stream(body));
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain"),
    );
    Ok(answer)
}

fn options(query: &Query, now: Timestamp) -> Result<Options, String> {
    let invalid = |_: std::num::ParseIntError| "Invalid request.".to_owned();
    let tail = match query.get("tail") {
        Some("all") => None,
        Some(_) => query.number("tail").map_err(invalid)?,
        None => query.number("tailLines").map_err(invalid)?,
    };
    let since = match (
        query.number("sinceSeconds").map_err(invalid)?,
        query.get("sinceTime"),
    ) {
        (Some(_), Some(_)) => return Err("Invalid request.".to_owned()),
        (Some(seconds), None) => {
            let back =
                SignedDuration::from_secs(i64::try_from(seconds).map_err(|_| "Invalid request.".to_owned())?);
            Some(now.checked_sub(back).unwrap_or(Timestamp::MIN))
        }
        (None, Some(time)) if !time.is_empty() => {
            Some(time.parse().map_err(|_| "Invalid request.".to_owned())?)
        }
        _ => None,
    };
    let stream = match query.get("stream") {
        None | Some("" | "All") => None,
        Some("Stdout") => Some(Stream::Stdout),
        Some("Stderr") => Some(Stream::Stderr),
        Some(other) => return Err(format!("invalid stream type {other:?}")),
    };
    Ok(Options {
        tail_lines: tail,
        limit_bytes: query.number("limitBytes").map_err(invalid)?,
        since,
        follow: query.flag("follow"),
        timestamps: query.flag("timestamps"),
        stream,
    })
}

/// The id of the container whose log is meant.
fn chosen(pod: &str, status: &PodStatus, container: &str, previous: bool) -> Result<String, String> {
    let find = |list: &Option<Vec<ContainerStatus>>| {
        container_status(list.as_deref().unwrap_or_default(), container).cloned()
    };
    let place = format!("container {container:?} in pod {pod:?}");
    let found = find(&status.container_statuses)
        .or_else(|| find(&status.init_container_statuses))
        .or_else(|| find(&status.ephemeral_container_statuses))
        .ok_or_else(|| format!("{place} is not available"))?;
    let id = |text: &Option<String>| {
        text.as_deref()
            .filter(|t| !t.is_empty())
            .map(|t| bare_id(t).to_owned())
    };
    let last = last_terminated(&found).and_then(|t| id(&t.container_id));
    if previous {
        return last.ok_or_else(|| format!("previous terminated {place} not found"));
    }
    if is_running(&found) {
        return id(&found.container_id).ok_or_else(|| format!("{place} is waiting to start - no logs yet"));
    }
    if let Some(end) = terminated(&found) {
        return id(&end.container_id)
            .or(last)
            .ok_or_else(|| format!("{place} is terminated"));
    }
    if last_terminated(&found).is_some() {
        return last.ok_or_else(|| format!("{place} is terminated"));
    }
    let reason = found.state.and_then(|s| s.waiting).and_then(|w| w.reason);
    Err(match reason.as_deref() {
        Some("ErrImagePull") => format!("{place} is waiting to start: image can't be pulled"),
        Some("ImagePullBackOff") => format!("{place} is waiting to start: trying and failing to pull image"),
        Some(reason) => format!("{place} is waiting to start: {reason}"),
        None => format!("{place} is waiting to start - no logs yet"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn whose_log() {
        let status = |state: Value, last: Value| -> PodStatus {
            serde_json::from_value(json!({"containerStatuses": [{
                "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "containerID": "x://now", "state": state, "lastState": last}]}))
            .unwrap()
        };
        let ended = |id: &str| json!({"terminated": {"exitCode": 0, "containerID": id}});
        let cases = [
            (status(json!({"running": {}}), json!({})), false, Ok("now")),
            (status(ended("x://t"), json!({})), false, Ok("t")),
            (
                status(json!({"waiting": {"reason": "CrashLoopBackOff"}}), ended("x://l")),
                false,
                Ok("l"),
            ),
            (status(json!({"running": {}}), ended("x://l")), true, Ok("l")),
            (
                status(json!({"running": {}}), json!({})),
                true,
                Err("previous terminated container \"c\" in pod \"p\" not found"),
            ),
            (
                status(json!({"waiting": {"reason": "ContainerCreating"}}), json!({})),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
            ),
            (
                status(json!({"waiting": {"reason": "ImagePullBackOff"}}), json!({})),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"),
            ),
            (
                PodStatus::default(),
                false,
                Err("container \"c\" in pod \"p\" is not available"),
            ),
        ];
        for (status, previous, expected) in cases {
            let found = chosen("p", &status, "c", previous);
            assert_eq!(found.as_deref().map_err(String::as_str), expected);
        }
    }

    #[test]
    fn what_of_it() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let parse = |text: &str| options(&Query::parse(text), now);
        let found = parse("tailLines=5&sinceSeconds=30&follow=true&timestamps=true&stream=Stderr").unwrap();
        assert_eq!(found.since, Some("2026-01-01T00:00:30Z".parse().unwrap()));
        assert_eq!(
            (found.tail_lines, found.follow, found.stream),
            (Some(5), true, Some(Stream::Stderr))
        );
        for bad in [
            "tailLines=x",
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
            "sinceTime=x",
            "stream=x",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
