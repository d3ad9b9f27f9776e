//! A pod's row: how its containers stand, in a word.

use crate::fields::{flag, int, list, list_at, text, text_at};
use crate::strategy::Column;
use crate::table;
use jiff::Timestamp;
use machinery::{Value, meta};

pub(super) const COLUMNS: [Column; 9] = [
    Column::NAME,
    Column::text("Ready", "Containers that are ready of all."),
    Column::text("Status", "How the pod stands."),
    Column::text(
        "Restarts",
        "How often its containers were restarted, and when last.",
    ),
    Column::AGE,
    Column::text("IP", "Its address.").wide(),
    Column::text("Node", "The node it runs on.").wide(),
    Column::text("Nominated Node", "The node where room is made for it.").wide(),
    Column::text("Readiness Gates", "Gates that are passed of all.").wide(),
];

/// What the containers come to.
#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

pub(super) fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let status = pod.get("status").unwrap_or(&Value::Null);
    let summary = summary(pod, spec, status);
    let sidecars = list(spec, "initContainers")
        .iter()
        .filter(|c| is_sidecar(c))
        .count();
    let total = list(spec, "containers").len() + sidecars;
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => {
            format!(
                "{} ({} ago)",
                summary.restarts,
                table::human(now.duration_since(last))
            )
        }
        _ => summary.restarts.to_string(),
    };
    vec![
        table::name(pod),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        restarts.into(),
        table::age(pod, now),
        table::or(
            list(status, "podIPs").first().map_or("", |ip| text(ip, "ip")),
            table::NONE,
        ),
        table::or(text(spec, "nodeName"), table::NONE),
        table::or(text(status, "nominatedNodeName"), table::NONE),
        gates(pod, spec).into(),
    ]
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

fn summary(pod: &Value, spec: &Value, status: &Value) -> Summary {
    let phase = text(status, "phase");
    let reason = match text(status, "reason") {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let mut out = Summary {
        reason,
        ..Summary::default()
    };
    let is_gated = |condition: &Value| {
        text(condition, "type") == "PodScheduled" && text(condition, "reason") == "SchedulingGated"
    };
    if list(status, "conditions").iter().any(is_gated) {
        out.reason = "SchedulingGated".to_owned();
    }
    let sidecars = init_containers(spec, status, &mut out);
    let initialized = table::condition(pod, "Initialized") == Some(true);
    match sidecars {
        // Not waiting for any init container.
        Ok(sidecars) => containers(pod, status, sidecars, &mut out),
        Err(sidecars) if initialized => containers(pod, status, sidecars, &mut out),
        Err(_) => {}
    }
    if meta::deletion_timestamp(pod).is_some() {
        if text(status, "reason") == "NodeLost" {
            out.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Failed" | "Succeeded") {
            out.reason = "Terminating".to_owned();
        }
    }
    out
}

/// How often, and when last, restartable init containers were restarted.
type Restarts = (i64, Option<Timestamp>);

/// Looks at init containers up to the first that is not done: `Err` if there is such a one.
fn init_containers(spec: &Value, status: &Value, out: &mut Summary) -> Result<Restarts, Restarts> {
    let all = list(spec, "initContainers");
    let mut sidecars: Restarts = (0, None);
    for (at, container) in list(status, "initContainerStatuses").iter().enumerate() {
        let count = int(container, "restartCount").unwrap_or(0);
        let finished = last_finished(container);
        let sidecar = all
            .iter()
            .any(|c| text(c, "name") == text(container, "name") && is_sidecar(c));
        out.restarts += count;
        out.last_restart = out.last_restart.max(finished);
        if sidecar {
            sidecars = (sidecars.0 + count, sidecars.1.max(finished));
        }
        let terminated = container.get_path(&["state", "terminated"]);
        if terminated.is_some_and(|t| int(t, "exitCode").unwrap_or(0) == 0) {
            continue;
        }
        if sidecar && flag(container, "started") {
            out.ready += usize::from(flag(container, "ready"));
            continue;
        }
        let waiting = text_at(container, &["state", "waiting", "reason"]);
        out.reason = match terminated {
            Some(terminated) => format!("Init:{}", exit_reason(terminated)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{at}/{}", all.len()),
        };
        return Err(sidecars);
    }
    Ok(sidecars)
}

fn containers(pod: &Value, status: &Value, sidecars: Restarts, out: &mut Summary) {
    (out.restarts, out.last_restart) = sidecars;
    let mut running = false;
    let mut failure = String::new();
    for container in list(status, "containerStatuses").iter().rev() {
        out.restarts += int(container, "restartCount").unwrap_or(0);
        out.last_restart = out.last_restart.max(last_finished(container));
        let waiting = text_at(container, &["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            waiting.clone_into(&mut out.reason);
        } else if let Some(terminated) = container.get_path(&["state", "terminated"]) {
            out.reason = exit_reason(terminated);
            if int(terminated, "exitCode").unwrap_or(0) != 0 {
                failure.clone_from(&out.reason);
            }
        } else if flag(container, "ready") && container.get_path(&["state", "running"]).is_some() {
            running = true;
            out.ready += 1;
        }
    }
    // Something still runs, or something failed: the pod is not done.
    if out.reason == "Completed" {
        if running && table::condition(pod, "Ready") == Some(true) {
            out.reason = "Running".to_owned();
        } else if !failure.is_empty() {
            out.reason = failure;
        } else if running {
            out.reason = "NotReady".to_owned();
        }
    }
}

fn exit_reason(terminated: &Value) -> String {
    match (text(terminated, "reason"), int(terminated, "signal").unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", int(terminated, "exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn last_finished(container: &Value) -> Option<Timestamp> {
    text_at(container, &["lastState", "terminated", "finishedAt"])
        .parse()
        .ok()
}

fn gates(pod: &Value, spec: &Value) -> String {
    let gates = list(spec, "readinessGates");
    if gates.is_empty() {
        return table::NONE.to_owned();
    }
    let conditions = list_at(pod, &["status", "conditions"]);
    let passed = |gate: &&Value| {
        let condition = conditions
            .iter()
            .find(|c| text(c, "type") == text(gate, "conditionType"));
        condition.is_some_and(|condition| text(condition, "status") == "True")
    };
    format!("{}/{}", gates.iter().filter(passed).count(), gates.len())
}
