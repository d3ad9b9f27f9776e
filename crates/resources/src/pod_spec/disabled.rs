//! Fields of a pod's spec whose features are off by default in this version: dropped, unless the object had one
//! already.

use crate::fields::{list, list_mut, present};
use machinery::Value;

/// Where most workloads have their template's spec.
pub const TEMPLATE: [&str; 3] = ["spec", "template", "spec"];

const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
const SOURCES: [&str; 2] = ["clusterTrustBundle", "podCertificate"];

/// Drops what is off from the spec at a path; `old` is the object before, if there was one.
pub fn drop_disabled(object: &mut Value, old: Option<&Value>, path: &[&str]) {
    let old = old.and_then(|old| old.get_path(path)).unwrap_or(&Value::Null);
    let Some(spec) = object.get_path_mut(path) else {
        return;
    };
    if present(spec, "schedulingGroup").is_some() && present(old, "schedulingGroup").is_none() {
        spec.remove_path(&["schedulingGroup"]);
    }
    for field in CONTAINERS {
        for container in list_mut(spec, field) {
            if stop_signal(container).is_some() && !uses_stop_signal(old) {
                container.remove_path(&["lifecycle", "stopSignal"]);
                if container.get("lifecycle").is_some_and(Value::is_empty) {
                    container.remove_path(&["lifecycle"]);
                }
            }
        }
    }
    for volume in list_mut(spec, "volumes") {
        let Some(projected) = volume.get_mut("projected") else {
            continue;
        };
        for source in list_mut(projected, "sources") {
            for kind in SOURCES {
                if present(source, kind).is_some() && !projects(old, kind) {
                    source.remove_path(&[kind]);
                }
            }
        }
    }
}

fn stop_signal(container: &Value) -> Option<&Value> {
    container
        .get_path(&["lifecycle", "stopSignal"])
        .filter(|signal| !signal.is_null())
}

fn uses_stop_signal(spec: &Value) -> bool {
    let mut all = CONTAINERS.iter().flat_map(|field| list(spec, field));
    all.any(|container| stop_signal(container).is_some())
}

fn projects(spec: &Value, kind: &str) -> bool {
    list(spec, "volumes")
        .iter()
        .filter_map(|volume| volume.get("projected"))
        .flat_map(|projected| list(projected, "sources"))
        .any(|source| present(source, kind).is_some())
}
