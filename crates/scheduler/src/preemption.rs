//! DefaultPreemption: when a pod fits nowhere, which pods of lower priority would have to go, and where.
//!
//! A pure decision over the snapshot; the shell in [`crate::bind`] carries the plan out. Victims that a
//! PodDisruptionBudget protects are taken only where nothing else helps, as upstream.

use crate::cycle::{Filters, Unfit, judge};
use crate::diagnosis::fit_error;
use crate::framework::Rejection;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::Nominated;
use crate::snapshot::Snapshot;
use client::labels::Matcher;
use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use std::cmp::Reverse;
use std::sync::Arc;

/// Who has to go from which node.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) node: String,
    pub(crate) victims: Vec<Arc<PodInfo>>,
    violations: usize,
}

/// At least so many nodes are tried, or a tenth of them.
const MIN_CANDIDATES: usize = 100;

/// The best plan, or in upstream's words why there is none. `start` says at which node to begin.
pub(crate) fn plan(
    pod: &Arc<PodInfo>,
    unfit: &Unfit,
    snapshot: &Snapshot,
    budgets: &[Arc<PodDisruptionBudget>],
    start: usize,
    now: Timestamp,
) -> Result<Plan, String> {
    if pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if waits_for_victims(pod, unfit, snapshot) {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let candidates: Vec<usize> = unfit
        .diagnosis
        .rejections
        .iter()
        .filter(|(_, _, r)| r.resolvable)
        .map(|(at, _, _)| *at)
        .collect();
    let total = snapshot.nodes.len();
    let enough = (candidates.len() / 10).max(MIN_CANDIDATES);
    let mut plans: Vec<Plan> = Vec::new();
    let mut rejections: Vec<Rejection> = Vec::new();
    for step in 0..candidates.len() {
        let node = &snapshot.nodes[candidates[(start + step) % candidates.len()]];
        match victims_on(pod, node, &unfit.filters, budgets, now) {
            Ok(plan) => plans.push(plan),
            Err(rejection) => rejections.push(rejection),
        }
        if plans.len() >= enough && plans.iter().any(|p| p.violations == 0) {
            break;
        }
    }
    let chosen = plans.into_iter().min_by_key(|plan| {
        let priorities = || plan.victims.iter().map(|v| i64::from(v.priority));
        let highest = priorities().max().unwrap_or(i64::MIN);
        let sum: i64 = priorities().map(|p| p + i64::from(i32::MAX) + 1).sum();
        let of_highest = plan.victims.iter().filter(|v| i64::from(v.priority) == highest);
        let earliest = of_highest.map(|v| started(v, now)).min();
        (
            plan.violations,
            highest,
            sum,
            plan.victims.len(),
            Reverse(earliest),
        )
    });
    chosen.ok_or_else(|| {
        let absent = total - rejections.len();
        fit_error(
            total,
            rejections.iter(),
            Some((absent, "Preemption is not helpful for scheduling")),
        )
    })
}

/// Whether the pod has already had victims that are still on their way out.
fn waits_for_victims(pod: &PodInfo, unfit: &Unfit, snapshot: &Snapshot) -> bool {
    let Some(node) = pod.nominated_node().and_then(|name| snapshot.position(name)) else {
        return false;
    };
    let hopeless = unfit
        .diagnosis
        .rejections
        .iter()
        .any(|(at, _, r)| *at == node && !r.resolvable);
    !hopeless
        && snapshot.nodes[node]
            .pods
            .iter()
            .any(|p| p.priority < pod.priority && p.is_terminating() && is_preempted(p))
}

fn is_preempted(pod: &PodInfo) -> bool {
    let conditions = pod.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| {
        c.type_ == "DisruptionTarget"
            && c.status == "True"
            && c.reason.as_deref() == Some("PreemptionByScheduler")
    })
}

fn started(pod: &PodInfo, now: Timestamp) -> Timestamp {
    let status = pod.pod.status.as_ref();
    status.and_then(|s| s.start_time.as_ref()).map_or(now, |t| t.0)
}

