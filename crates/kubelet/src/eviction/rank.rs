//! Whom to evict first, and what to tell about it. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Pressure;
use super::signals::{Observations, Signal, Use};
use super::thresholds::{Amount, Threshold};
use crate::pod::PodExt;
use crate::quantity::{self, pod_requests, request};

/// The pods, the first to go first: who uses more than was asked for, then by priority, then by how much more.
pub fn ranked(signal: Signal, pods: &[Arc<Pod>], usage: &HashMap<String, Use>) -> Vec<Arc<Pod>> {
    let mut ranked = pods.to_vec();
    ranked.sort_by_key(|pod| {
        let used = usage
            .get(pod.uid())
            .map_or(0, |u| i64::try_from(u.total).unwrap_or(i64::MAX));
        let asked = requested(pod, signal);
        let priority = pod.spec().priority.unwrap_or(0);
        match signal.pressure() {
            // Nobody can ask for process ids.
            Pressure::Pids => (false, priority, Reverse(used)),
            _ => (used <= asked, priority, Reverse(used - asked)),
        }
    });
    ranked
}

fn requested(pod: &Pod, signal: Signal) -> i64 {
    match signal.resource() {
        name @ ("memory" | "ephemeral-storage") => pod_requests(pod).get(name).copied().unwrap_or(0),
        _ => 0,
    }
}

/// The pod's message: what was low, and who took more than was asked for.
pub fn message(threshold: &Threshold, observed: &Observations, pod: &Pod, usage: Option<&Use>) -> String {
    let resource = threshold.signal.resource();
    let mut text = format!("The node was low on resource: {resource}. ");
    if let Some(seen) = observed.get(&threshold.signal) {
        // Inodes and process ids are counted, not weighed.
        let counted = matches!(resource, "inodes" | "pids");
        let least = match threshold.least {
            Amount::Bytes(count) if counted => count.to_string(),
            Amount::Bytes(bytes) => show(bytes),
            Amount::Percent(_) => show(threshold.least.of(seen.capacity)),
        };
        let available = match counted {
            true => seen.available.to_string(),
            false => kibi(seen.available),
        };
        text.push_str(&format!("Threshold quantity: {least}, available: {available}. "));
    }
    if resource == "memory" || resource == "ephemeral-storage" {
        for (name, used) in usage.map(|u| u.containers.as_slice()).unwrap_or_default() {
            let asked = pod
                .find_container(name)
                .and_then(|(_, c)| request(&c, resource))
                .unwrap_or(0);
            if i64::try_from(*used).unwrap_or(i64::MAX) > asked {
                let asked = u64::try_from(asked).unwrap_or(0);
                text.push_str(&format!(
                    "Container {name} was using {}, request is {}, has larger consumption of {resource}. ",
                    kibi(*used),
                    show(asked),
                ));
            }
        }
    }
    text
}

fn show(bytes: u64) -> String {
    quantity::binary_quantity(i64::try_from(bytes).unwrap_or(i64::MAX)).0
}

/// In whole kibibytes, as measured amounts are shown.
fn kibi(bytes: u64) -> String {
    format!("{}Ki", bytes / 1024)
}

#[cfg(test)]
mod tests {
    use super::super::signals::Seen;
    use super::*;
    use serde_json::json;

    fn pod(name: &str, memory: &str, priority: i32) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority,
                "containers": [{"name": "c", "resources": {"requests": {"memory": memory}}}]}}),
            )
            .unwrap(),
        )
    }

    fn uses(of: &[(&str, u64)]) -> HashMap<String, Use> {
        of.iter()
            .map(|(name, used)| {
                let containers = vec![("c".to_owned(), *used)];
                (
                    (*name).to_owned(),
                    Use {
                        total: *used,
                        containers,
                    },
                )
            })
            .collect()
    }

    #[test]
    fn who_asked_for_what_it_uses_goes_last() {
        let pods = [
            pod("modest", "1Gi", 0),
            pod("greedy", "1Mi", 0),
            pod("dear", "1Mi", 100),
            pod("small", "1Mi", 0),
        ];
        let usage = uses(&[
            ("modest", 900 << 20),
            ("greedy", 500 << 20),
            ("dear", 600 << 20),
            ("small", 2 << 20),
        ]);
        let names = |signal| -> Vec<String> {
            ranked(signal, &pods, &usage)
                .iter()
                .map(|p| p.name().to_owned())
                .collect()
        };
        assert_eq!(
            names(Signal::MemoryAvailable),
            ["greedy", "small", "dear", "modest"]
        );
        assert_eq!(names(Signal::PidAvailable), ["modest", "greedy", "small", "dear"]);
    }

    #[test]
    fn messages_name_what_and_who() {
        let threshold = Threshold::hard(Signal::MemoryAvailable, Amount::Bytes(100 << 20));
        let observed = Observations::from([(
            Signal::MemoryAvailable,
            Seen {
                available: 51200 << 10,
                capacity: 1 << 30,
            },
        )]);
        let usage = uses(&[("greedy", 4 << 20)]);
        let text = message(
            &threshold,
            &observed,
            &pod("greedy", "1Mi", 0),
            usage.get("greedy"),
        );
        assert_eq!(
            text,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51200Ki. \
             Container c was using 4096Ki, request is 1Mi, has larger consumption of memory. "
        );
        let threshold = Threshold::hard(Signal::PidAvailable, Amount::Bytes(2048));
        let observed = Observations::from([(
            Signal::PidAvailable,
            Seen {
                available: 1500,
                capacity: 4096,
            },
        )]);
        let text = message(&threshold, &observed, &pod("many", "1Mi", 0), None);
        assert_eq!(
            text,
            "The node was low on resource: pids. Threshold quantity: 2048, available: 1500. "
        );
    }
}
