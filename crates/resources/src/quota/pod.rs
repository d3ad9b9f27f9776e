//! Pods: counted, and what they ask for while they run.

use super::pod_resources::{self, From, Of, containers};
use super::{Amounts, Evaluator, Scope, amounts};
use jiff::Timestamp;
use machinery::{Value, meta};
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 11] = [
    "count/pods",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "pods",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
/// What every container must say if a quota counts it.
const DEMANDED: [&str; 6] = [
    "cpu",
    "limits.cpu",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.memory",
];
const HUGE_PAGES: &str = "hugepages-";
const REQUESTS: &str = "requests.";

pub(super) struct Pods;

impl Evaluator for Pods {
    fn handles_update(&self, subresource: &str, new: &Value, old: &Value) -> bool {
        match subresource {
            "" => is_terminating(new) != is_terminating(old),
            "resize" => true,
            _ => false,
        }
    }

    fn charges(&self, name: &str) -> bool {
        let requested = name.strip_prefix(REQUESTS);
        NAMES.contains(&name)
            || requested.unwrap_or(name).starts_with(HUGE_PAGES)
            || requested.is_some_and(|_| !is_native(name))
            || requested.is_some_and(|name| name.starts_with("deviceclass.resource.kubernetes.io/"))
    }

    fn in_scope(&self, scope: &Scope<'_>, pod: &Value) -> bool {
        match scope.name {
            "Terminating" => is_terminating(pod),
            "NotTerminating" => !is_terminating(pod),
            "BestEffort" => is_best_effort(pod),
            "NotBestEffort" => !is_best_effort(pod),
            "PriorityClass" => {
                let class = pod
                    .get_str_path(&["spec", "priorityClassName"])
                    .unwrap_or_default();
                scope.selects(if class.is_empty() {
                    &[]
                } else {
                    std::slice::from_ref(&class)
                })
            }
            "CrossNamespacePodAffinity" => crosses_namespaces(pod),
            _ => false,
        }
    }

    fn constraints(&self, required: &[&str], pod: &Value) -> Result<(), String> {
        if pod_resources::has_pod_level(pod) {
            return Ok(());
        }
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for field in ["containers", "initContainers"] {
            for container in containers(pod, field) {
                let list = |of| amounts::read(container.get_path(&["resources", of]));
                let said = by_quota_name(&list("requests"), &list("limits"));
                let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
                for demanded in required.iter().filter(|name| DEMANDED.contains(name)) {
                    if !said.contains_key(*demanded) {
                        missing.entry(demanded).or_default().insert(name);
                    }
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let parts: Vec<String> = missing
            .iter()
            .map(|(name, of)| {
                let of: Vec<&str> = of.iter().copied().collect();
                format!("{name} for: {}", of.join(","))
            })
            .collect();
        Err(format!("must specify {}", parts.join("; ")))
    }

    fn usage(&self, pod: &Value, now: Timestamp) -> Amounts {
        let mut used = Amounts::from([(NAMES[0].to_owned(), amounts::count(1))]);
        if !has_ended(pod, now) {
            let requests = pod_resources::total(pod, Of::Requests, From::Status);
            let limits = pod_resources::total(pod, Of::Limits, From::Status);
            used.extend(by_quota_name(&requests, &limits));
        }
        used
    }
}

/// Requests and limits under the names quotas have for them.
fn by_quota_name(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::from([("pods".to_owned(), amounts::count(1))]);
    for (name, amount) in requests {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                used.insert(name.clone(), *amount);
                used.insert(format!("{REQUESTS}{name}"), *amount);
            }
            _ if name.starts_with(HUGE_PAGES) => {
                used.insert(name.clone(), *amount);
                used.insert(format!("{REQUESTS}{name}"), *amount);
            }
            _ if !is_native(name) => {
                used.insert(format!("{REQUESTS}{name}"), *amount);
            }
            _ => {}
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            used.insert(format!("limits.{name}"), *amount);
        }
    }
    used
}

/// Resources Kubernetes itself defines, as opposed to extended ones.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_terminating(pod: &Value) -> bool {
    pod.get_path(&["spec", "activeDeadlineSeconds"])
        .and_then(Value::as_i64)
        .is_some_and(|seconds| seconds >= 0)
}

/// Nobody in the pod asks for CPU or memory.
fn is_best_effort(pod: &Value) -> bool {
    if let Some(class) = pod
        .get_str_path(&["status", "qosClass"])
        .filter(|class| !class.is_empty())
    {
        return class == "BestEffort";
    }
    let asks = |of: &Value| {
        ["requests", "limits"].iter().any(|field| {
            amounts::read(of.get_path(&["resources", field]))
                .iter()
                .any(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && !amount.is_zero())
        })
    };
    !pod.get("spec").is_some_and(asks)
        && ["containers", "initContainers"]
            .iter()
            .all(|field| !containers(pod, field).iter().any(asks))
}

/// Ended, or overdue on its way out: such a pod uses nothing any more.
fn has_ended(pod: &Value, now: Timestamp) -> bool {
    if matches!(
        pod.get_str_path(&["status", "phase"]),
        Some("Failed" | "Succeeded")
    ) {
        return true;
    }
    let deleted = meta::deletion_timestamp(pod).and_then(|at| at.parse::<Timestamp>().ok());
    match (deleted, meta::deletion_grace_period_seconds(pod)) {
        (Some(at), Some(grace)) => now.as_second() > at.as_second() + grace,
        _ => false,
    }
}

fn crosses_namespaces(pod: &Value) -> bool {
    let Some(affinity) = pod.get_path(&["spec", "affinity"]) else {
        return false;
    };
    let crosses = |term: &Value| {
        term.get("namespaces").is_some_and(|list| !list.is_empty())
            || term
                .get("namespaceSelector")
                .is_some_and(|selector| !selector.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let terms = |field: &str| {
            affinity
                .get_path(&[kind, field])
                .and_then(Value::as_array)
                .unwrap_or_default()
        };
        terms("requiredDuringSchedulingIgnoredDuringExecution")
            .iter()
            .any(crosses)
            || terms("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .filter_map(|weighted| weighted.get("podAffinityTerm"))
                .any(crosses)
    })
}
