//! `/checkpoint/{namespace}/{pod}/{container}`: the runtime writes a running container down, for later analysis (KEP 2008).

use http::{Response, StatusCode};
use serde_json::json;
use wire::body::Body;

use super::query::Query;
use super::{Refusal, Server, json_answer};
use crate::pod::PodExt;
use crate::runtime::status::State;

pub(super) async fn answer(
    server: &Server,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    match write(server, namespace, pod, container, query).await {
        Ok(file) => json_answer(&json!({"items": [file]})),
        Err(refusal) => refusal.answer(),
    }
}

async fn write(
    server: &Server,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Result<String, Refusal> {
    let missing = |what: String| Refusal::new(StatusCode::NOT_FOUND, what);
    let found = server.workers.find(namespace, name);
    let pod = found.ok_or_else(|| missing("pod does not exist".to_owned()))?;
    if pod.find_container(container).is_none() {
        return Err(missing(format!("container {container} does not exist")));
    }
    let timeout = match query.all("timeout").last() {
        None => 0,
        Some(text) => text
            .parse::<i64>()
            .map_err(|_| missing("cannot parse value of timeout parameter".to_owned()))?,
    };
    let failed = |why: String| {
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("checkpointing of {namespace}/{name}/{container} failed ({why})"),
        )
    };
    let id = server.workers.runtime_status(pod.uid()).and_then(|status| {
        let status = status.borrow();
        let running =
            |c: &&crate::runtime::status::ContainerStatus| c.name == container && c.state == State::Running;
        status.containers.iter().find(running).map(|c| c.id.clone())
    });
    let id = id.ok_or_else(|| failed(format!("container {container} not found")))?;
    let dir = server.node.paths.checkpoints();
    std::fs::create_dir_all(&dir).map_err(|error| failed(error.to_string()))?;
    let time = server.node.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let file = dir.join(format!("checkpoint-{name}_{namespace}-{container}-{time}.tar"));
    let file = file.display().to_string();
    let written = server
        .node
        .runtime
        .checkpoint_container(&id, &file, timeout)
        .await;
    written.map_err(|error| failed(error.rpc_text()))?;
    Ok(file)
}
