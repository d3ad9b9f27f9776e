//! Ways to find objects of a store other than by name.

use super::store::Informer;
use compact_str::{CompactString, ToCompactString as _};
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;

/// Writes the values under which an object is found into the vector.
pub type IndexFn<K> = fn(&K, &mut Vec<CompactString>);

/// One index of an informer.
pub struct Index<K> {
    pub(super) informer: Informer<K>,
    pub(super) position: usize,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self {
            informer: self.informer.clone(),
            position: self.position,
        }
    }
}

impl<K: super::Object> Index<K> {
    /// All objects with this value, in an order that depends on nothing but what happened.
    pub fn get(&self, value: &str) -> Vec<Arc<K>> {
        self.informer.indexed(self.position, value)
    }

    /// How many objects have this value.
    pub fn count(&self, value: &str) -> usize {
        self.informer.count_indexed(self.position, value)
    }
}

/// By namespace.
pub fn by_namespace<K: kube::Resource>(object: &K, values: &mut Vec<CompactString>) {
    values.push(
        object
            .meta()
            .namespace
            .as_deref()
            .unwrap_or("")
            .to_compact_string(),
    );
}

/// By the uid of the controlling owner; objects without one are found under `<namespace>/`, so that a
/// controller finds the orphans of a namespace without scanning it.
pub fn by_controller<K: kube::Resource>(object: &K, values: &mut Vec<CompactString>) {
    let meta = object.meta();
    let controller = meta
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true));
    values.push(match controller {
        Some(owner) => owner.uid.to_compact_string(),
        None => compact_str::format_compact!("{}/", meta.namespace.as_deref().unwrap_or("")),
    });
}

/// By the uid of every owner.
pub fn by_owner<K: kube::Resource>(object: &K, values: &mut Vec<CompactString>) {
    values.extend(
        object
            .meta()
            .owner_references
            .iter()
            .flatten()
            .map(|owner| owner.uid.to_compact_string()),
    );
}

/// Pods by the node they are bound to; unbound ones under the empty string.
pub fn by_node(pod: &Pod, values: &mut Vec<CompactString>) {
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
    values.push(node.unwrap_or("").to_compact_string());
}
