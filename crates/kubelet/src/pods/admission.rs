//! Whether a pod bound to this node can run here. Pure.
//!
//! Follows upstream's `lifecycle/predicate.go` and the scheduler's `AdmissionCheck`, with their reasons and
//! messages: resources, node affinity, node name, host ports, taints that evict.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

use crate::eviction::Pressure;
use crate::pod::{PodExt, is_terminal};
use crate::qos::{Class, class};
use crate::quantity::pod_requests;

/// Why not: reason and message of status and event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
    pub message: String,
}

/// The node as admission sees it.
pub struct Place<'a> {
    pub name: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    pub taints: &'a [Taint],
    /// Thousandths for CPU.
    pub allocatable: &'a BTreeMap<String, i64>,
}

impl<'a> Place<'a> {
    pub fn of(node: &'a Node, name: &'a str, allocatable: &'a BTreeMap<String, i64>) -> Self {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        Self {
            name,
            labels: node.metadata.labels.as_ref().unwrap_or(&NONE),
            taints: node
                .spec
                .as_ref()
                .and_then(|s| s.taints.as_deref())
                .unwrap_or_default(),
            allocatable,
        }
    }
}

/// `others`: the pods that are here and have not ended.
pub fn check<'a>(pod: &Pod, place: &Place<'_>, others: impl Iterator<Item = &'a Pod>) -> Result<(), Refusal> {
    if pod.spec().os.as_ref().is_some_and(|os| os.name != "linux") {
        return refuse(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        );
    }
    if pod
        .metadata
        .labels
        .iter()
        .flatten()
        .any(|(k, v)| k == "kubernetes.io/os" && v != "linux")
    {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return refuse("PodOSSelectorNodeLabelDoesNotMatch", message);
    }
    let others: Vec<&Pod> = others
        .filter(|p| p.uid() != pod.uid() && !is_terminal(p.phase()))
        .collect();
    fits(pod, place, &others)?;
    let predicate = |name: &str, why: &str| refuse(name, &format!("Predicate {name} failed: {why}"));
    if !matches_affinity(pod, place) {
        return predicate(
            "NodeAffinity",
            "node(s) didn't match Pod's node affinity/selector",
        );
    }
    if pod
        .spec()
        .node_name
        .as_deref()
        .is_some_and(|n| !n.is_empty() && n != place.name)
    {
        return predicate("NodeName", "node(s) didn't match the requested node name");
    }
    if ports_conflict(pod, &others) {
        return predicate(
            "NodePorts",
            "node(s) didn't have free ports for the requested pod ports",
        );
    }
    let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
    let evicts = |t: &&Taint| {
        t.effect == "NoExecute" && !tolerations.iter().any(|toleration| tolerates(toleration, t))
    };
    if !pod.is_static() && place.taints.iter().any(|t| evicts(&t)) {
        return predicate(
            "TaintToleration",
            "node(s) had taints that the pod didn't tolerate",
        );
    }
    Ok(())
}

/// Only whether the resources suffice, for a pod that is here and asks for others.
pub fn check_resources<'a>(
    pod: &Pod,
    place: &Place<'_>,
    others: impl Iterator<Item = &'a Pod>,
) -> Result<(), Refusal> {
    let others: Vec<&Pod> = others
        .filter(|p| p.uid() != pod.uid() && !is_terminal(p.phase()))
        .collect();
    fits(pod, place, &others)
}

/// Whether a pod may come while the node is short of something. Follows upstream's eviction manager.
pub fn check_pressures(pod: &Pod, pressures: &BTreeSet<Pressure>) -> Result<(), Refusal> {
    if pressures.is_empty() || crate::eviction::is_critical(pod) {
        return Ok(());
    }
    if pressures.len() == 1 && pressures.contains(&Pressure::Memory) {
        let taint = Taint {
            key: "node.kubernetes.io/memory-pressure".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
        if class(pod) != Class::BestEffort || tolerations.iter().any(|t| tolerates(t, &taint)) {
            return Ok(());
        }
    }
    let names: Vec<&str> = pressures.iter().map(|p| p.condition()).collect();
    refuse(
        crate::eviction::REASON,
        &format!("The node had condition: [{}]. ", names.join(" ")),
    )
}

fn refuse(reason: &str, message: &str) -> Result<(), Refusal> {
    Err(Refusal {
        reason: reason.to_owned(),
        message: message.to_owned(),
    })
}

fn fits(pod: &Pod, place: &Place<'_>, others: &[&Pod]) -> Result<(), Refusal> {
    let short = |resource: &str, requested: i64, used: i64, capacity: i64| {
        let message = format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        refuse(&format!("OutOf{resource}"), &message)
    };
    let capacity = |name: &str| place.allocatable.get(name).copied().unwrap_or(0);
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count + 1 > capacity("pods") {
        return short("pods", 1, count, capacity("pods"));
    }
    let requested = pod_requests(pod);
    let mut used: BTreeMap<String, i64> = BTreeMap::new();
    for other in others {
        for (name, value) in pod_requests(other) {
            *used.entry(name).or_default() += value;
        }
    }
    let ordered = ["cpu", "memory", "ephemeral-storage"];
    let rest = requested
        .keys()
        .map(String::as_str)
        .filter(|n| !ordered.contains(n));
    for name in ordered.into_iter().chain(rest) {
        let wanted = requested.get(name).copied().unwrap_or(0);
        // What the node has never heard of was the scheduler's to refuse.
        if wanted == 0 || (!ordered.contains(&name) && !place.allocatable.contains_key(name)) {
            continue;
        }
        let used = used.get(name).copied().unwrap_or(0);
        if wanted > capacity(name) - used {
            return short(name, wanted, used, capacity(name));
        }
    }
    Ok(())
}

fn matches_affinity(pod: &Pod, place: &Place<'_>) -> bool {
    let selector = pod
        .spec()
        .node_selector
        .iter()
        .flatten()
        .all(|(k, v)| place.labels.get(k) == Some(v));
    let required = pod
        .spec()
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
    selector
        && required.is_none_or(|r| {
            r.node_selector_terms
                .iter()
                .any(|term| matches_term(term, place.labels, place.name))
        })
}

/// Whether a node of these labels and this name is meant.
pub fn matches_term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = name.to_owned();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| matches(r, labels.get(&r.key)))
        && fields
            .iter()
            .all(|r| r.key == "metadata.name" && matches(r, Some(&name)))
}

