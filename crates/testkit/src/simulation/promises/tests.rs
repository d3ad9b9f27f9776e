//! Every promise can be broken: histories that keep it, and the one change more that does not.

use super::super::world::{Change, World};
use super::Promise;
use machinery::codec::json;
use machinery::gvk::GroupVersionKind;
use machinery::{Value, meta};
use serde_json::json as text;
use std::sync::Arc;
use std::time::Duration;

/// A world and the promises about it.
struct History {
    world: World,
    promises: Vec<Box<dyn Promise>>,
    at: Duration,
}

const KINDS: [(&str, &str, &str, &str); 8] = [
    ("cronjobs", "batch", "v1", "CronJob"),
    ("daemonsets", "apps", "v1", "DaemonSet"),
    ("deployments", "apps", "v1", "Deployment"),
    ("jobs", "batch", "v1", "Job"),
    ("minions", "", "v1", "Node"),
    ("poddisruptionbudgets", "policy", "v1", "PodDisruptionBudget"),
    ("pods", "", "v1", "Pod"),
    ("replicasets", "apps", "v1", "ReplicaSet"),
];

impl History {
    fn new() -> Self {
        Self {
            world: World::default(),
            promises: super::all(),
            at: Duration::from_secs(1000),
        }
    }

    fn passes(&mut self, seconds: u64) {
        self.at += Duration::from_secs(seconds);
    }

    /// What is broken when the object becomes so.
    fn put(&mut self, resource: &str, object: serde_json::Value) -> Vec<String> {
        let found = KINDS.iter().find(|k| k.0 == resource);
        let stateful = ("statefulsets", "apps", "v1", "StatefulSet");
        let (resource, group, version, kind) = *found.unwrap_or(&stateful);
        let kind = api::kind(&GroupVersionKind::new(group, version, kind)).expect("a kind");
        let decoded = json::decode(object.to_string().as_bytes(), api::types(), kind);
        let new: Arc<Value> = Arc::new(decoded.expect("an object").value);
        let key = meta::name(&new).to_owned();
        let old = self.world.replace(resource, &key, Some(Arc::clone(&new)));
        let change = Change {
            at: self.at,
            resource,
            old: old.as_deref(),
            new: Some(&new),
            untold: 0,
        };
        let judged = self.promises.iter_mut();
        judged.filter_map(|p| p.judge(&change, &self.world)).collect()
    }

    fn fine(&mut self, resource: &str, object: serde_json::Value) {
        let broken = self.put(resource, object);
        assert!(broken.is_empty(), "{broken:?}");
    }

    fn breaks(&mut self, resource: &str, object: serde_json::Value, what: &str) {
        let broken = self.put(resource, object);
        assert!(
            broken.iter().any(|b| b.contains(what)),
            "{broken:?} says nothing of {what:?}"
        );
    }
}

fn owned(name: &str, kind: &str, owner: &str) -> serde_json::Value {
    let owner =
        text!({"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": owner, "controller": true});
    text!({"name": name, "uid": name, "labels": {"app": "a"}, "ownerReferences": [owner]})
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Healthy,
    Unready,
    Taken,
    Evicted,
    Succeeded,
}

fn pod(name: &str, kind: &str, owner: &str, state: State) -> serde_json::Value {
    let mut metadata = owned(name, kind, owner);
    let ready = if state == State::Unready { "False" } else { "True" };
    let phase = if state == State::Succeeded {
        "Succeeded"
    } else {
        "Running"
    };
    let mut conditions = vec![text!({"type": "Ready", "status": ready})];
    if matches!(state, State::Taken | State::Evicted) {
        metadata["deletionTimestamp"] = text!("2026-01-01T00:00:00Z");
    }
    if state == State::Evicted {
        conditions
            .push(text!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}));
    }
    text!({"metadata": metadata, "spec": {"nodeName": name}, "status": {"phase": phase, "conditions": conditions}})
}

fn deployment(replicas: i64) -> serde_json::Value {
    text!({"metadata": {"name": "d", "uid": "d"}, "spec": {"replicas": replicas,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}}})
}

fn replica_set(name: &str, replicas: i64) -> serde_json::Value {
    text!({"metadata": owned(name, "Deployment", "d"), "spec": {"replicas": replicas}})
}

/// A Deployment of three healthy pods.
fn of_three() -> History {
    let mut history = History::new();
    history.fine("deployments", deployment(3));
    history.fine("replicasets", replica_set("s", 3));
    for name in ["a", "b", "c"] {
        history.fine("pods", pod(name, "ReplicaSet", "s", State::Healthy));
    }
    history
}

#[test]
fn a_deployment_asks_for_no_more_than_its_surge() {
    let mut history = of_three();
    history.fine("replicasets", replica_set("t", 1));
    history.breaks(
        "replicasets",
        replica_set("t", 2),
        "asks for 5 pods where 4 may be",
    );
}

