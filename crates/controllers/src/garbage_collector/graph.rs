//! Who owns whom, as far as the watches have told.
//!
//! Pure bookkeeping: an object goes in or out, and the answer is whom to look at because of it. Dependents are
//! filed under their owner's uid whether or not the owner is known, so the order of arrival does not matter.

use client::{ObjectKey, Resource};
use hashbrown::HashMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

pub(super) type Uid = Arc<str>;

/// One object.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) resource: Arc<Resource>,
    pub(super) key: ObjectKey,
    pub(super) owners: Vec<Owner>,
    pub(super) leaving: Leaving,
    resource_version: u64,
    generation: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: Uid,
    /// Whether the owner's foreground deletion waits for this dependent.
    pub(super) blocks: bool,
}

/// Whether and how an object is being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    Background,
    /// It waits for its dependents to go.
    Foreground,
    /// It waits for its dependents to be let go.
    Orphaning,
}

impl Leaving {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        if meta.deletion_timestamp.is_none() {
            return Self::No;
        }
        let has = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
        if has(ORPHAN) {
            Self::Orphaning
        } else if has(FOREGROUND) {
            Self::Foreground
        } else {
            Self::Background
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, BTreeSet<Uid>>,
}

impl Graph {
    pub(super) fn node(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<(Uid, Node)> {
        let of = self.dependents.get(uid).into_iter().flatten();
        of.filter_map(|d| Some((Arc::clone(d), self.nodes.get(d)?.clone())))
            .collect()
    }

    pub(super) fn has_dependents(&self, uid: &str) -> bool {
        self.dependents.get(uid).is_some_and(|d| !d.is_empty())
    }

    /// An object as it is now. Whom to look at.
    pub(super) fn put(&mut self, resource: &Arc<Resource>, meta: &ObjectMeta, generation: u32) -> Vec<Uid> {
        let Some(uid) = meta.uid.as_deref() else {
            return Vec::new();
        };
        let version = meta
            .resource_version
            .as_deref()
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        let owners: Vec<Owner> = meta
            .owner_references
            .iter()
            .flatten()
            .map(|o| Owner {
                uid: self.intern(&o.uid),
                blocks: o.block_owner_deletion == Some(true),
            })
            .collect();
        let uid = self.intern(uid);
        let new = Node {
            resource: Arc::clone(resource),
            key: ObjectKey::new(
                meta.namespace.as_deref().unwrap_or(""),
                meta.name.as_deref().unwrap_or(""),
            ),
            owners,
            leaving: Leaving::of(meta),
            resource_version: version,
            generation,
        };
        let mut look = Vec::new();
        let old = self.nodes.insert(Arc::clone(&uid), new.clone());
        let former: &[Owner] = old.as_ref().map_or(&[], |o| &o.owners);
        for owner in former
            .iter()
            .filter(|o| !new.owners.iter().any(|n| n.uid == o.uid))
        {
            self.forget_dependent(&owner.uid, &uid);
        }
        for owner in &new.owners {
            self.dependents
                .entry(Arc::clone(&owner.uid))
                .or_default()
                .insert(Arc::clone(&uid));
        }
        // What waits for its dependents may have one less, or one that no longer blocks.
        if new.owners != former {
            let waiting = former
                .iter()
                .filter(|o| self.is_leaving(&o.uid, Leaving::Foreground));
            look.extend(waiting.map(|o| Arc::clone(&o.uid)));
            let doubtful = |o: &Owner| {
                let known = self.nodes.get(&o.uid);
                known.is_none_or(|n| n.leaving == Leaving::Foreground)
            };
            if new.owners.iter().any(doubtful) {
                look.push(Arc::clone(&uid));
            }
        }
        let was = old.as_ref().map_or(Leaving::No, |o| o.leaving);
        if new.leaving != was {
            match new.leaving {
                Leaving::Orphaning => look.push(uid),
                Leaving::Foreground => {
                    look.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
                    look.push(uid);
                }
                // An object that stays although it was to go: its owner may wait for the wrong one.
                Leaving::Background | Leaving::No => {}
            }
        }
        look
    }

    /// An object is gone. Whom to look at: its dependents, and owners that waited for it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<Uid> {
        let Some((uid, node)) = self.nodes.remove_entry(uid) else {
            return Vec::new();
        };
        for owner in &node.owners {
            self.forget_dependent(&owner.uid, &uid);
        }
        let waiting = node
            .owners
            .iter()
            .filter(|o| self.is_leaving(&o.uid, Leaving::Foreground));
        let mut look: Vec<Uid> = waiting.map(|o| Arc::clone(&o.uid)).collect();
        look.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        look
    }