fn matches(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => value.is_none_or(|v| !values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(a, b)| a > b),
        "Lt" => numbers().is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

/// Host address, protocol and port of every host port.
fn host_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let containers = pod
        .init_containers()
        .iter()
        .filter(|c| crate::pod::is_sidecar(c))
        .chain(pod.containers());
    containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let ip = p
                .host_ip
                .clone()
                .filter(|ip| !ip.is_empty())
                .unwrap_or_else(|| "0.0.0.0".to_owned());
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some((ip, protocol, p.host_port.filter(|port| *port > 0)?))
        })
        .collect()
}

fn ports_conflict(pod: &Pod, others: &[&Pod]) -> bool {
    let wanted = host_ports(pod);
    let taken: Vec<_> = others.iter().flat_map(|p| host_ports(p)).collect();
    wanted.iter().any(|(ip, protocol, port)| {
        taken.iter().any(|(other_ip, other_protocol, other_port)| {
            let overlap = ip == other_ip || ip == "0.0.0.0" || other_ip == "0.0.0.0";
            port == other_port && protocol == other_protocol && overlap
        })
    })
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (effect, key, value) = (
        text(&toleration.effect),
        text(&toleration.key),
        text(&toleration.value),
    );
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "" | "Equal" => !key.is_empty() && value == text(&taint.value),
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(uid: &str, spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": spec})).unwrap()
    }

    #[test]
    fn refusals() {
        let requests =
            |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        let ports = |ip: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": ip}]}]});
        let empty = || json!({"containers": []});
        let with = |key: &str, value: Value| {
            let mut spec = empty();
            spec[key] = value;
            spec
        };
        let others = [pod("1", requests("500m")), pod("2", ports("10.0.0.1"))];
        let affinity = |operator: &str, values: Value| {
            with(
                "affinity",
                json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]}]}}}),
            )
        };
        let cpu = "Node didn't have enough resource: cpu, requested: 600, used: 500, capacity: 1000";
        let cases = [
            (requests("500m"), None),
            (requests("600m"), Some(("OutOfcpu", cpu))),
            (with("nodeSelector", json!({"zone": "a"})), None),
            (
                with("nodeSelector", json!({"zone": "b"})),
                Some((
                    "NodeAffinity",
                    "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
                )),
            ),
            (affinity("In", json!(["a", "b"])), None),
            (affinity("NotIn", json!(["a"])), Some(("NodeAffinity", ""))),
            (with("nodeName", json!("other")), Some(("NodeName", ""))),
            (ports("10.0.0.2"), None),
            (ports("10.0.0.1"), Some(("NodePorts", ""))),
            (ports(""), Some(("NodePorts", ""))),
            (
                with("os", json!({"name": "windows"})),
                Some(("PodOSNotSupported", "")),
            ),
        ];
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let allocatable = BTreeMap::from([("cpu".to_owned(), 1000), ("pods".to_owned(), 3)]);
        let mut place = Place {
            name: "node",
            labels: &labels,
            taints: &[],
            allocatable: &allocatable,
        };
        for (spec, expected) in cases {
            let found = check(&pod("new", spec.clone()), &place, others.iter()).err();
            assert_eq!(
                found.as_ref().map(|r| r.reason.as_str()),
                expected.map(|(reason, _)| reason),
                "{spec}"
            );
            if let (Some(found), Some((_, message))) = (found, expected)
                && !message.is_empty()
            {
                assert_eq!(found.message, message);
            }
        }
        let few = BTreeMap::from([("pods".to_owned(), 2)]);
        place.allocatable = &few;
        assert_eq!(
            check(&pod("new", empty()), &place, others.iter())
                .unwrap_err()
                .reason,
            "OutOfpods"
        );
        let taints = [Taint {
            key: "k".into(),
            effect: "NoExecute".into(),
            ..Taint::default()
        }];
        place.allocatable = &allocatable;
        place.taints = &taints;
        assert_eq!(
            check(&pod("new", empty()), &place, others.iter())
                .unwrap_err()
                .reason,
            "TaintToleration"
        );
        let tolerating = with("tolerations", json!([{"operator": "Exists"}]));
        assert_eq!(check(&pod("new", tolerating), &place, others.iter()), Ok(()));
    }
}
