//! How many replicas a metric asks for. Follows upstream's replica calculator: pods that are starting or whose metrics
//! are missing are counted so that they dampen the change, never strengthen it.

use super::normalize::rounded;
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use machinery::quantity::Quantity;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// While a pod is so young, what it uses to start is not held against it.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
const READINESS_DELAY: SignedDuration = SignedDuration::from_secs(30);

/// What one pod uses, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    pub(super) value: i64,
    pub(super) at: Timestamp,
    pub(super) window: SignedDuration,
}

pub(super) type Samples = BTreeMap<String, Sample>;

/// Within which distance from one a ratio is as good as one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerances {
    pub(super) down: f64,
    pub(super) up: f64,
}

impl Tolerances {
    fn within(self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// What is aimed at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// Per cent of what is requested.
    Utilization(i32),
    /// Thousandths a pod.
    Average(i64),
}

/// What a metric asks for, and how it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// Per cent of the requests, where that is aimed at.
    pub(super) utilization: Option<i32>,
    /// Thousandths a pod.
    pub(super) average: i64,
}

/// A metric each pod has.
pub(super) struct PodMetric<'a> {
    pub(super) resource: &'a str,
    /// The only container that counts.
    pub(super) container: Option<&'a str>,
    pub(super) target: Target,
}

struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

/// How many replicas a metric of the pods asks for; the error is in upstream's words.
pub(super) fn of_pods(
    metric: &PodMetric<'_>,
    current: i32,
    pods: &[Arc<Pod>],
    mut samples: Samples,
    tolerances: Tolerances,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(pods, &samples, metric.resource, now);
    samples.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let requests = match metric.target {
        Target::Utilization(_) => requests(pods, metric.container, metric.resource)?,
        Target::Average(_) => BTreeMap::new(),
    };
    let (ratio, utilization) = ratio(&samples, &requests, metric.target)?;
    let sum: i64 = samples.values().map(|s| s.value).sum();
    let average = sum / i64::try_from(samples.len()).unwrap_or(i64::MAX);
    let proposal = |replicas| Proposal {
        replicas,
        utilization,
        average,
    };
    let unready_matter = !groups.unready.is_empty() && ratio > 1.0;
    if !unready_matter && groups.missing.is_empty() {
        return Ok(proposal(if tolerances.within(ratio) {
            current
        } else {
            scaled(ratio, groups.ready)
        }));
    }
    let stand_in = |value: i64| Sample {
        value,
        at: now,
        window: SignedDuration::ZERO,
    };
    if ratio < 1.0 {
        for name in &groups.missing {
            let value = match metric.target {
                // Whoever says nothing is taken to use all it asked for, or the target if that is more.
                Target::Utilization(percent) => {
                    requests.get(name).copied().unwrap_or(0) * i64::from(percent.max(100)) / 100
                }
                Target::Average(value) => value,
            };
            samples.insert(name.clone(), stand_in(value));
        }
    } else if ratio > 1.0 {
        samples.extend(groups.missing.iter().map(|n| (n.clone(), stand_in(0))));
    }
    if unready_matter {
        samples.extend(groups.unready.iter().map(|n| (n.clone(), stand_in(0))));
    }
    let (again, _) = self::ratio(&samples, &requests, metric.target)?;
    let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if tolerances.within(again) || turned {
        return Ok(proposal(current));
    }
    let replicas = scaled(again, samples.len());
    let wrong_way = (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current);
    Ok(proposal(if wrong_way { current } else { replicas }))
}

/// How many replicas a metric that is no pod's asks for, whose whole value is aimed at.
pub(super) fn of_value(
    usage: i64,
    target: i64,
    current: i32,
    pods: &[Arc<Pod>],
    tolerances: Tolerances,
) -> i32 {
    let ratio = quotient(usage, target);
    if current == 0 {
        return rounded(ratio.ceil());
    }
    if tolerances.within(ratio) {
        return current;
    }
    let ready = pods
        .iter()
        .filter(|p| pods::phase(p) == "Running" && pods::is_ready(p))
        .count();
    scaled(ratio, ready)
}

