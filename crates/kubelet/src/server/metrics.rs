//! `/metrics` and `/metrics/resource`, with upstream's names.

use std::fmt::Write;

use http::{Response, StatusCode};
use wire::body::Body;

use super::stats::{self, Usage};
use super::{Server, with_type};
use crate::runtime::status::State;

const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Builds the text format. Writing to a `String` cannot fail.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    pub(super) fn line(&mut self, arguments: std::fmt::Arguments<'_>) {
        if writeln!(self.0, "{arguments}").is_err() {
            unreachable!("writing to a string");
        }
    }

    pub(super) fn answer(self) -> Response<Body> {
        with_type(StatusCode::OK, TYPE, self.0.into())
    }
}

pub(super) fn kubelet(server: &Server) -> Response<Body> {
    let pods = server.workers.pods();
    let mut running_pods = 0;
    let mut states = [0usize; 4];
    for pod in &pods {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let Some(status) = server.workers.runtime_status(uid) else {
            continue;
        };
        let status = status.borrow();
        running_pods += usize::from(status.active_sandbox().is_some());
        for container in &status.containers {
            states[container.state as usize] += 1;
        }
    }
    let mut text = Text::default();
    text.family(
        "kubelet_node_name",
        "gauge",
        "[ALPHA] The node's name. The count is always 1.",
    );
    text.line(format_args!(
        "kubelet_node_name{{node={:?}}} 1",
        server.node.settings.node_name
    ));
    text.family(
        "kubelet_running_pods",
        "gauge",
        "[BETA] Number of pods that have a running pod sandbox",
    );
    text.line(format_args!("kubelet_running_pods {running_pods}"));
    text.family(
        "kubelet_running_containers",
        "gauge",
        "[BETA] Number of containers currently running",
    );
    for state in [State::Created, State::Running, State::Exited, State::Unknown] {
        let count = states[state as usize];
        text.line(format_args!(
            "kubelet_running_containers{{container_state={:?}}} {count}",
            state.as_str()
        ));
    }
    text.answer()
}

pub(super) async fn resource(server: &Server) -> Response<Body> {
    let (pods, failed) = match stats::pods(server).await {
        Ok(pods) => (pods, 0),
        Err(error) => {
            tracing::warn!(error = error.full(), "cannot read the pods' usage");
            (Vec::new(), 1)
        }
    };
    let node = stats::node_usage(server.node.clock.now());
    let of_node = vec![(String::new(), node)];
    let of_pods: Vec<(String, Usage)> = pods
        .iter()
        .map(|p| {
            (
                format!("{{namespace={:?},pod={:?}}}", p.namespace, p.name),
                p.usage,
            )
        })
        .collect();
    let of_containers: Vec<(String, Usage)> = pods
        .iter()
        .flat_map(|p| {
            p.containers.iter().map(|(name, usage)| {
                (
                    format!(
                        "{{container={name:?},namespace={:?},pod={:?}}}",
                        p.namespace, p.name
                    ),
                    *usage,
                )
            })
        })
        .collect();
    let mut text = Text::default();
    for (prefix, what, rows) in [
        ("container", "the container", &of_containers),
        ("node", "the node", &of_node),
        ("pod", "the pod", &of_pods),
    ] {
        let name = format!("{prefix}_cpu_usage_seconds_total");
        text.family(
            &name,
            "counter",
            &format!("[STABLE] Cumulative cpu time consumed by {what} in core-seconds"),
        );
        for (labels, usage) in rows {
            if let Some(nanos) = usage.cpu_nanos {
                text.line(format_args!(
                    "{name}{labels} {} {}",
                    nanos as f64 / 1e9,
                    usage.time / 1_000_000
                ));
            }
        }
        let name = format!("{prefix}_memory_working_set_bytes");
        text.family(
            &name,
            "gauge",
            &format!("[STABLE] Current working set of {what} in bytes"),
        );
        for (labels, usage) in rows {
            if let Some(bytes) = usage.memory_working_set {
                text.line(format_args!("{name}{labels} {bytes} {}", usage.time / 1_000_000));
            }
        }
    }
    text.family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.line(format_args!("resource_scrape_error {failed}"));
    text.answer()
}
