//! Service.

pub mod addresses;
pub mod allocate;
mod cluster_ips;
mod columns;
pub mod families;
mod traffic;
mod validation;
mod warnings;

use crate::fields::{fill, fill_number, fill_text, list_mut, object_mut, same, text, text_at};
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource, keep};
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Map, Value};

pub(crate) struct Service;

/// Three hours.
const CLIENT_IP_AFFINITY_SECONDS: i64 = 10_800;

impl Strategy for Service {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            spec_defaults(spec);
        }
        if text_at(object, &["spec", "type"]) == "LoadBalancer"
            && let Some(balancer) = object.get_path_mut(&["status", "loadBalancer"])
        {
            for ingress in list_mut(balancer, "ingress") {
                if !text(ingress, "ip").is_empty()
                    && let Some(ingress) = ingress.as_object_mut()
                {
                    fill(ingress, "ipMode", "VIP");
                }
            }
        }
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["status", "loadBalancer"], Value::object());
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::service(object, None, &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        validation::update(new, old)
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        if name == "status" {
            Some(&Status)
        } else {
            default_subresource(name)
        }
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        drop_type_dependent_fields(new, old);
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        machinery::names::label_rule(name, prefix)
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn warnings_on_create(&self, _context: &Context<'_>, object: &Value) -> Vec<String> {
        warnings::warnings(object)
    }

    fn warnings_on_update(&self, _context: &Context<'_>, new: &Value, _old: &Value) -> Vec<String> {
        warnings::warnings(new)
    }

    fn columns(&self) -> &'static [Column] {
        &columns::COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        columns::row(object, now)
    }
}

fn spec_defaults(spec: &mut Value) {
    let Some(map) = spec.as_object_mut() else { return };
    fill_text(map, "sessionAffinity", "None");
    fill_text(map, "type", "ClusterIP");
    session_affinity(map);
    for port in list_mut(spec, "ports") {
        let number = port.get("port").cloned().unwrap_or(Value::Int(0));
        let Some(port) = port.as_object_mut() else {
            continue;
        };
        fill_text(port, "protocol", "TCP");
        let target = port.get("targetPort");
        if target.is_none_or(|target| target.is_empty() || *target == Value::Int(0)) {
            port.insert("targetPort", number);
        }
    }
    let external = externally_accessible(spec);
    let kind = text(spec, "type").to_owned();
    let Some(map) = spec.as_object_mut() else { return };
    if external {
        fill_text(map, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        fill(map, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(map, "allocateLoadBalancerNodePorts", true);
    }
}

fn session_affinity(spec: &mut Map) {
    match spec.get("sessionAffinity").and_then(Value::as_str) {
        Some("None") => {
            spec.remove("sessionAffinityConfig");
        }
        Some("ClientIP") => {
            let seconds = spec
                .get("sessionAffinityConfig")
                .and_then(|config| config.get_path(&["clientIP", "timeoutSeconds"]))
                .filter(|seconds| !seconds.is_null());
            if seconds.is_none() {
                let config = spec
                    .object_entry("sessionAffinityConfig")
                    .object_entry("clientIP");
                fill_number(config, "timeoutSeconds", CLIENT_IP_AFFINITY_SECONDS);
            }
        }
        _ => {}
    }
}

/// Reached from outside the cluster: by node ports, by a load balancer, or by external addresses.
pub(crate) fn externally_accessible(spec: &Value) -> bool {
    match text(spec, "type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !crate::fields::list(spec, "externalIPs").is_empty(),
        _ => false,
    }
}

/// Takes away what a change of type leaves without a meaning, if the client did not change it as well.
fn drop_type_dependent_fields(new: &mut Value, old: &Value) {
    let kind = |service: &Value| text_at(service, &["spec", "type"]).to_owned();
    let (new_kind, old_kind) = (kind(new), kind(old));
    let unchanged = |new: &Value, field| same(new, old, &["spec", field]);
    let mut gone: Vec<&'static str> = Vec::new();
    if old_kind != "ExternalName" && new_kind == "ExternalName" {
        if unchanged(new, "clusterIP") && unchanged(new, "clusterIPs") {
            gone.extend(["clusterIP", "clusterIPs"]);
        }
        gone.extend(
            ["ipFamilies", "ipFamilyPolicy"]
                .into_iter()
                .filter(|field| unchanged(new, field)),
        );
    }
    if addresses::needs_health_check_port(old)
        && !addresses::needs_health_check_port(new)
        && unchanged(new, "healthCheckNodePort")
    {
        gone.push("healthCheckNodePort");
    }
    if old_kind == "LoadBalancer" && new_kind != "LoadBalancer" {
        gone.extend(
            ["allocateLoadBalancerNodePorts", "loadBalancerClass"]
                .into_iter()
                .filter(|field| unchanged(new, field)),
        );
    }
    let accessible = |service: &Value| service.get("spec").is_some_and(externally_accessible);
    if accessible(old) && !accessible(new) && unchanged(new, "externalTrafficPolicy") {
        gone.push("externalTrafficPolicy");
    }
    let ports_dropped = addresses::needs_node_ports(old)
        && !addresses::needs_node_ports(new)
        && addresses::node_ports(new).all(|port| addresses::node_ports(old).any(|other| other == port));
    if let Some(spec) = object_mut(new, "spec") {
        for field in gone {
            spec.remove(field);
        }
    }
    if ports_dropped && let Some(spec) = new.get_mut("spec") {
        for port in list_mut(spec, "ports") {
            port.remove_path(&["nodePort"]);
        }
    }
    if new_kind != "LoadBalancer"
        && let Some(status) = new.get_mut("status")
    {
        status.set_path(&["loadBalancer"], Value::object());
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        validation::status(new, old)
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}
