//! A pod with everything the plugins ask about worked out once.

use crate::resource::{PodRequests, Resource, pod_requests};
use client::ObjectKey;
use client::labels::Matcher;
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// A pod as the scheduler sees it.
#[derive(Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub key: ObjectKey,
    pub priority: i32,
    pub requests: Resource,
    pub non_zero_milli_cpu: i64,
    pub non_zero_memory: i64,
    pub best_effort: bool,
    pub host_ports: Vec<HostPort>,
    pub required_affinity: Vec<AffinityTerm>,
    pub required_anti_affinity: Vec<AffinityTerm>,
    pub preferred_affinity: Vec<(i64, AffinityTerm)>,
    pub preferred_anti_affinity: Vec<(i64, AffinityTerm)>,
}

/// A port of the node that a container wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        const ANY: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ANY || other.ip == ANY)
    }
}

/// One term of a pod's affinity to other pods.
#[derive(Debug, Clone)]
pub struct AffinityTerm {
    namespaces: Vec<String>,
    namespace_selector: Matcher,
    selector: Matcher,
    pub topology_key: String,
}

/// Gives the labels of a namespace.
pub type NamespaceLabels<'a> = dyn Fn(&str) -> Option<BTreeMap<String, String>> + 'a;

impl AffinityTerm {
    fn new(term: &PodAffinityTerm, namespace: &str) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        Self {
            namespaces,
            namespace_selector: Matcher::of(term.namespace_selector.as_ref()),
            selector: Matcher::of(term.label_selector.as_ref()),
            topology_key: term.topology_key.clone(),
        }
    }

    pub fn matches(&self, pod: &PodInfo, labels_of: &NamespaceLabels<'_>) -> bool {
        if !self.selector.matches(pod.pod.metadata.labels.as_ref()) {
            return false;
        }
        let namespace = pod.key.namespace.as_str();
        if self.namespaces.iter().any(|n| n == namespace) {
            return true;
        }
        match &self.namespace_selector {
            Matcher::Nothing => false,
            selector if selector.is_everything() => true,
            selector => selector.matches(labels_of(namespace).as_ref()),
        }
    }
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let PodRequests {
            exact,
            non_zero_milli_cpu,
            non_zero_memory,
            best_effort,
        } = pod_requests(&pod);
        let key = ObjectKey::of(&*pod);
        let spec = pod.spec.as_ref().unwrap_or(&NO_SPEC);
        let affinity = spec.affinity.as_ref();
        let to = affinity.and_then(|a| a.pod_affinity.as_ref());
        let from = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let required = |terms: Option<&Vec<PodAffinityTerm>>| {
            terms
                .into_iter()
                .flatten()
                .map(|t| AffinityTerm::new(t, &key.namespace))
                .collect()
        };
        let preferred = |terms: Option<&Vec<k8s_openapi::api::core::v1::WeightedPodAffinityTerm>>| {
            terms
                .into_iter()
                .flatten()
                .map(|t| {
                    (
                        i64::from(t.weight),
                        AffinityTerm::new(&t.pod_affinity_term, &key.namespace),
                    )
                })
                .collect()
        };
        Self {
            priority: spec.priority.unwrap_or(0),
            requests: exact,
            non_zero_milli_cpu,
            non_zero_memory,
            best_effort,
            host_ports: host_ports(spec),
            required_affinity: required(
                to.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            required_anti_affinity: required(
                from.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_affinity: preferred(
                to.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_anti_affinity: preferred(
                from.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            key,
            pod,
        }
    }

    /// The pod's spec; the empty one for a pod that has none.
    pub fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().unwrap_or(&NO_SPEC)
    }

    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or("")
    }

    pub fn has_affinity(&self) -> bool {
        !(self.required_affinity.is_empty()
            && self.required_anti_affinity.is_empty()
            && self.preferred_affinity.is_empty()
            && self.preferred_anti_affinity.is_empty())
    }

    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// The node the pod was promised by preemption.
    pub fn nominated_node(&self) -> Option<&str> {
        let status = self.pod.status.as_ref()?;
        status.nominated_node_name.as_deref().filter(|n| !n.is_empty())
    }
}

static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter(|p| p.host_port.is_some_and(|p| p > 0))
        .map(|p| HostPort {
            ip: p
                .host_ip
                .clone()
                .filter(|ip| !ip.is_empty())
                .unwrap_or_else(|| "0.0.0.0".to_owned()),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: p.host_port.unwrap_or(0),
        })
        .collect()
}