#[test]
fn a_rollout_leaves_enough() {
    let mut history = of_three();
    history.fine("pods", pod("a", "ReplicaSet", "s", State::Taken));
    history.breaks(
        "pods",
        pod("b", "ReplicaSet", "s", State::Taken),
        "1 healthy pods are left",
    );
    let mut history = of_three();
    history.fine("pods", pod("a", "ReplicaSet", "s", State::Unready));
    history.passes(2);
    history.fine("pods", pod("b", "ReplicaSet", "s", State::Taken));
    let mut history = of_three();
    history.fine("pods", pod("a", "ReplicaSet", "s", State::Unready));
    history.passes(200);
    history.breaks(
        "pods",
        pod("b", "ReplicaSet", "s", State::Taken),
        "1 healthy pods are left",
    );
}

#[test]
fn an_eviction_leaves_what_the_budget_asks_for() {
    let mut history = of_three();
    let spec = text!({"minAvailable": 2, "selector": {"matchLabels": {"app": "a"}}});
    history.fine(
        "poddisruptionbudgets",
        text!({"metadata": {"name": "b"}, "spec": spec}),
    );
    history.fine("pods", pod("a", "ReplicaSet", "s", State::Evicted));
    history.breaks(
        "pods",
        pod("b", "ReplicaSet", "s", State::Evicted),
        "evicted under budget b",
    );
}

#[test]
fn ordered_pods_come_and_go_in_order() {
    let mut history = History::new();
    let set = |replicas: i64| text!({"metadata": {"name": "d", "uid": "d"}, "spec": {"replicas": replicas}});
    history.fine("statefulsets", set(3));
    history.fine("pods", pod("d-0", "StatefulSet", "d", State::Unready));
    history.breaks(
        "pods",
        pod("d-1", "StatefulSet", "d", State::Unready),
        "d-1 was made while number 0",
    );
    history.fine("pods", pod("d-0", "StatefulSet", "d", State::Healthy));
    history.fine("pods", pod("d-1", "StatefulSet", "d", State::Healthy));
    history.fine("pods", pod("d-2", "StatefulSet", "d", State::Healthy));
    history.passes(100);
    history.fine("pods", pod("d-2", "StatefulSet", "d", State::Unready));
    history.passes(100);
    history.breaks(
        "pods",
        pod("d-1", "StatefulSet", "d", State::Taken),
        "d-1 was taken while number 2",
    );
}

#[test]
fn cron_jobs_run_one_at_a_time_if_they_say_so() {
    let mut history = History::new();
    let cron = text!({"metadata": {"name": "c", "uid": "c"}, "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Forbid"}});
    history.fine("cronjobs", cron);
    let job = |name: &str, ended: bool| {
        let status = if ended { "True" } else { "False" };
        text!({"metadata": owned(name, "CronJob", "c"), "spec": {},
            "status": {"conditions": [{"type": "Failed", "status": status}]}})
    };
    history.fine("jobs", job("a", false));
    history.fine("jobs", job("a", true));
    history.fine("jobs", job("b", false));
    history.breaks("jobs", job("c", false), "b and c at work");
}

#[test]
fn jobs_count_each_completion_once() {
    let mut history = History::new();
    let job = |succeeded: i64| {
        text!({"metadata": {"name": "j", "uid": "j"}, "spec": {"completions": 2, "parallelism": 2},
            "status": {"succeeded": succeeded}})
    };
    history.fine("jobs", job(0));
    history.breaks("jobs", job(1), "0 pods succeeded");
    history.fine("pods", pod("a", "Job", "j", State::Succeeded));
    history.fine("jobs", job(1));
    history.breaks("jobs", job(0), "counts 0 completions after 1");
    history.fine("pods", pod("b", "Job", "j", State::Healthy));
    history.fine("pods", pod("c", "Job", "j", State::Healthy));
    history.breaks("pods", pod("d", "Job", "j", State::Healthy), "3 pods at work");
}

#[test]
fn daemons_go_a_few_at_a_time() {
    let mut history = History::new();
    let strategy = text!({"rollingUpdate": {"maxUnavailable": 1}});
    history.fine(
        "daemonsets",
        text!({"metadata": {"name": "d", "uid": "d"}, "spec": {"updateStrategy": strategy},
            "status": {"desiredNumberScheduled": 3}}),
    );
    for name in ["a", "b", "c"] {
        history.fine("minions", text!({"metadata": {"name": name}}));
        history.fine("pods", pod(name, "DaemonSet", "d", State::Healthy));
    }
    history.passes(100);
    history.fine("pods", pod("a", "DaemonSet", "d", State::Taken));
    history.breaks(
        "pods",
        pod("b", "DaemonSet", "d", State::Taken),
        "2 of 3 nodes are without",
    );
}
