//! What a Service needs allocated, by its type.

use crate::fields::{int, list_at, text_at};
use machinery::Value;

/// Has a cluster address, even if that is `None`.
pub fn needs_cluster_ip(service: &Value) -> bool {
    text_at(service, &["spec", "type"]) != "ExternalName"
}

/// Is of a type that has node ports.
pub fn needs_node_ports(service: &Value) -> bool {
    matches!(text_at(service, &["spec", "type"]), "NodePort" | "LoadBalancer")
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
