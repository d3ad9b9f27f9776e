//! Deployments and Jobs.

use crate::{deployment, pods, template, until_ready};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use testkit::{Cluster, Options};

#[tokio::test(start_paused = true)]
async fn a_deployment_rolls_scales_and_heals() {
    let cluster = Cluster::start(Options::default()).await;
    let deployments = cluster.api::<Deployment>("default");
    cluster
        .create::<Deployment>("default", deployment("web", 3, "nginx:1"))
        .await;
    let first = until_ready(&cluster, "app=web", 3).await;

    let patch = Patch::Strategic(
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "nginx:2"}]}}}}),
    );
    deployments
        .patch("web", &PatchParams::default(), &patch)
        .await
        .expect("patched");
    let done = cluster
        .until("the rollout", || async {
            let web = deployments.get("web").await.ok()?;
            let status = web.status.clone()?;
            let conditions = status.conditions.unwrap_or_default();
            let available = conditions
                .iter()
                .any(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
            let updated = status.updated_replicas == Some(3) && status.replicas == Some(3);
            (updated && available && status.observed_generation == web.metadata.generation).then_some(web)
        })
        .await;
    let annotations = done.metadata.annotations.unwrap_or_default();
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "2");
    let second = until_ready(&cluster, "app=web", 3).await;
    assert!(
        second
            .iter()
            .all(|p| !first.iter().any(|f| f.metadata.uid == p.metadata.uid))
    );
    let sets = cluster
        .api::<ReplicaSet>("default")
        .list(&ListParams::default())
        .await
        .expect("sets")
        .items;
    assert_eq!(sets.len(), 2);

    let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
    deployments
        .patch_scale("web", &PatchParams::default(), &scale)
        .await
        .expect("scaled");
    let five = until_ready(&cluster, "app=web", 5).await;
    let victim = five[0].metadata.name.clone().expect("name");
    cluster
        .api::<Pod>("default")
        .delete(&victim, &DeleteParams::default())
        .await
        .expect("deleted");
    cluster
        .until("the pod's successor", || async {
            let pods = pods(&cluster, "app=web").await;
            (pods.len() == 5 && pods.iter().all(|p| p.metadata.name.as_ref() != Some(&victim))).then_some(())
        })
        .await;
    let events = cluster
        .api::<Event>("default")
        .list(&ListParams::default())
        .await
        .expect("events")
        .items;
    let said = |text: &str| {
        events
            .iter()
            .any(|e| e.message.as_deref().is_some_and(|m| m.contains(text)))
    };
    assert!(said("Scaled up replica set web-") && said("Created pod: web-") && said("Deleted pod: web-"));
    assert!(events.iter().any(|e| e.reason.as_deref() == Some("Scheduled")));

    deployments
        .delete("web", &DeleteParams::default())
        .await
        .expect("deleted");
    until_ready(&cluster, "app=web", 0).await;
}

