//! Lifecycle hooks. Follows upstream's `lifecycle/handlers.go` with its messages.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::events::Events;
use crate::pod::PodExt;
use crate::probes::http;
use crate::runtime::client::Runtime;

/// What an HTTP hook may take; a hook has no time limit of its own but the container's grace.
const HTTP: Duration = Duration::from_secs(3600);

/// Runs a hook to its end; an error is the message for the container's status.
pub async fn run(
    runtime: &Runtime,
    events: &Events,
    pod: &Pod,
    container: &Container,
    id: &str,
    pod_ip: &str,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    let place = format!(
        "for Container {:?} in Pod {:?} failed",
        container.name,
        pod.describe()
    );
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let failed = |error: String, output: &[u8]| {
            let output = String::from_utf8_lossy(output);
            format!("Exec lifecycle hook ([{shown}]) {place} - error: {error}, message: {output:?}")
        };
        return match runtime.exec_sync(id, command, Duration::ZERO).await {
            Ok(done) if done.exit_code == 0 => Ok(()),
            Ok(done) => Err(failed(
                format!("command '{shown}' exited with {}: ", done.exit_code),
                &done.output,
            )),
            Err(error) => Err(failed(error.full(), &[])),
        };
    }
    if let Some(get) = &hook.http_get {
        let path = get.path.as_deref().unwrap_or_default();
        let failed = |error: String| format!("HTTP lifecycle hook ({path}) {place} - error: {error}");
        let mut request = http::Request::new(get, container, pod_ip, "lifecycle").map_err(failed)?;
        let answer = http::get(&request, HTTP).await;
        return match answer {
            Ok(_) => Ok(()),
            Err(text) if text.contains("server gave HTTP response to HTTPS client") => {
                request.scheme = "http".to_owned();
                request.headers.remove(::http::header::AUTHORIZATION);
                http::get(&request, HTTP).await.map_err(failed)?;
                let text = format!(
                    "request to HTTPS lifecycle hook {}:{} got HTTP response, retry with HTTP succeeded",
                    request.host, request.port
                );
                events.pod(pod).warning("LifecycleHTTPFallback", text);
                Ok(())
            }
            Err(text) => Err(failed(text)),
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("Cannot run handler: invalid handler".to_owned())
}
