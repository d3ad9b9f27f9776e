//! What the simulated cluster is asked to run.

use crate::{Cluster, FATE};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

/// Thousandths of a core that a pod of `elastic` asks for.
pub(super) const REQUEST: i64 = 200;
/// Percent of it that the autoscaler aims at.
pub(super) const TARGET: i64 = 50;
pub(super) const LEAST: i64 = 2;
pub(super) const MOST: i64 = 10;

pub(super) fn containers(image: u32) -> Value {
    let requests = json!({"cpu": format!("{REQUEST}m")});
    json!([{"name": "c", "image": format!("x:{image}"), "resources": {"requests": requests}}])
}

fn template(app: &str, fate: &str) -> Value {
    let mut template = json!({"metadata": {"labels": {"app": app}, "annotations": {FATE: fate}},
        "spec": {"containers": containers(1), "terminationGracePeriodSeconds": 5}});
    if fate != "run" {
        template["spec"]["restartPolicy"] = json!("Never");
    }
    template
}

/// A Deployment that may surge by two and miss one.
pub(super) fn deployment(app: &str, replicas: i32) -> Value {
    json!({"metadata": {"name": app}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": app}},
        "strategy": {"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}}, "template": template(app, "run")}})
}

/// A Job of twelve indexes, three at a time, some of whose pods fail.
pub(super) fn job(name: &str, indexed: bool) -> Value {
    let mode = if indexed { "Indexed" } else { "NonIndexed" };
    let spec = json!({"completions": 12, "parallelism": 3, "completionMode": mode, "backoffLimit": 1000,
        "template": template(name, "flaky")});
    json!({"metadata": {"name": name}, "spec": spec})
}

fn cron_job(name: &str, policy: &str, fate: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"schedule": "* * * * *", "concurrencyPolicy": policy,
        "successfulJobsHistoryLimit": 1, "jobTemplate": {"spec": {"backoffLimit": 1000, "template": template(name, fate)}}}})
}

/// Declares everything.
pub(super) async fn create(cluster: &Cluster) {
    const NAMESPACE: &str = "default";
    for (app, replicas) in [("web", 6), ("api", 3), ("elastic", 4)] {
        cluster
            .create::<Deployment>(NAMESPACE, deployment(app, replicas))
            .await;
    }
    let mut recreated = deployment("solo", 2);
    recreated["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create::<Deployment>(NAMESPACE, recreated).await;
    for (app, policy) in [("db", "OrderedReady"), ("cache", "Parallel")] {
        let spec = json!({"replicas": 3, "serviceName": app, "podManagementPolicy": policy,
            "selector": {"matchLabels": {"app": app}}, "template": template(app, "run")});
        cluster
            .create::<StatefulSet>(NAMESPACE, json!({"metadata": {"name": app}, "spec": spec}))
            .await;
    }
    let spec = json!({"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", "run"),
        "updateStrategy": {"rollingUpdate": {"maxUnavailable": "20%"}}});
    cluster
        .create::<DaemonSet>(NAMESPACE, json!({"metadata": {"name": "agent"}, "spec": spec}))
        .await;
    cluster.create::<Job>(NAMESPACE, job("task", true)).await;
    cluster.create::<Job>(NAMESPACE, job("heap", false)).await;
    for (name, policy, fate) in [("tick", "Forbid", "toil"), ("tock", "Replace", "toil")] {
        cluster
            .create::<CronJob>(NAMESPACE, cron_job(name, policy, fate))
            .await;
    }
    for (app, field, number) in [("web", "minAvailable", 4), ("db", "maxUnavailable", 1)] {
        let spec = json!({"selector": {"matchLabels": {"app": app}}, field: number});
        cluster
            .create::<PodDisruptionBudget>(NAMESPACE, json!({"metadata": {"name": app}, "spec": spec}))
            .await;
    }
    let target = json!({"type": "Utilization", "averageUtilization": TARGET});
    let spec = json!({"minReplicas": LEAST, "maxReplicas": MOST,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "elastic"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]});
    cluster
        .create::<HorizontalPodAutoscaler>(NAMESPACE, json!({"metadata": {"name": "elastic"}, "spec": spec}))
        .await;
    cluster.usage.set("elastic", REQUEST * TARGET / 100 * 4);
}
