//! What a pod asks for as a whole: its containers together or its largest init container, whichever is more, beside
//! the init containers that keep running; replaced by what the pod itself says; overhead on top.

use super::{Amounts, amounts};
use machinery::Value;
use std::collections::HashMap;

/// What is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Requests,
    Limits,
}

/// Where the numbers of a running pod come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// What was asked for.
    Spec,
    /// The most of what was asked, allocated and in force, while the pod is being resized; with overhead.
    Status,
}

impl Of {
    fn field(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Limits => "limits",
        }
    }
}

/// The pod's requests or limits.
pub fn total(pod: &Value, of: Of, from: From) -> Amounts {
    let statuses = match from {
        From::Status => statuses(pod),
        From::Spec => HashMap::new(),
    };
    let infeasible = from == From::Status && is_infeasible(pod);
    let of_container = |container: &Value| {
        let asked = amounts::read(container.get_path(&["resources", of.field()]));
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        let Some(status) = statuses.get(name) else {
            return asked;
        };
        let mut most = if infeasible { Amounts::new() } else { asked.clone() };
        let in_force = amounts::read(status.get_path(&["resources", of.field()]));
        amounts::raise(&mut most, &in_force);
        if of == Of::Requests {
            amounts::raise(&mut most, &amounts::read(status.get("allocatedResources")));
        }
        if most.is_empty() { asked } else { most }
    };
    let mut sum = Amounts::new();
    for container in containers(pod, "containers") {
        amounts::add(&mut sum, &of_container(container));
    }
    let (mut running, mut most) = (Amounts::new(), Amounts::new());
    for container in containers(pod, "initContainers") {
        let mut asked = of_container(container);
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            amounts::add(&mut sum, &asked);
            amounts::add(&mut running, &asked);
            asked = running.clone();
        } else {
            amounts::add(&mut asked, &running);
        }
        amounts::raise(&mut most, &asked);
    }
    amounts::raise(&mut sum, &most);
    for (name, amount) in amounts::read(pod.get_path(&["spec", "resources", of.field()])) {
        if is_pod_level(&name) {
            sum.insert(name, amount);
        }
    }
    if from == From::Status {
        for (name, amount) in amounts::read(pod.get_path(&["spec", "overhead"])) {
            let single = Amounts::from([(name.clone(), amount)]);
            // There is no limit to raise where none was set.
            if of == Of::Requests || sum.get(&name).is_some_and(|limit| !limit.is_zero()) {
                amounts::add(&mut sum, &single);
            }
        }
    }
    sum
}

/// Whether the pod as a whole says what it asks for.
pub fn has_pod_level(pod: &Value) -> bool {
    [Of::Requests, Of::Limits]
        .iter()
        .any(|of| amounts::names(pod.get_path(&["spec", "resources", of.field()])).any(is_pod_level))
}

/// The resources a pod as a whole can ask for.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

pub fn containers<'a>(pod: &'a Value, field: &str) -> &'a [Value] {
    pod.get_path(&["spec", field])
        .and_then(Value::as_array)
        .unwrap_or_default()
}

fn statuses(pod: &Value) -> HashMap<&str, &Value> {
    ["containerStatuses", "initContainerStatuses"]
        .iter()
        .filter_map(|field| pod.get_path(&["status", field])?.as_array())
        .flatten()
        .filter_map(|status| Some((status.get("name")?.as_str()?, status)))
        .collect()
}

fn is_infeasible(pod: &Value) -> bool {
    let conditions = pod
        .get_path(&["status", "conditions"])
        .and_then(Value::as_array)
        .unwrap_or_default();
    conditions.iter().any(|condition| {
        let text = |field: &str| condition.get(field).and_then(Value::as_str).unwrap_or_default();
        text("type") == "PodResizePending" && text("reason") == "Infeasible"
    })
}
