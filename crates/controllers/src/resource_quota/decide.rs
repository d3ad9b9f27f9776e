//! What a quota speaks of, what is used of it, and whether its status says so.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use machinery::Value;
use resources::quota::{Amounts, Evaluator, amounts, counted, evaluator, scopes};

/// A resource whose objects a quota limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) group: String,
    pub(super) resource: String,
}

/// Kinds that are charged for more than their number.
const CHARGED: [(&str, &str); 4] = [
    ("", "pods"),
    ("", "services"),
    ("", "persistentvolumeclaims"),
    ("resource.k8s.io", "resourceclaims"),
];
/// Names from before every kind could be counted.
const ALIASES: [&str; 4] = [
    "configmaps",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
];

/// The resources a quota speaks of.
pub(super) fn wanted(quota: &Value) -> Vec<Wanted> {
    let names: Vec<&str> = amounts::names(quota.get_path(&["spec", "hard"])).collect();
    let of_names = |(group, resource): (&str, &str)| Wanted {
        group: group.to_owned(),
        resource: resource.to_owned(),
    };
    let charged = CHARGED
        .into_iter()
        .filter(|(g, r)| evaluator(g, r).is_some_and(|e| names.iter().any(|n| e.charges(n))));
    let mut wanted: Vec<Wanted> = charged.map(of_names).collect();
    for name in &names {
        let alias = ALIASES.contains(name).then_some(("", *name));
        let Some(found) = counted(name).or(alias).map(of_names) else {
            continue;
        };
        if !wanted.contains(&found) {
            wanted.push(found);
        }
    }
    wanted
}

/// Whether a quota limits a resource.
pub(super) fn speaks_of(quota: &ResourceQuota, group: &str, resource: &str) -> bool {
    let hard = quota.spec.as_ref().and_then(|s| s.hard.as_ref());
    evaluator(group, resource).is_some_and(|e| hard.into_iter().flatten().any(|(n, _)| e.charges(n)))
}

/// Whether a change of an object changes what it uses, or which quotas speak of it.
pub(super) fn changes(group: &str, resource: &str, old: &Value, new: &Value, now: Timestamp) -> bool {
    // A pod's deadline makes it a terminating one.
    let deadline = |pod: &Value| pod.get_path(&["spec", "activeDeadlineSeconds"]).is_some();
    evaluator(group, resource).is_some_and(|e| e.usage(old, now) != e.usage(new, now))
        || deadline(old) != deadline(new)
}

/// What is used of a quota, kind after kind.
#[derive(Debug, Default)]
pub(super) struct Used(Amounts);

impl Used {
    /// Adds what these objects use of what the quota limits.
    pub(super) fn charge(
        &mut self,
        group: &str,
        resource: &str,
        quota: &Value,
        objects: &[Value],
        now: Timestamp,
    ) {
        let Some(evaluator) = self.begin(group, resource, quota) else {
            return;
        };
        let scopes = scopes(quota);
        for object in objects {
            if scopes.iter().all(|scope| evaluator.in_scope(scope, object)) {
                amounts::add(&mut self.0, &evaluator.usage(object, now));
            }
        }
    }

    /// Adds a number of objects that are counted and nothing else.
    pub(super) fn count(&mut self, group: &str, resource: &str, quota: &Value, number: usize) {
        let Some(evaluator) = self.begin(group, resource, quota) else {
            return;
        };
        // Such kinds are in no scope.
        if !scopes(quota).is_empty() {
            return;
        }
        let each = evaluator.usage(&Value::Null, Timestamp::UNIX_EPOCH);
        let number = amounts::count(i64::try_from(number).unwrap_or(i64::MAX));
        let all: Amounts = each.into_keys().map(|name| (name, number)).collect();
        amounts::add(&mut self.0, &all);
    }

    /// Nothing used counts as zero, not as unknown.
    fn begin(&mut self, group: &str, resource: &str, quota: &Value) -> Option<Box<dyn Evaluator>> {
        let evaluator = evaluator(group, resource)?;
        for name in amounts::names(quota.get_path(&["spec", "hard"])) {
            if evaluator.charges(name) {
                self.0.entry(name.to_owned()).or_insert(amounts::count(0));
            }
        }
        Some(evaluator)
    }
}

/// Whether a status takes back some of what a quota was charged.
pub(super) fn lowers(quota: &Value, status: &ResourceQuotaStatus) -> bool {
    let used = status.used.iter().flatten();
    let known = amounts::read(quota.get_path(&["status", "used"]));
    used.filter_map(|(name, amount)| Some((known.get(name)?, amount.0.parse().ok()?)))
        .any(
            |(known, amount): (&machinery::quantity::Quantity, machinery::quantity::Quantity)| {
                amount < *known
            },
        )
}

/// What a change of a quota asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It limits something else, or was not counted yet.
    Limits,
    /// Its use was written.
    Charge,
    Nothing,
}

pub(super) fn change(old: &ResourceQuota, new: &ResourceQuota) -> Change {
    let hard = |quota: &ResourceQuota| quota.spec.as_ref().and_then(|s| s.hard.clone());
    let told = |quota: &ResourceQuota| quota.status.as_ref().and_then(|s| s.hard.clone());
    let used = |quota: &ResourceQuota| quota.status.as_ref().and_then(|s| s.used.clone());
    if old.spec != new.spec || hard(new) != told(new) {
        Change::Limits
    } else if used(old) != used(new) {
        Change::Charge
    } else {
        Change::Nothing
    }
}

