//! Which nodes a DaemonSet's pods belong on, and what has to come and go for that and for an update.

use crate::history::REVISION_LABEL;
use crate::int_or_percent::{Round, resolve};
use crate::pods::{self, Availability, availability};
use client::node_selector::{Subject, required_matches};
use client::taints::tolerates;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    PodTemplateSpec, Toleration,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const BURST: usize = 250;
const GENERATION_LABEL: &str = "pod-template-generation";

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes that need a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods that ended, and are deleted for that.
    pub(super) failed: Vec<Arc<Pod>>,
    pub(super) succeeded: Vec<Arc<Pod>>,
}

pub(super) struct View<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) spec: &'a DaemonSetSpec,
    pub(super) hash: &'a str,
    pub(super) nodes: &'a [Arc<Node>],
    pub(super) now: Timestamp,
    pod: PodSpec,
    by_node: BTreeMap<String, Vec<Arc<Pod>>>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        set: &'a DaemonSet,
        spec: &'a DaemonSetSpec,
        hash: &'a str,
        nodes: &'a [Arc<Node>],
        pods: &[Arc<Pod>],
        now: Timestamp,
    ) -> Self {
        let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in pods {
            by_node.entry(target(pod)).or_default().push(Arc::clone(pod));
        }
        for pods in by_node.values_mut() {
            pods.sort_by_key(|p| {
                let created = p.metadata.creation_timestamp.as_ref().map(|t| t.0);
                (pods::node_name(p).is_empty(), created, p.metadata.name.clone())
            });
        }
        let mut pod = spec.template.spec.clone().unwrap_or_default();
        add_tolerations(&mut pod);
        Self {
            set,
            spec,
            hash,
            nodes,
            now,
            pod,
            by_node,
        }
    }

    fn pods_on(&self, node: &str) -> &[Arc<Pod>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    /// Whether a pod should be started on the node, and whether one that runs there may stay.
    fn wants(&self, node: &Node) -> (bool, bool) {
        let name = node.metadata.name.as_deref().unwrap_or("");
        if self
            .pod
            .node_name
            .as_deref()
            .is_some_and(|n| !n.is_empty() && n != name)
        {
            return (false, false);
        }
        let subject = Subject {
            name,
            labels: node.metadata.labels.as_ref(),
        };
        if !required_matches(&self.pod, subject) {
            return (false, false);
        }
        let tolerations = self.pod.tolerations.as_deref().unwrap_or(&[]);
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
        let untolerated = |effect: &str| {
            let mut of = taints.into_iter().flatten().filter(|t| t.effect == effect);
            of.any(|t| !tolerates(tolerations, t))
        };
        let driven = untolerated("NoExecute");
        (!driven && !untolerated("NoSchedule"), !driven)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let seconds = self.spec.min_ready_seconds.unwrap_or(0);
        availability(pod, seconds, self.now) == Availability::Available
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        let label = |key: &str| pod.metadata.labels.as_ref().and_then(|l| l.get(key));
        let generation = self
            .set
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get("deprecated.daemonset.template.generation"));
        label(REVISION_LABEL).is_some_and(|h| h == self.hash)
            || (generation.is_some() && label(GENERATION_LABEL) == generation)
    }

    fn is_rolling(&self) -> bool {
        let strategy = self
            .spec
            .update_strategy
            .as_ref()
            .and_then(|s| s.type_.as_deref());
        strategy != Some("OnDelete")
    }

    /// Surge and unavailability that an update may cause.
    fn limits(&self, desired: usize) -> (usize, usize) {
        if !self.is_rolling() {
            return (0, 0);
        }
        let total = i32::try_from(desired).unwrap_or(i32::MAX);
        let rolling = self
            .spec
            .update_strategy
            .as_ref()
            .and_then(|s| s.rolling_update.as_ref());
        let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), total, Round::Up);
        let unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), total, Round::Up);
        let unavailable = if surge == 0 && unavailable == 0 {
            1
        } else {
            unavailable
        };
        (
            usize::try_from(surge).unwrap_or(0),
            usize::try_from(unavailable).unwrap_or(0),
        )
    }

    fn desired(&self) -> usize {
        self.nodes.iter().filter(|n| self.wants(n).0).count()
    }

    /// Brings a pod to every node that should have one, and takes the others away.
    pub(super) fn manage(&self) -> Plan {
        let mut plan = Plan::default();
        let surge = self.limits(self.desired()).0 > 0;
        for node in self.nodes {
            let name = node.metadata.name.clone().unwrap_or_default();
            let (start, keep) = self.wants(node);
            let pods = self.pods_on(&name);
            if start && pods.is_empty() {
                plan.create.push(name);
            } else if !keep {
                plan.delete
                    .extend(pods.iter().filter(|p| !pods::is_terminating(p)).cloned());
            } else {
                self.tidy(&name, start, surge, &mut plan);
            }
        }
        let known = |node: &str| {
            self.nodes
                .iter()
                .any(|n| n.metadata.name.as_deref() == Some(node))
        };
        // A pod that waits for a node that is no more would wait for ever.
        let lost = self
            .by_node
            .iter()
            .filter(|(node, _)| !known(node))
            .flat_map(|(_, pods)| pods);
        plan.delete.extend(
            lost.filter(|p| pods::node_name(p).is_empty() && !pods::is_terminating(p))
                .cloned(),
        );
        plan.create.truncate(BURST);
        plan.delete.truncate(BURST);
        plan
    }

    /// Of several pods on a node one stays, of ended ones none.
    fn tidy(&self, node: &str, start: bool, surge: bool, plan: &mut Plan) {
        let mut running: Vec<&Arc<Pod>> = Vec::new();
        for pod in self.pods_on(node).iter().filter(|p| !pods::is_terminating(p)) {
            match pods::phase(pod) {
                "Failed" => plan.failed.push(Arc::clone(pod)),
                "Succeeded" => plan.succeeded.push(Arc::clone(pod)),
                _ => running.push(pod),
            }
        }
        if !surge {
            plan.delete.extend(running.into_iter().skip(1).cloned());
            return;
        }
        if running.len() <= 1 {
            if running.is_empty() && start {
                plan.create.push(node.to_owned());
            }
            return;
        }
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|p| self.is_updated(p));
        plan.delete.extend(
            new.iter()
                .skip(1)
                .chain(old.iter().skip(1))
                .map(|p| Arc::clone(p)),
        );
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::is_ready(old) || self.is_available(new))
        {
            plan.delete.push(Arc::clone(old));
        }
    }

    /// Replaces pods of earlier templates, within the limits.
    pub(super) fn update(&self) -> Plan {
        let mut plan = Plan::default();
        if !self.is_rolling() {
            return plan;
        }
        let desired = self.desired();
        let (surge, unavailable) = self.limits(desired);
        if surge == 0 {
            self.update_in_place(unavailable, &mut plan)
        } else {
            self.update_by_surge(surge, desired, &mut plan)
        }
        plan.create.truncate(BURST);
        plan.delete.truncate(BURST);
        plan
    }

    /// The new and the old pod of every node that has or should have one; `None` where there are too many.
    #[allow(clippy::type_complexity)] // Said once, used by the two ways to update.
    fn pairs(&self) -> Vec<(&str, &Node, Option<(Option<&Arc<Pod>>, Option<&Arc<Pod>>)>)> {
        let relevant = self.nodes.iter().filter_map(|node| {
            let name = node.metadata.name.as_deref()?;
            (self.wants(node).0 || !self.pods_on(name).is_empty()).then_some((name, node))
        });
        relevant
            .map(|(name, node)| {
                let living = self.pods_on(name).iter().filter(|p| !pods::is_terminating(p));
                let (new, old): (Vec<_>, Vec<_>) = living.partition(|p| self.is_updated(p));
                let pair =
                    (new.len() <= 1 && old.len() <= 1).then(|| (new.first().copied(), old.first().copied()));
                (name, &**node, pair)
            })
            .collect()
    }

    fn update_in_place(&self, limit: usize, plan: &mut Plan) {
        let mut missing = 0;
        let mut candidates = Vec::new();
        for (_, _, pair) in self.pairs() {
            match pair {
                None | Some((None, None) | (Some(_), Some(_))) => missing += 1,
                Some((Some(new), None)) => missing += usize::from(!self.is_available(new)),
                Some((None, Some(old))) if !self.is_available(old) => {
                    missing += 1;
                    plan.delete.push(Arc::clone(old));
                }
                Some((None, Some(old))) => candidates.push(Arc::clone(old)),
            }
        }
        plan.delete
            .extend(candidates.into_iter().take(limit.saturating_sub(missing)));
    }

    fn update_by_surge(&self, limit: usize, desired: usize, plan: &mut Plan) {
        let (mut surging, mut available) = (0usize, 0usize);
        let (mut candidates, mut unwanted) = (Vec::new(), Vec::new());
        for (name, node, pair) in self.pairs() {
            let Some((new, old)) = pair else {
                surging += 1;
                continue;
            };
            available += usize::from(old.or(new).is_some_and(|p| self.is_available(p)));
            let runs = self.wants(node).0;
            match (new, old) {
                (_, None) => {}
                (None, Some(old)) if !self.is_available(old) => {
                    if runs {
                        plan.create.push(name.to_owned());
                    } else {
                        plan.delete.push(Arc::clone(old));
                    }
                }
                (None, Some(old)) if !runs => unwanted.push(Arc::clone(old)),
                (None, Some(_)) => candidates.push(name.to_owned()),
                (Some(new), Some(_)) if !self.is_available(new) => surging += 1,
                (Some(_), Some(old)) => plan.delete.push(Arc::clone(old)),
            }
        }
        plan.create
            .extend(candidates.into_iter().take(limit.saturating_sub(surging)));
        plan.delete
            .extend(unwanted.into_iter().take(available.saturating_sub(desired)));
    }

    /// The status, and when to look again because a pod becomes available by time alone.
    pub(super) fn status(&self, collisions: i32) -> (DaemonSetStatus, Option<Duration>) {
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: Some(collisions).filter(|c| *c > 0),
            updated_number_scheduled: Some(0),
            number_available: Some(0),
            conditions: self.set.status.as_ref().and_then(|s| s.conditions.clone()),
            ..DaemonSetStatus::default()
        };
        let mut next: Option<Duration> = None;
        let (mut available, mut updated) = (0, 0);
        for node in self.nodes {
            let first = self.pods_on(node.metadata.name.as_deref().unwrap_or("")).first();
            if !self.wants(node).0 {
                status.number_misscheduled += i32::from(first.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = first else { continue };
            status.current_number_scheduled += 1;
            updated += i32::from(self.is_updated(pod));
            match availability(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now) {
                Availability::NotReady => {}
                Availability::In(left) => {
                    status.number_ready += 1;
                    next = Some(next.map_or(left, |n| n.min(left)));
                }
                Availability::Available => {
                    status.number_ready += 1;
                    available += 1;
                }
            }
        }
        status.updated_number_scheduled = Some(updated);
        status.number_available = Some(available);
        status.number_unavailable = Some(status.desired_number_scheduled - available);
        (status, next)
    }
}

