//! Validation of a running pod's change of resources.

use super::validation::whole;
use crate::At;
use crate::fields::{entries, list, list_at, text, text_at};
use crate::pod_spec::qos;
use machinery::field::ErrorList;
use machinery::{Value, meta};

/// Judges the change; only CPU and memory may.
pub(super) fn update(new: &Value, old: &Value) -> ErrorList {
    let root = At::new("");
    if meta::annotation(old, "kubernetes.io/config.mirror").is_some() {
        return vec![root.forbidden("static pods cannot be resized")];
    }
    if text_at(old, &["spec", "os", "name"]) == "windows" {
        return vec![root.forbidden("windows pods cannot be resized")];
    }
    let mut errors = ErrorList::new();
    whole(new, &mut errors);
    let (Some(new_spec), Some(old_spec)) = (new.get("spec"), old.get("spec")) else {
        return errors;
    };
    let at = At::new("spec");
    let class = text_at(new, &["status", "qosClass"]);
    if text_at(old, &["status", "qosClass"]) != qos::class(new_spec) {
        errors.push(at.invalid(class, "Pod QOS Class may not change as a result of resizing"));
    }
    if !node_can(old) {
        errors.push(at.forbidden("Pod running on node without support for resize"));
    }
    pod_level(new_spec, old_spec, &at, &mut errors);
    if !list_at(old, &["status", "nodeAllocatableResourceClaimStatuses"]).is_empty() {
        errors.push(at.forbidden("pods with node allocatable resource claims cannot be resized"));
    }
    if !same_containers(new_spec, old_spec, &at, &mut errors) {
        return errors;
    }
    for field in ["initContainers", "containers"] {
        let at = at.child(field);
        for (index, (new, old)) in list(new_spec, field)
            .iter()
            .zip(list(old_spec, field))
            .enumerate()
        {
            let at = at.index(index);
            removals(new, old, &at.child("resources"), "resource", &mut errors);
            if !without_compute(new).semantic_eq(&without_compute(old)) {
                errors.push(if field == "containers" {
                    At::new("spec").forbidden("only cpu and memory resources are mutable")
                } else {
                    at.forbidden("only cpu and memory resources for init or sidecar containers are mutable")
                });
            }
            let runs_once = field == "initContainers" && text(new, "restartPolicy") != "Always";
            if runs_once && !new.semantic_eq(old) {
                let policies = list(new, "resizePolicy").iter();
                for _ in policies.filter(|policy| text(policy, "restartPolicy") == "RestartContainer") {
                    let why = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
                    errors.push(at.forbidden(why));
                }
            }
        }
    }
    errors
}

fn same_containers(new: &Value, old: &Value, at: &At<'_>, errors: &mut ErrorList) -> bool {
    let before = errors.len();
    for field in ["containers", "initContainers"] {
        let at = at.child(field);
        let (news, olds) = (list(new, field), list(old, field));
        if news.len() != olds.len() {
            let kind = if field == "containers" {
                "containers"
            } else {
                "initContainers"
            };
            errors.push(at.forbidden(format!("{kind} may not be added or removed on resize")));
            continue;
        }
        for (index, (new, old)) in news.iter().zip(olds).enumerate() {
            if text(new, "name") != text(old, "name") {
                let at = at.index(index);
                let why = format!("{field} may not be renamed or reordered on resize");
                errors.push(at.child("name").forbidden(why));
            }
        }
    }
    errors.len() == before
}

/// A node that knows of resizing says what its running containers have.
fn node_can(pod: &Value) -> bool {
    let mut statuses = list_at(pod, &["status", "containerStatuses"]).iter();
    statuses
        .find(|status| status.get_path(&["state", "running"]).is_some())
        .is_none_or(|status| status.get("resources").is_some())
}

/// The pod's own resources, beside its containers'.
fn pod_level(new: &Value, old: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let at_resources = at.child("resources");
    match (new.get("resources"), old.get("resources")) {
        (None, Some(_)) => {
            errors.push(at_resources.forbidden("pod-level resources cannot be removed"));
            return;
        }
        (_, Some(_)) => removals(new, old, &at_resources, "pod-level resource", errors),
        (_, None) => {}
    }
    let rest = |spec: &Value| {
        without_compute(spec)
            .get("resources")
            .cloned()
            .unwrap_or_default()
    };
    if !rest(new).semantic_eq(&rest(old)) {
        errors.push(at.forbidden("only cpu and memory resources are mutable at pod-level"));
    }
}

/// What was requested or limited stays so.
fn removals(new: &Value, old: &Value, at: &At<'_>, what: &str, errors: &mut ErrorList) {
    for side in ["limits", "requests"] {
        let amounts = |container: &Value| {
            let all = container
                .get("resources")
                .map(|resources| entries(resources, side))
                .unwrap_or_default();
            all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let kept = amounts(new);
        // A memory limit may not vanish either, whatever the policy.
        if amounts(old).iter().any(|name| !kept.contains(name)) {
            errors.push(
                at.child(side)
                    .forbidden(format!("{what} {side} cannot be removed")),
            );
        }
    }
}

/// The container, or the pod's spec, without what may change.
fn without_compute(container: &Value) -> Value {
    let mut container = container.clone();
    for side in ["limits", "requests"] {
        for name in ["cpu", "memory"] {
            container.remove_path(&["resources", side, name]);
        }
        if container
            .get_path(&["resources", side])
            .is_some_and(Value::is_empty)
        {
            container.remove_path(&["resources", side]);
        }
    }
    container
}
