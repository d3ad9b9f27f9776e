//! The cluster as the store has it, brought up to date change by change.

use super::facts;
use machinery::gvk::GroupVersionKind;
use machinery::{Value, codec, meta};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The resources that promises are about, as they stand in the store's keys.
const FOLLOWED: [&str; 10] = [
    "cronjobs",
    "daemonsets",
    "deployments",
    "horizontalpodautoscalers",
    "jobs",
    "minions",
    "poddisruptionbudgets",
    "pods",
    "replicasets",
    "statefulsets",
];

/// One object before and after one revision of the store.
#[derive(Debug)]
pub(super) struct Change<'a> {
    /// Since the start.
    pub(super) at: Duration,
    /// As in the store's keys.
    pub(super) resource: &'static str,
    pub(super) old: Option<&'a Value>,
    pub(super) new: Option<&'a Value>,
    /// How many pods may have been created of late that their creator was not told of.
    pub(super) untold: i64,
}

impl Change<'_> {
    /// The object, as it is or was.
    pub(super) fn object(&self) -> &Value {
        static NOTHING: Value = Value::Null;
        self.new.or(self.old).unwrap_or(&NOTHING)
    }
}

/// Objects by resource and key.
#[derive(Debug, Default)]
pub(super) struct World(BTreeMap<&'static str, BTreeMap<String, Arc<Value>>>);

impl World {
    /// Which followed resource a key of the store belongs to.
    pub(super) fn resource_of(key: &str) -> Option<&'static str> {
        let (resource, _) = key.strip_prefix("/registry/")?.split_once('/')?;
        FOLLOWED.into_iter().find(|known| *known == resource)
    }

    /// The object of stored bytes; panics on what no API server writes.
    pub(super) fn decode(bytes: &[u8]) -> Value {
        let envelope = codec::proto::open_envelope(bytes).expect("an envelope");
        let (group, version) = envelope
            .api_version
            .split_once('/')
            .unwrap_or(("", &envelope.api_version));
        let kind = GroupVersionKind::new(group, version, &envelope.kind);
        let kind = api::kind(&kind).expect("a kind that is served");
        codec::proto::decode(envelope.raw, api::types(), kind).expect("an object")
    }

    /// Puts an object in, or takes it out; what was there before.
    pub(super) fn replace(
        &mut self,
        resource: &'static str,
        key: &str,
        object: Option<Arc<Value>>,
    ) -> Option<Arc<Value>> {
        let all = self.0.entry(resource).or_default();
        match object {
            Some(object) => all.insert(key.to_owned(), object),
            None => all.remove(key),
        }
    }

    /// All objects of a resource.
    pub(super) fn all(&self, resource: &str) -> impl Iterator<Item = &Value> {
        self.0
            .get(resource)
            .into_iter()
            .flatten()
            .map(|(_, object)| &**object)
    }

    pub(super) fn by_uid(&self, resource: &str, uid: &str) -> Option<&Value> {
        self.all(resource).find(|o| meta::uid(o) == uid)
    }

    pub(super) fn pods_of(&self, owner: &str) -> impl Iterator<Item = &Value> {
        self.all("pods")
            .filter(move |pod| facts::controller(pod).is_some_and(|(_, uid)| uid == owner))
    }

    /// The Deployment a pod is of, by way of its ReplicaSet.
    pub(super) fn deployment_of(&self, pod: &Value) -> Option<&Value> {
        let ("ReplicaSet", set) = facts::controller(pod)? else {
            return None;
        };
        let set = self.by_uid("replicasets", set)?;
        let ("Deployment", uid) = facts::controller(set)? else {
            return None;
        };
        self.by_uid("deployments", uid)
    }
}