/// The node a pod is on, or is made for.
fn target(pod: &Pod) -> String {
    let name = pods::node_name(pod);
    if !name.is_empty() {
        return name.to_owned();
    }
    let required = pod.spec.as_ref().and_then(client::node_selector::required);
    let terms = required.into_iter().flat_map(|s| &s.node_selector_terms);
    let mut fields = terms.flat_map(|t| t.match_fields.iter().flatten());
    let named = fields.find(|f| f.key == "metadata.name" && f.operator == "In");
    named
        .and_then(|f| f.values.as_ref()?.first().cloned())
        .unwrap_or_default()
}

/// Daemons run on nodes that others flee.
fn add_tolerations(spec: &mut PodSpec) {
    let mut wanted = vec![
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        wanted.push(("network-unavailable", "NoSchedule"));
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in wanted {
        let toleration = Toleration {
            key: Some(format!("node.kubernetes.io/{key}")),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
}

/// The template of a pod for one node.
pub(super) fn template_for(set: &DaemonSet, spec: &DaemonSetSpec, hash: &str, node: &str) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    let labels = template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default();
    labels.insert(REVISION_LABEL.to_owned(), hash.to_owned());
    let annotations = set.metadata.annotations.as_ref();
    if let Some(generation) = annotations.and_then(|a| a.get("deprecated.daemonset.template.generation")) {
        labels.insert(GENERATION_LABEL.to_owned(), generation.clone());
    }
    let pod = template.spec.get_or_insert_default();
    add_tolerations(pod);
    let affinity: &mut Affinity = pod.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    // What the terms say about labels was asked already; the node's name says it all.
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
            match_expressions: None,
        }],
    });
    template
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(strategy: Value) -> DaemonSet {
        let template = json!({"spec": {"containers": [], "nodeSelector": {"role": "worker"}}});
        let spec = json!({"selector": {}, "template": template, "updateStrategy": strategy});
        serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": spec})).expect("set")
    }

    fn rolling(surge: Value, unavailable: Value) -> Value {
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
    }

    fn node(name: &str, role: &str, taints: Value) -> Arc<Node> {
        let meta = json!({"name": name, "labels": {"role": role}});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": {"taints": taints}})).expect("node"))
    }

    fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
        let meta = json!({"name": name, "uid": name, "labels": {REVISION_LABEL: hash}});
        let ready = if ready { "True" } else { "False" };
        let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
        let spec = json!({"nodeName": node, "containers": []});
        Arc::new(
            serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).expect("pod"),
        )
    }

    fn words(plan: &Plan) -> String {
        let names = |pods: &[Arc<Pod>]| {
            let names: Vec<_> = pods
                .iter()
                .map(|p| p.metadata.name.clone().unwrap_or_default())
                .collect();
            names.join(" ")
        };
        format!("+{} -{}", plan.create.join(" "), names(&plan.delete))
    }

    #[test]
    fn every_fitting_node_has_one() {
        let set = set(rolling(json!(0), json!(1)));
        let spec = set.spec.clone().expect("spec");
        let no_schedule = json!([{"key": "k", "effect": "NoSchedule"}]);
        let nodes = [
            node("a", "worker", json!([])),
            node(
                "b",
                "worker",
                json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]),
            ),
            node("c", "worker", no_schedule.clone()),
            node("d", "other", json!([])),
            node("e", "worker", no_schedule),
            node("f", "worker", json!([{"key": "k", "effect": "NoExecute"}])),
        ];
        let pods = [
            pod("stays", "e", "h", true),
            pod("misplaced", "d", "h", true),
            pod("driven", "f", "h", true),
            pod("one", "a", "h", true),
            pod("two", "a", "h", true),
        ];
        let view = View::new(&set, &spec, "h", &nodes, &pods, Timestamp::UNIX_EPOCH);
        assert_eq!(words(&view.manage()), "+b -two misplaced driven");
        let (status, _) = view.status(0);
        assert_eq!(
            (status.desired_number_scheduled, status.current_number_scheduled),
            (2, 1)
        );
        assert_eq!(
            (status.number_misscheduled, status.number_unavailable),
            (3, Some(1))
        );
    }

    #[test]
    fn updates_keep_their_limits() {
        let nodes: Vec<_> = ["a", "b", "c"]
            .iter()
            .map(|n| node(n, "worker", json!([])))
            .collect();
        let check = |strategy: Value, pods: &[Arc<Pod>], expected: &str| {
            let set = set(strategy);
            let spec = set.spec.clone().expect("spec");
            let view = View::new(&set, &spec, "new", &nodes, pods, Timestamp::UNIX_EPOCH);
            assert_eq!(words(&view.update()), expected);
        };
        let old = |name: &str, ready: bool| pod(&format!("old-{name}"), name, "old", ready);
        let new = |name: &str, ready: bool| pod(&format!("new-{name}"), name, "new", ready);
        let in_place = rolling(json!(0), json!(1));
        check(
            in_place.clone(),
            &[old("a", true), old("b", true), old("c", true)],
            "+ -old-a",
        );
        check(
            in_place.clone(),
            &[new("a", false), old("b", true), old("c", true)],
            "+ -",
        );
        check(
            in_place,
            &[new("a", true), old("b", false), old("c", true)],
            "+ -old-b",
        );
        let surge = rolling(json!(1), json!(0));
        check(
            surge.clone(),
            &[old("a", true), old("b", true), old("c", true)],
            "+a -",
        );
        check(
            surge.clone(),
            &[old("a", true), new("a", false), old("b", true), old("c", true)],
            "+ -",
        );
        check(
            surge,
            &[old("a", true), new("a", true), old("b", true), old("c", true)],
            "+b -old-a",
        );
        check(json!({"type": "OnDelete"}), &[old("a", true)], "+ -");
    }
}