/// The status to write; `None` if it says so already. What nobody could count keeps its last count.
pub(super) fn status(quota: &ResourceQuota, value: &Value, used: Used) -> Option<ResourceQuotaStatus> {
    let hard = amounts::read(value.get_path(&["spec", "hard"]));
    let known_hard = value.get_path(&["status", "hard"]);
    let known_used = value.get_path(&["status", "used"]);
    let mut all = amounts::read(known_used);
    all.extend(used.0);
    let all = amounts::mask(&all, |name| hard.contains_key(name));
    let same = known_hard.is_some()
        && known_used.is_some()
        && amounts::read(known_hard) == hard
        && amounts::read(known_used) == all;
    let list = |amounts: &Amounts| {
        Some(
            amounts
                .iter()
                .map(|(n, q)| (n.clone(), Quantity(q.to_string())))
                .collect(),
        )
    };
    (!same).then(|| ResourceQuotaStatus {
        hard: quota.spec.as_ref().and_then(|s| s.hard.clone()),
        used: list(&all),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is used is the exact sum, whatever the order of the pods; ended pods use nothing.
        #[test]
        fn sums_are_exact_in_any_order(pods in prop::collection::vec((0i64..5_000, 0i64..1_000, any::<bool>()), 0..30), turn in 0usize..30) {
            let quota = json!({"spec": {"hard": {"pods": "100", "requests.cpu": "100", "requests.memory": "100Gi"}}});
            let quota = machinery::typed::to_value(&quota).expect("value");
            let mut objects: Vec<Value> = pods
                .iter()
                .map(|(cpu, memory, ended)| {
                    let requests = json!({"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")});
                    let phase = if *ended { "Succeeded" } else { "Running" };
                    let pod = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}, "status": {"phase": phase}});
                    machinery::typed::to_value(&pod).expect("value")
                })
                .collect();
            let sum = |objects: &[Value]| {
                let mut used = Used::default();
                used.charge("", "pods", &quota, objects, Timestamp::UNIX_EPOCH);
                let amount = |name: &str| used.0.get(name).map_or(0, machinery::quantity::Quantity::milli_value);
                (amount("pods"), amount("requests.cpu"), amount("requests.memory"))
            };
            let running = || pods.iter().filter(|(_, _, ended)| !ended);
            let cpu: i64 = running().map(|(cpu, _, _)| cpu).sum();
            let memory: i64 = running().map(|(_, memory, _)| memory << 20).sum();
            let expected = (running().count() as i64 * 1000, cpu, memory * 1000);
            prop_assert_eq!(sum(&objects), expected);
            if !objects.is_empty() {
                let turn = turn % objects.len();
                objects.rotate_left(turn);
            }
            prop_assert_eq!(sum(&objects), expected);
        }
    }

    #[test]
    fn charges_are_told_from_other_changes() {
        let quota = |hard: &str, told: &str, used: &str| -> ResourceQuota {
            let quota = json!({"spec": {"hard": {"pods": hard}}, "status": {"hard": {"pods": told}, "used": {"pods": used}}});
            serde_json::from_value(quota).expect("quota")
        };
        let one = quota("5", "5", "1");
        assert_eq!(change(&one, &quota("5", "5", "2")), Change::Charge);
        assert_eq!(change(&one, &quota("6", "5", "1")), Change::Limits);
        assert_eq!(change(&one, &quota("5", "6", "1")), Change::Limits);
        assert_eq!(change(&one, &one), Change::Nothing);
        let value = machinery::typed::to_value(&one).expect("value");
        let status = |used: &str| quota("5", "5", used).status.expect("status");
        assert!(lowers(&value, &status("0")));
        assert!(!lowers(&value, &status("1")) && !lowers(&value, &status("2")));
    }

    use serde_json::json;

    fn value(json: &serde_json::Value) -> Value {
        machinery::typed::to_value(json).expect("value")
    }

    #[test]
    fn sums_follow_names_and_scopes() {
        let now = Timestamp::UNIX_EPOCH;
        let pod = |cpu: &str| {
            let resources = json!({"requests": {"cpu": cpu}});
            value(
                &json!({"spec": {"containers": [{"name": "c", "resources": resources}]}, "status": {"phase": "Running"}}),
            )
        };
        let quota = json!({"spec": {"hard": {"pods": "5", "requests.cpu": "2", "count/deployments.apps": "3", "secrets": "1"}},
            "status": {"hard": {"pods": "5"}, "used": {"pods": "9", "secrets": "1"}}});
        let typed: ResourceQuota = serde_json::from_value(quota.clone()).expect("quota");
        let quota = value(&quota);
        let names: Vec<String> = wanted(&quota).into_iter().map(|w| w.resource).collect();
        assert_eq!(names, ["pods", "deployments", "secrets"]);
        let mut used = Used::default();
        used.charge("", "pods", &quota, &[pod("500m"), pod("1")], now);
        used.count("apps", "deployments", &quota, 2);
        let status = status(&typed, &quota, used).expect("changed");
        let used = status.used.expect("used");
        let text = |name: &str| used[name].0.as_str();
        assert_eq!(
            [
                text("pods"),
                text("requests.cpu"),
                text("count/deployments.apps"),
                text("secrets")
            ],
            ["2", "1500m", "2", "1"]
        );
        let scoped = value(&json!({"spec": {"hard": {"pods": "5"}, "scopes": ["BestEffort"]}}));
        let mut used = Used::default();
        used.charge("", "pods", &scoped, &[pod("1")], now);
        assert_eq!(used.0["pods"].to_string(), "0");
    }
}
