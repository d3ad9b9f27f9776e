//! A node's row.

use crate::fields::{flag, list, text, text_at};
use crate::strategy::Column;
use crate::table;
use jiff::Timestamp;
use machinery::{Value, meta};

pub(super) const COLUMNS: [Column; 10] = [
    Column::NAME,
    Column::text("Status", "How the node stands."),
    Column::text("Roles", "What the node is for."),
    Column::AGE,
    Column::text("Version", "Its kubelet's version."),
    Column::text("Internal-IP", "Its address in the cluster.").wide(),
    Column::text("External-IP", "Its address outside.").wide(),
    Column::text("OS-Image", "Its operating system.").wide(),
    Column::text("Kernel-Version", "Its kernel.").wide(),
    Column::text("Container-Runtime", "Its container runtime.").wide(),
];

pub(super) fn row(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = node.get_path(&["status", "nodeInfo"]).unwrap_or(&Value::Null);
    let mut kernel = text(info, "kernelVersion").to_owned();
    if kernel.is_empty() {
        table::UNKNOWN.clone_into(&mut kernel);
    }
    if !text(info, "architecture").is_empty() {
        kernel = format!("{kernel} ({})", text(info, "architecture"));
    }
    vec![
        table::name(node),
        status(node).into(),
        roles(node).into(),
        table::age(node, now),
        text(info, "kubeletVersion").into(),
        table::or(address(node, "InternalIP"), table::NONE),
        table::or(address(node, "ExternalIP"), table::NONE),
        table::or(text(info, "osImage"), table::UNKNOWN),
        kernel.into(),
        table::or(text(info, "containerRuntimeVersion"), table::UNKNOWN),
    ]
}

fn status(node: &Value) -> String {
    let mut status = match table::condition(node, "Ready") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.get("spec").is_some_and(|spec| flag(spec, "unschedulable")) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Value) -> String {
    let labels = meta::labels(node);
    let role = |(key, value): (&machinery::Key, &Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => Some(role.to_owned()),
        None if *key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
        None => None,
    };
    let mut roles: Vec<String> = labels
        .into_iter()
        .flat_map(|labels| labels.iter().filter_map(role))
        .collect();
    roles.retain(|role| !role.is_empty());
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        table::NONE.to_owned()
    } else {
        roles.join(",")
    }
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let status = node.get("status").unwrap_or(&Value::Null);
    let found = list(status, "addresses")
        .iter()
        .find(|address| text(address, "type") == kind);
    found.map_or("", |address| text_at(address, &["address"]))
}
