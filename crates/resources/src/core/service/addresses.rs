//! What a Service holds and needs of addresses and node ports, by its type, and the fields that follow from one
//! another: `clusterIP` is the first of `clusterIPs`, and a client need not repeat what it was given.

use crate::fields::{int, int_at, list_at, same, text, text_at};
use machinery::{Key, Value};
use std::net::IpAddr;

/// A headless Service's address.
pub const NONE: &str = "None";

/// Has a cluster address, even if that is `None`.
pub fn needs_cluster_ip(service: &Value) -> bool {
    text_at(service, &["spec", "type"]) != "ExternalName"
}

/// Its first address is `None`.
pub fn is_headless(service: &Value) -> bool {
    list_at(service, &["spec", "clusterIPs"])
        .first()
        .and_then(Value::as_str)
        == Some(NONE)
}

/// Is of a type that has node ports.
pub fn needs_node_ports(service: &Value) -> bool {
    matches!(text_at(service, &["spec", "type"]), "NodePort" | "LoadBalancer")
}

/// Wants node ports that it did not name.
pub fn allocates_node_ports(service: &Value) -> bool {
    match text_at(service, &["spec", "type"]) {
        "NodePort" => true,
        "LoadBalancer" => {
            service.get_path(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false))
        }
        _ => false,
    }
}

/// Has a port on every node where its health is told.
pub fn needs_health_check_port(service: &Value) -> bool {
    text_at(service, &["spec", "type"]) == "LoadBalancer"
        && text_at(service, &["spec", "externalTrafficPolicy"]) == "Local"
}

/// The node ports of its ports, those that are set.
pub fn node_ports(service: &Value) -> impl Iterator<Item = i64> {
    list_at(service, &["spec", "ports"])
        .iter()
        .filter_map(|port| int(port, "nodePort"))
        .filter(|port| *port != 0)
}

/// The cluster addresses it holds.
pub fn held_ips(service: &Value) -> Vec<IpAddr> {
    if !needs_cluster_ip(service) || is_headless(service) {
        return Vec::new();
    }
    let held = list_at(service, &["spec", "clusterIPs"])
        .iter()
        .filter_map(Value::as_str);
    let mut held: Vec<IpAddr> = held.filter_map(|ip| ip.parse().ok()).collect();
    if held.is_empty() {
        held.extend(text_at(service, &["spec", "clusterIP"]).parse::<IpAddr>());
    }
    held
}

/// The node ports it holds, its health check's among them.
pub fn held_ports(service: &Value) -> Vec<i64> {
    let mut held: Vec<i64> = if needs_node_ports(service) {
        node_ports(service).collect()
    } else {
        Vec::new()
    };
    if needs_health_check_port(service) {
        held.extend(int_at(service, &["spec", "healthCheckNodePort"]).filter(|port| *port != 0));
    }
    held
}

/// Gives back to a changed Service what was allocated for it, where the client left it out.
pub fn keep_allocated(new: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        for field in ["clusterIP", "clusterIPs"] {
            let before = old.get_path(&["spec", field]).filter(|value| !value.is_empty());
            if new.get_path(&["spec", field]).is_none_or(Value::is_empty)
                && let Some(before) = before
            {
                new.set_path(&["spec", field], before.clone());
            }
        }
    }
    if allocates_node_ports(old) && allocates_node_ports(new) {
        keep_node_ports(new, old);
    }
    const HEALTH: [&str; 2] = ["spec", "healthCheckNodePort"];
    if needs_health_check_port(old)
        && needs_health_check_port(new)
        && int_at(new, &HEALTH).unwrap_or(0) == 0
        && let Some(port) = int_at(old, &HEALTH)
    {
        new.set_path(&HEALTH, port);
    }
}

/// Ports are matched up by their names; one that is used for another port already is not given again.
fn keep_node_ports(new: &mut Value, old: &Value) {
    let used: Vec<i64> = node_ports(old)
        .filter(|port| node_ports(new).any(|other| other == *port))
        .collect();
    let before: Vec<(String, i64)> = list_at(old, &["spec", "ports"])
        .iter()
        .map(|port| (text(port, "name").to_owned(), int(port, "nodePort").unwrap_or(0)))
        .collect();
    let ports = new.get_path_mut(&["spec", "ports"]).and_then(Value::as_array_mut);
    for port in ports
        .into_iter()
        .flatten()
        .filter(|port| int(port, "nodePort").unwrap_or(0) == 0)
    {
        let was = before.iter().rev().find(|(name, _)| name == text(port, "name"));
        if let Some((_, number)) = was.filter(|(_, number)| *number != 0 && !used.contains(number)) {
            port.set_path(&["nodePort"], *number);
        }
    }
}

/// Brings `clusterIPs` in line with `clusterIP` for clients that know only the latter.
pub fn sync_cluster_ips(new: &mut Value, old: Option<&Value>) {
    let one = text_at(new, &["spec", "clusterIP"]).to_owned();
    let count = list_at(new, &["spec", "clusterIPs"]).len();
    let Some(old) = old else {
        if !one.is_empty() && count == 0 {
            set_ips(new, vec![one.into()]);
        }
        return;
    };
    let before = text_at(old, &["spec", "clusterIP"]);
    if count == 0 && before == one {
        let kept = list_at(old, &["spec", "clusterIPs"]).to_vec();
        if !kept.is_empty() {
            set_ips(new, kept);
        }
    }
    if before != one && same(new, old, &["spec", "clusterIPs"]) {
        set_ips(
            new,
            if one.is_empty() {
                Vec::new()
            } else {
                vec![one.into()]
            },
        );
    }
}

/// Sets `clusterIPs`, or takes them away.
pub(super) fn set_ips(service: &mut Value, ips: Vec<Value>) {
    let spec = service.make_object().object_entry("spec");
    if ips.is_empty() {
        spec.remove("clusterIPs");
    } else {
        spec.insert(Key::from_static("clusterIPs"), ips);
    }
}

/// Whether its selector is empty: somebody else makes its endpoints.
pub(super) fn is_selectorless(service: &Value) -> bool {
    service
        .get_path(&["spec", "selector"])
        .is_none_or(Value::is_empty)
}

/// The client's word on how many families it wants.
pub(super) fn family_policy(service: &Value) -> &str {
    text_at(service, &["spec", "ipFamilyPolicy"])
}
