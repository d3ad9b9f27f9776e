//! Defaults of a pod's spec and its containers, by upstream's `SetDefaults_PodSpec` and its kin.
//!
//! **Invariant:** what only a Pod gets, and no template, is `core::pod`'s: a default added here changes every
//! workload's template and rolls it out anew.

use super::{image, resources, volume_defaults};
use crate::fields::{fill, fill_number, fill_object, fill_text, list_mut, text};
use machinery::{Map, Value};

/// Fills a pod template's spec.
pub fn pod_template(template: Option<&mut Value>) {
    if let Some(spec) = template.and_then(|template| template.get_mut("spec")) {
        pod_spec(spec);
    }
}

/// Fills a pod's spec.
pub fn pod_spec(spec: &mut Value) {
    let Some(map) = spec.as_object_mut() else { return };
    fill_text(map, "dnsPolicy", "ClusterFirst");
    fill_text(map, "restartPolicy", "Always");
    fill(map, "securityContext", Map::new());
    fill(map, "terminationGracePeriodSeconds", 30);
    fill_text(map, "schedulerName", "default-scheduler");
    // Older clients read the account's name here; upstream always writes both.
    match (map.get("serviceAccountName"), map.get("serviceAccount")) {
        (Some(name), old) if !name.is_empty() && old != Some(name) => {
            let name = name.clone();
            map.insert("serviceAccount", name);
        }
        (None, Some(old)) if !old.is_empty() => {
            let old = old.clone();
            map.insert("serviceAccountName", old);
        }
        _ => {}
    }
    resources::round(map.get_mut("overhead"));
    resources::round_requirements(map.get_mut("resources"));
    for volume in list_mut(spec, "volumes") {
        volume_defaults::volume(volume);
    }
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for one in list_mut(spec, field) {
            container(one);
        }
    }
}

fn container(container: &mut Value) {
    let policy = image::pull_policy(text(container, "image"));
    let Some(map) = container.as_object_mut() else {
        return;
    };
    fill_text(map, "imagePullPolicy", policy);
    fill_text(map, "terminationMessagePath", "/dev/termination-log");
    fill_text(map, "terminationMessagePolicy", "File");
    resources::round_requirements(map.get_mut("resources"));
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(one) = map.get_mut(field).and_then(Value::as_object_mut) {
            probe(one);
        }
    }
    if let Some(lifecycle) = map.get_mut("lifecycle") {
        for hook in ["postStart", "preStop"] {
            http_get(lifecycle.get_mut(hook).and_then(|hook| hook.get_mut("httpGet")));
        }
    }
    for port in list_mut(container, "ports") {
        if let Some(port) = port.as_object_mut() {
            fill_text(port, "protocol", "TCP");
        }
    }
    for variable in list_mut(container, "env") {
        let Some(from) = variable.get_mut("valueFrom") else {
            continue;
        };
        if let Some(field) = from.get_mut("fieldRef").and_then(Value::as_object_mut) {
            fill_text(field, "apiVersion", "v1");
        }
        if let Some(file) = from.get_mut("fileKeyRef").and_then(Value::as_object_mut) {
            fill(file, "optional", false);
        }
    }
}

fn probe(probe: &mut Map) {
    fill_number(probe, "timeoutSeconds", 1);
    fill_number(probe, "periodSeconds", 10);
    fill_number(probe, "successThreshold", 1);
    fill_number(probe, "failureThreshold", 3);
    http_get(probe.get_mut("httpGet"));
    if probe.get("grpc").is_some_and(|grpc| !grpc.is_null()) {
        fill(fill_object(probe, "grpc"), "service", "");
    }
}

fn http_get(action: Option<&mut Value>) {
    if let Some(action) = action.and_then(Value::as_object_mut) {
        fill_text(action, "path", "/");
        fill_text(action, "scheme", "HTTP");
    }
}