#[tokio::test(start_paused = true)]
async fn jobs_complete_and_fail() {
    let cluster = Cluster::start(Options::default()).await;
    let job = |name: &str, fate: &str| {
        let mut template = template(name, "busybox", fate);
        template["spec"]["restartPolicy"] = json!("Never");
        json!({"metadata": {"name": name}, "spec": {"completions": 4, "parallelism": 2, "backoffLimit": 1,
            "ttlSecondsAfterFinished": 100, "template": template}})
    };
    let jobs = cluster.api::<Job>("default");
    cluster.create::<Job>("default", job("good", "succeed")).await;
    cluster.create::<Job>("default", job("bad", "fail")).await;
    let ended = |name: &'static str| {
        let jobs = jobs.clone();
        async move {
            let status = jobs.get(name).await.ok()?.status?;
            let last = status.conditions?.into_iter().next_back()?;
            let over = matches!(last.type_.as_str(), "Complete" | "Failed");
            over.then(|| {
                format!(
                    "{} {} {:?} {:?}",
                    last.type_,
                    last.reason.unwrap_or_default(),
                    status.succeeded,
                    status.failed
                )
            })
        }
    };
    let good = cluster.until("the good job", || ended("good")).await;
    assert_eq!(good, "Complete CompletionsReached Some(4) None");
    let bad = cluster.until("the bad job", || ended("bad")).await;
    assert!(bad.starts_with("Failed BackoffLimitExceeded None"), "{bad}");
    let left = pods(&cluster, "app=good").await;
    let tracked = |p: &Pod| p.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty());
    assert!(!left.iter().any(tracked), "tracking ended");
    cluster
        .until("both jobs past their time", || async {
            let jobs = jobs.list(&ListParams::default()).await.expect("jobs").items;
            (jobs.is_empty() && pods(&cluster, "app in (good,bad)").await.is_empty()).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_stateful_set_keeps_names_and_claims() {
    let cluster = Cluster::start(Options::default()).await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "made-by-hand"}});
    let spec = json!({"replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
        "template": template("db", "redis:1", "run")});
    cluster
        .create::<StatefulSet>("default", json!({"metadata": {"name": "db"}, "spec": spec}))
        .await;
    let names =
        |pods: &[Pod]| -> Vec<String> { pods.iter().filter_map(|p| p.metadata.name.clone()).collect() };
    assert_eq!(names(&until_ready(&cluster, "app=db", 2).await), ["db-0", "db-1"]);
    let sets = cluster.api::<StatefulSet>("default");
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "redis:2"}]}}}});
    sets.patch("db", &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .expect("patched");
    cluster
        .until("the update", || async {
            let status = sets.get("db").await.ok()?.status?;
            let done =
                status.update_revision == status.current_revision && status.updated_replicas == Some(2);
            (done && status.ready_replicas == Some(2)).then_some(())
        })
        .await;
    let pods = until_ready(&cluster, "app=db", 2).await;
    let image = |p: &Pod| p.spec.as_ref().and_then(|s| s.containers[0].image.clone());
    assert!(pods.iter().all(|p| image(p).as_deref() == Some("redis:2")));
    let revisions = cluster
        .api::<ControllerRevision>("default")
        .list(&ListParams::default())
        .await;
    assert_eq!(revisions.expect("revisions").items.len(), 2);

    let spec = json!({"replicas": 1, "serviceName": "kv", "selector": {"matchLabels": {"app": "kv"}},
        "template": template("kv", "redis:1", "run"), "volumeClaimTemplates": [claim]});
    cluster
        .create::<StatefulSet>("default", json!({"metadata": {"name": "kv"}, "spec": spec}))
        .await;
    let claims = cluster.api::<PersistentVolumeClaim>("default");
    let made = cluster
        .until("the claim", || async {
            claims.get_opt("data-kv-0").await.expect("asked")
        })
        .await;
    assert_eq!(made.metadata.labels.expect("labels")["app"], "kv");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_set_is_on_every_node_that_fits() {
    let cluster = Cluster::start(Options {
        nodes: 3,
        ..Options::default()
    })
    .await;
    let spec = json!({"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", "agent:1", "run")});
    cluster
        .create::<DaemonSet>("default", json!({"metadata": {"name": "agent"}, "spec": spec}))
        .await;
    let on = |pods: &[Pod]| {
        let mut nodes: Vec<String> = pods
            .iter()
            .filter_map(|p| p.spec.as_ref()?.node_name.clone())
            .collect();
        nodes.sort();
        nodes
    };
    assert_eq!(
        on(&until_ready(&cluster, "app=agent", 3).await),
        ["node-0", "node-1", "node-2"]
    );
    cluster.nodes.add("node-3").await;
    assert_eq!(on(&until_ready(&cluster, "app=agent", 4).await).len(), 4);
    let sets = cluster.api::<DaemonSet>("default");
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "agent:2"}]}}}});
    sets.patch("agent", &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .expect("patched");
    cluster
        .until("the update", || async {
            let status = sets.get("agent").await.ok()?.status?;
            (status.updated_number_scheduled == Some(4) && status.number_available == Some(4)).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_cron_job_starts_jobs_on_time() {
    let cluster = Cluster::start(Options::default()).await;
    let mut template = template("tick", "busybox", "succeed");
    template["spec"]["restartPolicy"] = json!("Never");
    let spec = json!({"schedule": "*/5 * * * *", "successfulJobsHistoryLimit": 2, "jobTemplate": {"spec": {"template": template}}});
    cluster
        .create::<CronJob>("default", json!({"metadata": {"name": "tick"}, "spec": spec}))
        .await;
    let jobs = cluster.api::<Job>("default");
    let crons = cluster.api::<CronJob>("default");
    cluster
        .until("the job of five past", || async {
            jobs.get_opt("tick-29453765").await.expect("asked")
        })
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(21 * 60)).await;
    cluster
        .until("the last two jobs only", || async {
            let left = jobs.list(&ListParams::default()).await.expect("jobs").items;
            let status = crons.get("tick").await.ok()?.status?;
            let last = status.last_schedule_time?.0.to_string();
            (left.len() == 2 && status.active.is_none() && last == "2026-01-01T00:25:00Z").then_some(())
        })
        .await;
}