/// Takes every pod of lower priority off the node, then gives back as many as possible, the most important first.
fn victims_on(
    pod: &Arc<PodInfo>,
    node: &NodeInfo,
    filters: &Filters,
    budgets: &[Arc<PodDisruptionBudget>],
    now: Timestamp,
) -> Result<Plan, Rejection> {
    let mut potential: Vec<Arc<PodInfo>> = node
        .pods
        .iter()
        .filter(|p| p.priority < pod.priority)
        .cloned()
        .collect();
    if potential.is_empty() {
        return Err(Rejection::unresolvable(
            "No preemption victims found for incoming pod",
        ));
    }
    let mut node = node.clone();
    let mut filters: Filters = filters.iter().map(|(n, f)| (*n, f.boxed_clone())).collect();
    for victim in &potential {
        node.remove_pod(victim.uid());
        filters.iter_mut().for_each(|(_, f)| f.remove_pod(victim, &node));
    }
    let nobody = Nominated::default();
    judge(&filters, pod, &node, &nobody).map_err(|(_, rejection)| rejection)?;
    potential.sort_by_key(|p| (Reverse(p.priority), started(p, now)));
    let (violating, others) = split_by_budget(potential, budgets);
    let mut victims = Vec::new();
    let mut violations = 0;
    let order = violating
        .into_iter()
        .map(|v| (v, true))
        .chain(others.into_iter().map(|v| (v, false)));
    for (candidate, violates) in order {
        node.add_pod(Arc::clone(&candidate));
        filters.iter_mut().for_each(|(_, f)| f.add_pod(&candidate, &node));
        if judge(&filters, pod, &node, &nobody).is_err() {
            node.remove_pod(candidate.uid());
            filters
                .iter_mut()
                .for_each(|(_, f)| f.remove_pod(&candidate, &node));
            violations += usize::from(violates);
            victims.push(candidate);
        }
    }
    victims.sort_by_key(|p| (Reverse(p.priority), started(p, now)));
    Ok(Plan {
        node: node.name.to_string(),
        victims,
        violations,
    })
}

/// Those whose going would break a budget, and the others.
fn split_by_budget(
    pods: Vec<Arc<PodInfo>>,
    budgets: &[Arc<PodDisruptionBudget>],
) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut allowed: Vec<i32> = budgets
        .iter()
        .map(|b| b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0))
        .collect();
    pods.into_iter().partition(|pod| {
        let labels = pod.pod.metadata.labels.as_ref();
        let mut violated = false;
        for (budget, allowed) in budgets.iter().zip(&mut allowed) {
            if budget.metadata.namespace.as_deref() != Some(pod.key.namespace.as_str()) {
                continue;
            }
            let selector = Matcher::of(budget.spec.as_ref().and_then(|s| s.selector.as_ref()));
            let disrupted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
            if selector.is_everything()
                || labels.is_none_or(|l| l.is_empty())
                || !selector.matches(labels)
                || disrupted.is_some_and(|d| d.contains_key(pod.key.name.as_str()))
            {
                continue;
            }
            *allowed -= 1;
            violated |= *allowed < 0;
        }
        violated
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::Algorithm;
    use crate::cycle::testing::{node, pod, snapshot};
    use crate::plugins::{node_resources_fit, taint_toleration};
    use rand::SeedableRng as _;
    use serde_json::json;

    fn asks(name: &str, cpu: &str, priority: i32) -> Arc<PodInfo> {
        let containers = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
        pod(
            name,
            json!({"app": name}),
            json!({"containers": containers, "priority": priority}),
        )
    }

    fn try_plan(
        pod: &Arc<PodInfo>,
        cluster: &Snapshot,
        budgets: &[Arc<PodDisruptionBudget>],
    ) -> Result<String, String> {
        let mut algorithm = Algorithm::new(
            vec![
                Arc::new(taint_toleration::TaintToleration),
                Arc::new(node_resources_fit::NodeResourcesFit),
            ],
            0,
            rand::rngs::SmallRng::seed_from_u64(1),
        );
        let unfit = algorithm
            .schedule(pod, cluster, &Nominated::default())
            .expect_err("no fit");
        plan(pod, &unfit, cluster, budgets, 0, Timestamp::UNIX_EPOCH).map(|plan| {
            let victims: Vec<&str> = plan.victims.iter().map(|v| v.key.name.as_str()).collect();
            format!("{}: {}", plan.node, victims.join(" "))
        })
    }

    #[test]
    fn the_least_important_go_and_no_more_than_needed() {
        let cluster = snapshot(vec![
            node("a", json!({}), vec![asks("a1", "2", 5), asks("a2", "2", 7)]),
            node("b", json!({}), vec![asks("b1", "1", 1), asks("b2", "3", 9)]),
        ]);
        assert_eq!(
            try_plan(&asks("p", "1", 10), &cluster, &[]),
            Ok("b: b1".to_owned())
        );
        assert_eq!(
            try_plan(&asks("p", "2", 10), &cluster, &[]),
            Ok("a: a1".to_owned())
        );
        assert_eq!(
            try_plan(&asks("p", "2", 0), &cluster, &[]),
            Err("0/2 nodes are available: 2 No preemption victims found for incoming pod.".to_owned())
        );
        assert_eq!(
            try_plan(&asks("p", "5", 10), &cluster, &[]),
            Err("0/2 nodes are available: 2 Preemption is not helpful for scheduling.".to_owned())
        );
    }

    #[test]
    fn budgets_are_honoured_where_possible() {
        let cluster = snapshot(vec![
            node("a", json!({}), vec![asks("guarded", "4", 1)]),
            node("b", json!({}), vec![asks("free", "4", 5)]),
        ]);
        let budget = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": {"selector": {"matchLabels": {"app": "guarded"}}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
        let budget = Arc::new(serde_json::from_value(budget).expect("budget"));
        assert_eq!(
            try_plan(&asks("p", "1", 10), &cluster, &[budget]),
            Ok("b: free".to_owned())
        );
    }
}
