//! Pod.

mod columns;
mod prepare;
mod resize;
mod subresources;
mod transitions;
mod validation;

use crate::At;
use crate::KindInfo;
use crate::fields::{fill, flag, list, list_mut, text, text_at};
use crate::pod_spec::warnings::{Of, warnings as pod_warnings};
use crate::pod_spec::{self, pod_level, resources};
use crate::strategy::{Column, Context, Grace, Strategy, Subresource, default_subresource, keep};
use compact_str::CompactString;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, meta};

pub(crate) struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            pod_spec::pod_spec(spec);
            pod_only(spec);
        }
        pod_ips_of(object);
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        pod_spec::drop_disabled(object, None, &["spec"]);
        prepare::for_create(object);
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        validation::create(object)
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        validation::update(new, old)
    }

    fn warnings_on_create(&self, _context: &Context<'_>, object: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        let wrong = machinery::names::dns1123_label(meta::name(object));
        if !wrong.is_empty() {
            warnings.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS \
                 label is recommended: [{}]",
                wrong.join(" ")
            ));
        }
        warnings.extend(pod_warnings(object, Of::Pod, &At::new("")));
        warnings
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        pod_spec::drop_disabled(new, Some(old), &["spec"]);
        prepare::count_changes(new, old);
    }

    /// Admission may have changed the account.
    fn canonicalize(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else {
            return;
        };
        if text(spec, "serviceAccountName") != text(spec, "serviceAccount") {
            let name = Value::from(text(spec, "serviceAccountName"));
            spec.set_path(&["serviceAccount"], name);
        }
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ]
    }

    fn select(&self, object: &Value) -> Vec<CompactString> {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let status = object.get("status").unwrap_or(&Value::Null);
        vec![
            text(spec, "nodeName").into(),
            text(spec, "restartPolicy").into(),
            text(spec, "schedulerName").into(),
            text(spec, "serviceAccountName").into(),
            CompactString::const_new(if flag(spec, "hostNetwork") {
                "true"
            } else {
                "false"
            }),
            text(status, "phase").into(),
            text(status, "podIP").into(),
            text(status, "nominatedNodeName").into(),
        ]
    }

    /// As long as asked, or as the pod's spec says; at once when no kubelet has a part in it.
    fn graceful_deletion(&self, _context: &Context<'_>, object: &Value, grace: &Grace) -> Option<i64> {
        let own = || {
            object
                .get_path(&["spec", "terminationGracePeriodSeconds"])
                .and_then(Value::as_i64)
        };
        let seconds = grace.seconds.or_else(own).unwrap_or(0);
        let unscheduled = text_at(object, &["spec", "nodeName"]).is_empty();
        let finished = matches!(text_at(object, &["status", "phase"]), "Failed" | "Succeeded");
        Some(match seconds {
            _ if unscheduled || finished => 0,
            seconds if seconds < 0 => 1,
            seconds => seconds,
        })
    }

    fn is_graceful(&self) -> bool {
        true
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        subresources::of(name).or_else(|| default_subresource(name))
    }

    fn columns(&self) -> &'static [Column] {
        &columns::COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        columns::row(object, now)
    }
}

/// Defaults that templates do not get, so that they show only in the pods made of them.
fn pod_only(spec: &mut Value) {
    for field in ["containers", "initContainers"] {
        for container in list_mut(spec, field) {
            resources::request_limits(container.get_mut("resources"));
        }
    }
    pod_level::fill_resources(spec);
    let host_network = flag(spec, "hostNetwork");
    if let Some(map) = spec.as_object_mut() {
        fill(map, "enableServiceLinks", true);
    }
    if !host_network {
        return;
    }
    for field in ["containers", "initContainers"] {
        for port in list_mut(spec, field)
            .iter_mut()
            .flat_map(|container| list_mut(container, "ports"))
        {
            let number = port.get("containerPort").cloned();
            if let (Some(port), Some(number)) = (port.as_object_mut(), number)
                && port
                    .get("hostPort")
                    .is_none_or(|host| *host == Value::Int(0) || host.is_null())
            {
                port.insert("hostPort", number);
            }
        }
    }
}

fn pod_ips_of(pod: &mut Value) {
    if let Some(status) = pod.get_mut("status") {
        pod_ips(status);
    }
}

/// `podIP` is the first of `podIPs`; whoever writes only one of them writes both.
fn pod_ips(status: &mut Value) {
    let one = text(status, "podIP");
    let first = list(status, "podIPs").first().map_or("", |ip| text(ip, "ip"));
    if one == first {
        return;
    }
    if one.is_empty() {
        let first = Value::from(first);
        status.set_path(&["podIP"], first);
    } else {
        let mut ip = Value::object();
        ip.set_path(&["ip"], one);
        if let Value::Object(status) = status {
            status.insert("podIPs", Value::Array(vec![ip]));
        }
    }
}
