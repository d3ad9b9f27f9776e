//! The subresources that write a part of the pod.

use super::{prepare, resize, validation};
use crate::fields::{list, text};
use crate::strategy::{Context, Subresource, keep};
use machinery::field::ErrorList;
use machinery::{Key, Value, meta};

/// The subresource of a name, if Pod has one of its own.
pub(super) fn of(name: &str) -> Option<&'static dyn Subresource> {
    Some(match name {
        "status" => &Status,
        "ephemeralcontainers" => &EphemeralContainers,
        "resize" => &Resize,
        _ => return None,
    })
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        meta::set(new, "deletionTimestamp", Value::Null);
        // Old kubelets damage them.
        let owners = meta::metadata(old)
            .and_then(|m| m.get("ownerReferences"))
            .cloned()
            .unwrap_or_default();
        meta::set(new, "ownerReferences", owners);
        prepare::keep_observed(new, old);
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[
            &["f:spec"],
            &["f:metadata", "f:deletionTimestamp"],
            &["f:metadata", "f:ownerReferences"],
        ]
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        validation::status_update(new, old)
    }
}

struct EphemeralContainers;

impl Subresource for EphemeralContainers {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        let containers = new.get_path(&["spec", "ephemeralContainers"]).cloned();
        keep(new, old, "spec");
        keep(new, old, "status");
        reset_metadata(new, old);
        match containers {
            Some(containers) => new.set_path(&["spec", "ephemeralContainers"], containers),
            None => {
                new.remove_path(&["spec", "ephemeralContainers"]);
            }
        }
        prepare::count_changes(new, old);
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        validation::ephemeral_update(new, old)
    }
}

struct Resize;

impl Subresource for Resize {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        let count = |pod: &Value, field| pod.get("spec").map_or(0, |spec| list(spec, field).len());
        // What adds or removes a container is left for validation to refuse.
        if ["containers", "initContainers"]
            .iter()
            .any(|field| count(new, field) != count(old, field))
        {
            return;
        }
        let mut spec = old.get("spec").cloned().unwrap_or_default();
        let wanted = new.get("spec").unwrap_or(&Value::Null);
        for field in ["containers", "initContainers"] {
            let containers = resized(list(wanted, field), list(&spec, field));
            if !containers.is_empty() {
                spec.set_path(&[field], Value::Array(containers));
            }
        }
        copy(&mut spec, wanted, "resources");
        new.set_path(&["spec"], spec);
        keep(new, old, "status");
        reset_metadata(new, old);
        prepare::count_changes(new, old);
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        resize::update(new, old)
    }
}

/// The old containers with the new ones' resources; the new ones as they are when they are not the same ones.
fn resized(new: &[Value], old: &[Value]) -> Vec<Value> {
    if new
        .iter()
        .zip(old)
        .any(|(new, old)| text(new, "name") != text(old, "name"))
    {
        return new.to_vec();
    }
    let mut containers = old.to_vec();
    for (container, wanted) in containers.iter_mut().zip(new) {
        copy(container, wanted, "resources");
        copy(container, wanted, "resizePolicy");
    }
    containers
}

fn copy(to: &mut Value, from: &Value, field: &'static str) {
    let map = to.make_object();
    match from.get(field) {
        Some(value) => {
            map.insert(Key::from_static(field), value.clone());
        }
        None => {
            map.remove(field);
        }
    }
}

/// The metadata such a write leaves alone (upstream's `ResetObjectMetaForStatus`).
fn reset_metadata(new: &mut Value, old: &Value) {
    for field in [
        "deletionTimestamp",
        "generation",
        "selfLink",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
    ] {
        let value = meta::metadata(old)
            .and_then(|m| m.get(field))
            .cloned()
            .unwrap_or_default();
        meta::set(new, field, value);
    }
}
