//! A Service's row.

use crate::fields::{entries, int, list, text, texts};
use crate::networking::addresses;
use crate::strategy::Column;
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(super) const COLUMNS: [Column; 7] = [
    Column::NAME,
    Column::text("Type", "How it is reached."),
    Column::text("Cluster-IP", "Its address in the cluster."),
    Column::text("External-IP", "Its addresses outside."),
    Column::text("Port(s)", "Its ports."),
    Column::AGE,
    Column::text("Selector", "Which pods are meant.").wide(),
];

pub(super) fn row(service: &Value, now: Timestamp) -> Vec<Value> {
    let spec = service.get("spec").unwrap_or(&Value::Null);
    let ports: Vec<String> = list(spec, "ports").iter().map(port).collect();
    vec![
        table::name(service),
        text(spec, "type").into(),
        table::or(texts(spec, "clusterIPs").next().unwrap_or_default(), table::NONE),
        external(service, spec).into(),
        table::or(&ports.join(","), table::NONE),
        table::age(service, now),
        table::labels(entries(spec, "selector")),
    ]
}

fn port(port: &Value) -> String {
    let (number, protocol) = (int(port, "port").unwrap_or(0), text(port, "protocol"));
    match int(port, "nodePort") {
        Some(node_port) if node_port > 0 => format!("{number}:{node_port}/{protocol}"),
        _ => format!("{number}/{protocol}"),
    }
}

fn external(service: &Value, spec: &Value) -> String {
    let given = table::join(texts(spec, "externalIPs"), ",");
    match text(spec, "type") {
        "ClusterIP" | "NodePort" if given.is_empty() => table::NONE.to_owned(),
        "ClusterIP" | "NodePort" => given,
        "LoadBalancer" => {
            let balancers = addresses(service);
            match (balancers.is_empty(), given.is_empty()) {
                (true, true) => "<pending>".to_owned(),
                (true, false) => given,
                (false, true) => balancers,
                (false, false) => format!("{balancers},{given}"),
            }
        }
        "ExternalName" => text(spec, "externalName").to_owned(),
        _ => table::UNKNOWN.to_owned(),
    }
}