/// The same, where each replica is to have so much; and how much each has now.
pub(super) fn of_average(usage: i64, target: i64, current: i32, tolerances: Tolerances) -> (i32, i64) {
    let ratio = quotient(usage, target) / f64::from(current);
    let replicas = if tolerances.within(ratio) {
        current
    } else {
        rounded(quotient(usage, target).ceil())
    };
    let each = if current == 0 {
        usage
    } else {
        let current = i64::from(current);
        usage.div_euclid(current) + i64::from(usage.rem_euclid(current) != 0)
    };
    (replicas, each)
}

fn quotient(a: i64, b: i64) -> f64 {
    // Thousandths of what a cluster measures are far below 2^53.
    a as f64 / b as f64
}

fn scaled(ratio: f64, count: usize) -> i32 {
    rounded((ratio * count as f64).ceil())
}

/// What is used of what is aimed at; with a utilization aimed at, also that.
fn ratio(
    samples: &Samples,
    requests: &BTreeMap<String, i64>,
    target: Target,
) -> Result<(f64, Option<i32>), String> {
    match target {
        Target::Average(target) => {
            let sum: i64 = samples.values().map(|s| s.value).sum();
            let average = sum / i64::try_from(samples.len()).unwrap_or(i64::MAX);
            Ok((quotient(average, target), None))
        }
        Target::Utilization(target) => {
            let both = samples
                .iter()
                .filter_map(|(name, s)| Some((s.value, *requests.get(name)?)));
            let (used, asked) = both.fold((0i64, 0i64), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            if asked == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let utilization = i32::try_from(used * 100 / asked).unwrap_or(i32::MAX);
            Ok((f64::from(utilization) / f64::from(target), Some(utilization)))
        }
    }
}

fn group(pods: &[Arc<Pod>], samples: &Samples, resource: &str, now: Timestamp) -> Groups {
    let mut groups = Groups {
        ready: 0,
        unready: BTreeSet::new(),
        missing: BTreeSet::new(),
        ignored: BTreeSet::new(),
    };
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if pods::is_terminating(pod) || pods::phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if pods::phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else if let Some(sample) = samples.get(&name) {
            if resource == "cpu" && is_unready(pod, sample, now) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

fn is_unready(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = pod
        .status
        .as_ref()
        .and_then(|s| s.start_time.as_ref())
        .map(|t| t.0);
    let (Some(condition), Some(started)) = (pods::condition(pod, "Ready"), started) else {
        return true;
    };
    let since = condition
        .last_transition_time
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    let unready = condition.status == "False";
    if started + CPU_INITIALIZATION > now {
        unready || sample.at < since + sample.window
    } else {
        unready && started + READINESS_DELAY > since
    }
}

fn requests(
    pods: &[Arc<Pod>],
    container: Option<&str>,
    resource: &str,
) -> Result<BTreeMap<String, i64>, String> {
    let mut requests = BTreeMap::new();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        requests.insert(name.clone(), request(pod, &name, container, resource)?);
    }
    Ok(requests)
}

fn request(pod: &Pod, name: &str, container: Option<&str>, resource: &str) -> Result<i64, String> {
    let Some(spec) = &pod.spec else {
        return Ok(0);
    };
    let milli = |list: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
        let quantity = list.and_then(|l| l.get(resource))?;
        quantity.0.parse::<Quantity>().ok().map(|q| q.milli_value())
    };
    let whole = milli(spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    if let (None, Some(whole)) = (container, whole) {
        return Ok(whole);
    }
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let mut sum = 0;
    for c in spec.containers.iter().chain(sidecars) {
        if container.is_some_and(|wanted| wanted != c.name) {
            continue;
        }
        let Some(asked) = milli(c.resources.as_ref().and_then(|r| r.requests.as_ref())) else {
            return Err(format!(
                "missing request for {resource} in container {} of Pod {name}",
                c.name
            ));
        };
        sum += asked;
        if container.is_some() {
            return Ok(sum);
        }
    }
    match container {
        Some(container) => Err(format!("container {container} not found in Pod {name}")),
        None => Ok(sum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// More use never asks for fewer replicas; what is asked for suffices and no less would, unless the present number is
        /// near enough.
        #[test]
        fn an_average_asks_for_just_enough(usage in 0i64..1_000_000, more in 0i64..1_000_000, target in 1i64..10_000, current in 1i32..500) {
            let tolerances = Tolerances { down: 0.1, up: 0.1 };
            let (replicas, _) = of_average(usage, target, current, tolerances);
            let ratio = usage as f64 / target as f64 / f64::from(current);
            if (0.9..=1.1).contains(&ratio) {
                prop_assert_eq!(replicas, current);
            } else {
                prop_assert!(i64::from(replicas) * target >= usage);
                prop_assert!(i64::from(replicas - 1) * target < usage);
            }
            let (for_more, _) = of_average(usage + more, target, current, tolerances);
            let exact = |usage: i64| !(0.9..=1.1).contains(&(usage as f64 / target as f64 / f64::from(current)));
            if exact(usage) && exact(usage + more) {
                prop_assert!(for_more >= replicas, "{} for {}, {} for {}", replicas, usage, for_more, usage + more);
            }
        }
    }

    use serde_json::json;

    const TOLERANCES: Tolerances = Tolerances { down: 0.1, up: 0.1 };

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().expect("time")
    }

    fn pod(name: &str, phase: &str) -> Arc<Pod> {
        let resources = json!({"requests": {"cpu": "1"}});
        let old = "2026-01-01T00:00:00Z";
        let conditions = json!([{"type": "Ready", "status": "True", "lastTransitionTime": old}]);
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "resources": resources}]},
            "status": {"phase": phase, "startTime": old, "conditions": conditions}}))
            .expect("pod"),
        )
    }

    fn check(phases: &[&str], used: &[i64], target: Target, expected: Result<i32, &str>) {
        let pods: Vec<_> = phases
            .iter()
            .enumerate()
            .map(|(i, phase)| pod(&format!("p{i}"), phase))
            .collect();
        let samples = used
            .iter()
            .enumerate()
            .filter(|(_, v)| **v >= 0)
            .map(|(i, v)| {
                let sample = Sample {
                    value: *v,
                    at: now(),
                    window: SignedDuration::from_secs(60),
                };
                (format!("p{i}"), sample)
            })
            .collect();
        let metric = PodMetric {
            resource: "cpu",
            container: None,
            target,
        };
        let current = i32::try_from(phases.len()).expect("few");
        let found = of_pods(&metric, current, &pods, samples, TOLERANCES, now());
        assert_eq!(
            found.map(|p| p.replicas),
            expected.map_err(str::to_owned),
            "{phases:?} {used:?}"
        );
    }

    #[test]
    fn metrics_of_pods() {
        let run = ["Running"; 3];
        check(&run, &[300, 500, 700], Target::Utilization(30), Ok(5));
        check(&run, &[300, 300, 320], Target::Utilization(30), Ok(3));
        check(&run, &[100, 100, 100], Target::Utilization(50), Ok(1));
        check(&run, &[400, 400, 400], Target::Average(200), Ok(6));
        // One that says nothing holds back, either way.
        check(&run, &[900, 900, -1], Target::Utilization(30), Ok(6));
        check(&run, &[100, 100, -1], Target::Utilization(50), Ok(3));
        // One that is starting holds back only on the way up.
        check(
            &["Running", "Running", "Pending"],
            &[600, 600],
            Target::Utilization(30),
            Ok(4),
        );
        check(
            &["Pending"],
            &[],
            Target::Utilization(30),
            Err("did not receive metrics for targeted pods (pods might be unready)"),
        );
        check(
            &[],
            &[],
            Target::Utilization(30),
            Err("no pods returned by selector while calculating replica count"),
        );
    }

    #[test]
    fn metrics_of_others() {
        let pods = [pod("a", "Running"), pod("b", "Running")];
        assert_eq!(of_value(30_000, 20_000, 2, &pods, TOLERANCES), 3);
        assert_eq!(of_value(21_000, 20_000, 2, &pods, TOLERANCES), 2);
        assert_eq!(of_value(30_000, 20_000, 0, &[], TOLERANCES), 2);
        assert_eq!(of_average(30_000, 5_000, 2, TOLERANCES), (6, 15_000));
        assert_eq!(of_average(10_100, 5_000, 2, TOLERANCES), (2, 5_050));
    }
}
