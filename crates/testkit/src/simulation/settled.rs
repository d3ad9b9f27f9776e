//! Whether everything is as declared, and nothing is left over.

use super::facts::{controller, holds, is_active, is_finished, is_healthy, is_leaving, number};
use super::workloads::{LEAST, MOST, REQUEST, TARGET};
use super::world::World;
use crate::Cluster;
use jiff::Timestamp;
use machinery::{Value, meta};
use std::collections::BTreeSet;

/// What is not yet as it should be.
pub(super) fn missing(world: &World, cluster: &Cluster, nodes: &[String]) -> Vec<String> {
    let mut missing = Vec::new();
    let mut want = |holds: bool, what: &dyn Fn() -> String| {
        if !holds {
            missing.push(what());
        }
    };
    let names: BTreeSet<&str> = world.all("minions").map(meta::name).collect();
    want(names.len() == nodes.len(), &|| {
        format!("{} nodes of {}", names.len(), nodes.len())
    });
    for node in world.all("minions") {
        let tainted = node.get_path(&["spec", "taints"]).and_then(Value::as_array);
        let sound = holds(node, "Ready") && tainted.is_none_or(<[Value]>::is_empty);
        want(sound, &|| {
            format!("node {} is not ready or tainted", meta::name(node))
        });
    }
    for set in world.all("deployments") {
        want(is_rolled_out(set), &|| {
            format!("deployment {}: {}", meta::name(set), status(set))
        });
    }
    for set in world.all("statefulsets") {
        want(is_stateful_done(set), &|| {
            format!("stateful set {}: {}", meta::name(set), status(set))
        });
    }
    let nodes = i64::try_from(nodes.len()).unwrap_or(i64::MAX);
    for set in world.all("daemonsets") {
        want(is_everywhere(set, nodes), &|| {
            format!("daemon set {}: {}", meta::name(set), status(set))
        });
    }
    for job in world.all("jobs").filter(|job| controller(job).is_none()) {
        want(holds(job, "Complete"), &|| {
            format!("job {}: {}", meta::name(job), status(job))
        });
    }
    let now = cluster.clock.now();
    for cron in world.all("cronjobs") {
        let last = cron.get_str_path(&["status", "lastScheduleTime"]);
        let last = last.and_then(|t| t.parse::<Timestamp>().ok());
        // A job of 70 seconds every minute is started every other minute at least.
        let fresh = last.is_some_and(|t| now.duration_since(t).as_secs() < 200);
        want(fresh, &|| {
            format!("cron job {} last ran at {last:?}, now is {now}", meta::name(cron))
        });
    }
    for budget in world.all("poddisruptionbudgets") {
        let of = |field: &str| number(budget, &["status", field]).unwrap_or(-1);
        let sound = of("currentHealthy") == of("expectedPods")
            && of("observedGeneration") == meta::generation(budget)
            && budget
                .get_path(&["status", "disruptedPods"])
                .is_none_or(Value::is_empty);
        want(sound, &|| {
            format!("budget {}: {}", meta::name(budget), status(budget))
        });
    }
    let elastic = world.all("deployments").find(|d| meta::name(d) == "elastic");
    let replicas = elastic
        .and_then(|d| number(d, &["spec", "replicas"]))
        .unwrap_or(0);
    let load = cluster.usage.get("elastic");
    want(is_scaled(load, replicas), &|| {
        format!("elastic has {replicas} pods for a load of {load}m")
    });
    pods(world, &names, &mut want);
    missing
}

fn pods(world: &World, nodes: &BTreeSet<&str>, want: &mut dyn FnMut(bool, &dyn Fn() -> String)) {
    let mut owners: BTreeSet<&str> = BTreeSet::new();
    for resource in [
        "cronjobs",
        "daemonsets",
        "deployments",
        "jobs",
        "replicasets",
        "statefulsets",
    ] {
        owners.extend(world.all(resource).map(meta::uid));
    }
    for resource in ["jobs", "pods", "replicasets"] {
        for object in world.all(resource) {
            let orphan = controller(object).is_some_and(|(_, uid)| !owners.contains(uid));
            want(!orphan, &|| {
                format!("{resource} {} is left over", meta::name(object))
            });
        }
    }
    for pod in world.all("pods") {
        let node = pod.get_str_path(&["spec", "nodeName"]).unwrap_or("");
        // What cron jobs start is always on its way.
        let passing = controller(pod).is_some_and(|(kind, _)| kind == "Job") && is_active(pod);
        let sound = is_finished(pod) || passing || (is_healthy(pod) && nodes.contains(node));
        want(sound, &|| {
            format!("pod {} on {node:?}: {}", meta::name(pod), status(pod))
        });
    }
    for set in world.all("replicasets").chain(world.all("statefulsets")) {
        let wanted = number(set, &["spec", "replicas"]).unwrap_or(0);
        let pods = world.pods_of(meta::uid(set)).count();
        want(i64::try_from(pods) == Ok(wanted), &|| {
            format!("{} has {pods} pods of {wanted}", meta::name(set))
        });
    }
}

fn status(object: &Value) -> String {
    let status = object.get("status").cloned().unwrap_or_default();
    String::from_utf8_lossy(&machinery::codec::json::to_vec(&status)).into_owned()
}

fn observed(object: &Value) -> bool {
    !is_leaving(object) && number(object, &["status", "observedGeneration"]) == Some(meta::generation(object))
}

fn is_rolled_out(set: &Value) -> bool {
    let wanted = number(set, &["spec", "replicas"]).unwrap_or(1);
    let of = |field: &str| number(set, &["status", field]).unwrap_or(0);
    let all = [
        "replicas",
        "updatedReplicas",
        "availableReplicas",
        "readyReplicas",
    ];
    observed(set) && all.into_iter().all(|field| of(field) == wanted)
}

fn is_stateful_done(set: &Value) -> bool {
    let wanted = number(set, &["spec", "replicas"]).unwrap_or(1);
    let of = |field: &str| number(set, &["status", field]).unwrap_or(0);
    let revision = |field: &str| set.get_str_path(&["status", field]).unwrap_or("").to_owned();
    let all = [
        "replicas",
        "readyReplicas",
        "availableReplicas",
        "currentReplicas",
    ];
    observed(set)
        && all.into_iter().all(|field| of(field) == wanted)
        && revision("currentRevision") == revision("updateRevision")
}

fn is_everywhere(set: &Value, nodes: i64) -> bool {
    let of = |field: &str| number(set, &["status", field]).unwrap_or(0);
    let all = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberAvailable",
        "updatedNumberScheduled",
    ];
    observed(set) && of("numberMisscheduled") == 0 && all.into_iter().all(|field| of(field) == nodes)
}

/// Within a tenth of the target, or at a bound; the shares are rounded to thousandths of a core.
fn is_scaled(load: i64, replicas: i64) -> bool {
    let wanted = (load * 100).div_euclid(REQUEST * TARGET).clamp(LEAST, MOST);
    let use_of_one = load / replicas.max(1) * 100 / REQUEST;
    let near = (use_of_one - TARGET).abs() * 10 <= TARGET;
    replicas == wanted || (near && (LEAST..=MOST).contains(&replicas))
}
