//! A node with the sums over its pods.

use crate::pod_info::{HostPort, PodInfo};
use crate::resource::Resource;
use client::node_selector::Subject;
use k8s_openapi::api::core::v1::{Node, Taint};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A node as the scheduler sees it. Immutable once it is in a snapshot.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    pub name: Arc<str>,
    /// `None` while only pods of a node are known that is not.
    pub node: Option<Arc<Node>>,
    pub pods: Vec<Arc<PodInfo>>,
    pub pods_with_affinity: usize,
    pub pods_with_required_anti_affinity: usize,
    pub requested: Resource,
    pub non_zero_milli_cpu: i64,
    pub non_zero_memory: i64,
    pub allocatable: Resource,
    pub used_ports: Vec<HostPort>,
    /// Normalised image names and their sizes.
    pub images: Arc<HashMap<String, i64>>,
    /// Differs for every state any node was ever in.
    pub generation: u64,
}

static GENERATION: AtomicU64 = AtomicU64::new(1);

fn next_generation() -> u64 {
    GENERATION.fetch_add(1, Ordering::Relaxed)
}

impl NodeInfo {
    pub fn new(name: &str) -> Self {
        Self {
            name: Arc::from(name),
            node: None,
            pods: Vec::new(),
            pods_with_affinity: 0,
            pods_with_required_anti_affinity: 0,
            requested: Resource::default(),
            non_zero_milli_cpu: 0,
            non_zero_memory: 0,
            allocatable: Resource::default(),
            used_ports: Vec::new(),
            images: Arc::default(),
            generation: next_generation(),
        }
    }

    pub fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        self.allocatable = Resource::of(status.and_then(|s| s.allocatable.as_ref()));
        self.images = Arc::new(
            status
                .and_then(|s| s.images.as_ref())
                .into_iter()
                .flatten()
                .flat_map(|image| {
                    let size = image.size_bytes.unwrap_or(0);
                    image
                        .names
                        .iter()
                        .flatten()
                        .map(move |name| (normalized_image(name), size))
                })
                .collect(),
        );
        self.node = Some(node);
        self.generation = next_generation();
    }

    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.non_zero_milli_cpu += pod.non_zero_milli_cpu;
        self.non_zero_memory += pod.non_zero_memory;
        self.used_ports.extend(pod.host_ports.iter().cloned());
        self.pods_with_affinity += usize::from(pod.has_affinity());
        self.pods_with_required_anti_affinity += usize::from(!pod.required_anti_affinity.is_empty());
        self.pods.push(pod);
        self.generation = next_generation();
    }

    pub fn remove_pod(&mut self, uid: &str) {
        let Some(position) = self.pods.iter().position(|p| p.uid() == uid) else {
            return;
        };
        let pod = self.pods.swap_remove(position);
        self.requested.subtract(&pod.requests);
        self.non_zero_milli_cpu -= pod.non_zero_milli_cpu;
        self.non_zero_memory -= pod.non_zero_memory;
        for port in &pod.host_ports {
            if let Some(at) = self.used_ports.iter().position(|p| p == port) {
                self.used_ports.swap_remove(at);
            }
        }
        self.pods_with_affinity -= usize::from(pod.has_affinity());
        self.pods_with_required_anti_affinity -= usize::from(!pod.required_anti_affinity.is_empty());
        self.generation = next_generation();
    }

    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.node.as_ref()?.metadata.labels.as_ref()
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }

    /// The node as selectors see it.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            name: &self.name,
            labels: self.labels(),
        }
    }

    pub fn taints(&self) -> &[Taint] {
        self.node
            .as_ref()
            .and_then(|n| n.spec.as_ref())
            .and_then(|s| s.taints.as_deref())
            .unwrap_or(&[])
    }

    pub fn is_unschedulable(&self) -> bool {
        let spec = self.node.as_ref().and_then(|n| n.spec.as_ref());
        spec.is_some_and(|s| s.unschedulable == Some(true))
    }
}

/// An image name with its implied tag.
pub fn normalized_image(name: &str) -> String {
    if name.rfind(':') <= name.rfind('/') {
        format!("{name}:latest")
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::normalized_image;

    #[test]
    fn images_have_a_tag() {
        assert_eq!(normalized_image("nginx"), "nginx:latest");
        assert_eq!(normalized_image("r:5000/nginx"), "r:5000/nginx:latest");
        assert_eq!(normalized_image("r:5000/nginx:1"), "r:5000/nginx:1");
    }
}
