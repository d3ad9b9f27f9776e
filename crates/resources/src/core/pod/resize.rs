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
            let init_done = field == "initContainers" && text(old, "restartPolicy") != "Always";
            if !init_done {
                removals(new, old, &at.child("resources"), &mut errors);
            }
            if init_done && !new.semantic_eq(old) {
                let why = "resources for non-sidecar init containers are immutable";
                errors.push(At::new("spec").forbidden(why));
            } else if !without_compute(new).semantic_eq(&without_compute(old)) {
                errors.push(if field == "containers" {
                    At::new("spec").forbidden("only cpu and memory resources are mutable")
                } else {
                    at.forbidden("only cpu and memory resources for init or sidecar containers are mutable")
                });
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

/// What was requested or limited stays so.
fn removals(new: &Value, old: &Value, at: &At<'_>, errors: &mut ErrorList) {
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
                    .forbidden(format!("resource {side} cannot be removed")),
            );
        }
    }
}

/// The container without what may change.
fn without_compute(container: &Value) -> Value {
    let mut container = container.clone();
    for side in ["limits", "requests"] {
        for name in ["cpu", "memory"] {
            container.remove_path(&["resources", side, name]);
        }
    }
    container.remove_path(&["resizePolicy"]);
    container
}