    /// The list of a resource is complete: what it did not bring is gone.
    pub(super) fn sweep(&mut self, resource: &Resource, generation: u32, version: u64) -> Vec<Uid> {
        let stale = |n: &Node| {
            *n.resource == *resource && n.generation != generation && n.resource_version <= version
        };
        let mut gone: Vec<Uid> = self
            .nodes
            .iter()
            .filter(|(_, n)| stale(n))
            .map(|(u, _)| Arc::clone(u))
            .collect();
        gone.sort_unstable();
        gone.iter().flat_map(|uid| self.remove(uid)).collect()
    }

    /// All objects of a resource that is served no more.
    pub(super) fn drop_resource(&mut self, resource: &Resource) -> Vec<Uid> {
        self.sweep(resource, u32::MAX, u64::MAX)
    }

    fn is_leaving(&self, uid: &str, how: Leaving) -> bool {
        self.nodes.get(uid).is_some_and(|n| n.leaving == how)
    }

    fn forget_dependent(&mut self, owner: &Uid, dependent: &Uid) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// One allocation per uid, however often it is named.
    fn intern(&self, uid: &str) -> Uid {
        let known = self.nodes.get_key_value(uid).map(|(u, _)| u);
        let known = known.or_else(|| self.dependents.get_key_value(uid).map(|(u, _)| u));
        known.map_or_else(|| Arc::from(uid), Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pods() -> Arc<Resource> {
        Arc::new(Resource::of::<k8s_openapi::api::core::v1::Pod>(true))
    }

    fn meta(uid: &str, owners: &[&str], finalizers: &[&str]) -> ObjectMeta {
        let owners: Vec<_> = owners
            .iter()
            .map(
                |o| json!({"apiVersion": "v1", "kind": "K", "name": o, "uid": o, "blockOwnerDeletion": true}),
            )
            .collect();
        let deleted = (!finalizers.is_empty()).then_some("2026-01-01T00:00:00Z");
        let meta = json!({"uid": uid, "name": uid, "namespace": "d", "resourceVersion": "5", "ownerReferences": owners,
            "finalizers": finalizers, "deletionTimestamp": deleted});
        serde_json::from_value(meta).expect("meta")
    }

    fn words(mut look: Vec<Uid>) -> String {
        look.sort();
        look.dedup();
        look.iter().map(|u| &**u).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn who_is_looked_at() {
        let mut graph = Graph::default();
        let pods = pods();
        let put = |graph: &mut Graph, meta: ObjectMeta| words(graph.put(&pods, &meta, 1));
        assert_eq!(
            put(&mut graph, meta("child", &["parent"], &[])),
            "child",
            "its owner is unknown"
        );
        assert_eq!(put(&mut graph, meta("parent", &[], &[])), "");
        assert_eq!(
            put(&mut graph, meta("second", &["parent"], &[])),
            "",
            "its owner is known"
        );
        assert_eq!(
            put(&mut graph, meta("parent", &[], &[FOREGROUND])),
            "child parent second"
        );
        assert_eq!(words(graph.remove("second")), "parent", "it waited for this one");
        assert_eq!(
            put(&mut graph, meta("child", &[], &[])),
            "parent",
            "it is no longer its child"
        );
        assert_eq!(
            put(&mut graph, meta("child", &["parent"], &[])),
            "child",
            "its owner is going"
        );
        assert_eq!(words(graph.remove("parent")), "child");
        assert_eq!(put(&mut graph, meta("other", &[], &[ORPHAN])), "other");
        assert_eq!(words(graph.sweep(&pods, 2, 5)), "");
        assert!(graph.node("child").is_none() && !graph.has_dependents("parent"));
    }
}
