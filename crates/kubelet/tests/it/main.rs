//! A whole kubelet over a runtime and an API server in memory, on virtual time.

mod api;
mod csi;
mod devices;
mod runtime;
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Api;
use jiff::Timestamp;
use kubelet::runtime::client::Runtime;
use kubelet::{Config, Kubelet, ServerConfig, Settings};
use linux::fake::Recorder;
use machinery::clock::{Clock, VirtualClock};
use runtime::FakeRuntime;
use serde_json::{Value, json};

struct World {
    api: Api,
    runtime: FakeRuntime,
    clock: Arc<dyn Clock>,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::with_clock(Arc::new(VirtualClock::starting_at(
            "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap(),
        )))
    }

    fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self {
            api: Api::new(clock.clone()),
            runtime: FakeRuntime::new(clock.clone()),
            clock,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    async fn kubelet(&self) -> Kubelet {
        self.kubelet_with(None).await
    }

    async fn kubelet_with(&self, server: Option<ServerConfig>) -> Kubelet {
        let mut settings = Settings::new("node", self.dir.path(), "/unused");
        // Not this machine's disk: what a full one does is tested where it is chosen.
        settings.eviction.thresholds.clear();
        settings.node_ips = vec!["192.0.2.1".to_owned()];
        settings.cluster_dns = vec!["10.43.0.10".to_owned()];
        settings.cgroup_parent = "kijabi-test".to_owned();
        settings.reserved = BTreeMap::new();
        let client = self.api.client();
        let kernel = Arc::new(Recorder::default().with_controllers(["cpu", "memory", "pids"]));
        let config = Config {
            settings,
            informers: client::Informers::new(client.clone()),
            client,
            clock: self.clock.clone(),
            mounts: kernel.clone(),
            cgroups: Some(kernel),
            server,
        };
        let runtime = Runtime::new(self.runtime.clients().await).await.unwrap();
        Kubelet::start_with(config, runtime).await.unwrap()
    }

    fn pod(&self, name: &str, spec: Value) -> String {
        let mut spec = spec;
        spec["nodeName"] = json!("node");
        if spec["restartPolicy"].is_null() {
            spec["restartPolicy"] = json!("Always");
        }
        spec["terminationGracePeriodSeconds"] = json!(30);
        self.api.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "generation": 1},
            "spec": spec, "status": {"phase": "Pending"}
        }));
        format!("/api/v1/namespaces/default/pods/{name}")
    }

    async fn phase(&self, path: &str, phase: &str) -> Value {
        self.api
            .until(path, phase, |p| p["status"]["phase"] == phase)
            .await
    }
}

fn one(image: &str) -> Value {
    json!({"containers": [{"name": "a", "image": image, "imagePullPolicy": "IfNotPresent"}]})
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    conditions
        .iter()
        .find(|c| c["type"] == kind)
        .map_or("absent", |c| c["status"].as_str().unwrap())
}

fn waiting(pod: &Value) -> (&str, &str) {
    let state = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    (
        state["reason"].as_str().unwrap_or_default(),
        state["message"].as_str().unwrap_or_default(),
    )
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_goes() {
    let world = World::new();
    let _kubelet = world.kubelet().await;
    let path = world.pod("web", one("nginx"));
    let pod = world
        .api
        .until(&path, "ready", |p| {
            p["status"]["conditions"].is_array() && condition(p, "Ready") == "True"
        })
        .await;
    let status = &pod["status"];
    assert_eq!(
        (&status["phase"], &status["podIP"], &status["hostIP"]),
        (&json!("Running"), &json!("10.1.0.5"), &json!("192.0.2.1"))
    );
    assert_eq!(status["qosClass"], "BestEffort");
    assert_eq!(status["containerStatuses"][0]["started"], true);
    let told = world.api.events();
    for part in [
        "Pulling: Pulling image \"nginx\"",
        "Pulled: Successfully pulled image \"nginx\" in",
        "Created: Container created",
        "Started: Container started",
    ] {
        assert!(told.iter().any(|e| e.starts_with(part)), "{part} in {told:#?}");
    }
    let node = world
        .api
        .until("/api/v1/nodes/node", "there", |n| !n.is_null())
        .await;
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "node");
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node";
    world
        .api
        .until(lease, "there", |l| l["spec"]["holderIdentity"] == "node")
        .await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    assert!(world.dir.path().join("kubelet/pods").join(uid).exists());

    world.api.delete(&path);
    world.api.until(&path, "gone", Value::is_null).await;
    world.runtime.until("empty", FakeRuntime::is_empty).await;
    assert_eq!(
        world.runtime.count("stop a in 30"),
        1,
        "{:?}",
        world.runtime.calls()
    );
    assert!(!world.dir.path().join("kubelet/pods").join(uid).exists());
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_backs_off() {
    let world = World::new();
    let _kubelet = world.kubelet().await;
    let path = world.pod("crash", one("present"));
    world.phase(&path, "Running").await;
    world.runtime.exit("a", 1);
    let restarts = |n: i64| {
        move |p: &Value| {
            let c = &p["status"]["containerStatuses"][0];
            c["restartCount"] == n && c["state"]["running"].is_object()
        }
    };
    let pod = world.api.until(&path, "restarted", restarts(1)).await;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(1), &json!("Error")));
    world.runtime.exit("a", 2);
    let before = world.clock.now();
    let pod = world
        .api
        .until(&path, "backing off", |p| waiting(p).0 == "CrashLoopBackOff")
        .await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    assert_eq!(
        waiting(&pod).1,
        format!("back-off 10s restarting failed container=a pod=crash_default({uid})")
    );
    assert_eq!(pod["status"]["phase"], "Running");
    world.api.until(&path, "restarted again", restarts(2)).await;
    let waited = world.clock.now().duration_since(before).as_secs();
    assert!((10..12).contains(&waited), "{waited}");
    world
        .api
        .until_event("BackOff: Back-off restarting failed container a in pod crash_default")
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_job_ends() {
    let world = World::new();
    let _kubelet = world.kubelet().await;
    let mut spec = one("present");
    spec["restartPolicy"] = json!("Never");
    spec["initContainers"] = json!([{"name": "i", "image": "present", "imagePullPolicy": "IfNotPresent"}]);
    let path = world.pod("job", spec);
    world
        .runtime
        .until("initialising", |r| r.running() == ["i"])
        .await;
    let pod = world
        .api
        .until(&path, "initialising", |p| {
            p["status"]["initContainerStatuses"][0]["state"]["running"].is_object()
        })
        .await;
    assert_eq!(
        (pod["status"]["phase"].as_str(), condition(&pod, "Initialized")),
        (Some("Pending"), "False")
    );
    assert_eq!(waiting(&pod).0, "PodInitializing");
    world.runtime.exit("i", 0);
    world.phase(&path, "Running").await;
    world.runtime.exit("a", 0);
    let pod = world.phase(&path, "Succeeded").await;
    let end = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&end["reason"], &end["exitCode"]),
        (&json!("Completed"), &json!(0))
    );
    assert_eq!(world.runtime.count("create a"), 1);
    // Its logs stay until it is deleted.
    assert!(!world.runtime.is_empty());
    world.api.delete(&path);
    world.api.until(&path, "gone", Value::is_null).await;
    world.runtime.until("empty", FakeRuntime::is_empty).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_comes_late() {
    let world = World::new();
    world.runtime.break_image("late");
    let _kubelet = world.kubelet().await;
    let path = world.pod("late", one("late:1"));
    world
        .api
        .until(&path, "failing", |p| waiting(p).0 == "ErrImagePull")
        .await;
    let pod = world
        .api
        .until(&path, "backing off", |p| waiting(p).0 == "ImagePullBackOff")
        .await;
    assert_eq!(
        waiting(&pod).1,
        "Back-off pulling image \"late:1\": ErrImagePull: rpc error: code = NotFound desc = late:1: not found"
    );
    world.runtime.mend_images();
    world.phase(&path, "Running").await;
    let told = world.api.events();
    for part in [
        "Failed: Failed to pull image \"late:1\": rpc error",
        "Failed: Error: ErrImagePull",
        "BackOff: Back-off pulling image \"late:1\"",
    ] {
        assert!(told.iter().any(|e| e.starts_with(part)), "{part} in {told:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_kubelet_takes_over() {
    let world = World::new();
    let kubelet = world.kubelet().await;
    let path = world.pod("web", one("present"));
    world.phase(&path, "Running").await;
    world.runtime.exit("a", 1);
    world
        .api
        .until(&path, "restarted", |p| {
            p["status"]["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    kubelet.stop().await;
    let gone = world.pod("gone", one("present"));
    world.api.remove(&gone);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.runtime.running(), ["a"], "pods live on");

    let _kubelet = world.kubelet().await;
    // A second pod shows that the kubelet is through with the first.
    let other = world.pod(
        "other",
        json!({"containers": [{"name": "b", "image": "present", "imagePullPolicy": "IfNotPresent"}]}),
    );
    world.phase(&other, "Running").await;
    let pod = world.api.get(&path).unwrap();
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(condition(&pod, "Ready"), "True");
    assert_eq!(world.runtime.count("create a"), 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_api_forgot_is_removed() {
    let world = World::new();
    let kubelet = world.kubelet().await;
    let path = world.pod("orphan", one("present"));
    world.phase(&path, "Running").await;
    kubelet.stop().await;
    world.api.remove(&path);
    let _kubelet = world.kubelet().await;
    world.runtime.until("empty", FakeRuntime::is_empty).await;
}

#[tokio::test(start_paused = true)]
async fn a_config_map_comes_late_and_changes() {
    let world = World::new();
    let _kubelet = world.kubelet().await;
    let mut spec = one("present");
    spec["volumes"] = json!([{"name": "v", "configMap": {"name": "m"}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/etc/v"}]);
    let path = world.pod("web", spec);
    world
        .api
        .until_event("FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found")
        .await;
    world.api.put(
        json!({"kind": "ConfigMap", "metadata": {"name": "m", "namespace": "default"}, "data": {"k": "one"}}),
    );
    world.phase(&path, "Running").await;
    let file = std::path::PathBuf::from(world.runtime.mount("a", "/etc/v").unwrap()).join("k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");
    world.api.change(
        "/api/v1/namespaces/default/configmaps/m",
        json!({"data": {"k": "two"}}),
    );
    let changed = async {
        while std::fs::read_to_string(&file).unwrap() != "two" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), changed)
        .await
        .expect("the file changes");
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_is_told() {
    let world = World::new();
    let _kubelet = world.kubelet().await;
    let mut spec = one("present");
    spec["containers"][0]["env"] =
        json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]);
    let path = world.pod("web", spec);
    let pod = world
        .api
        .until(&path, "refused", |p| waiting(p).0 == "CreateContainerConfigError")
        .await;
    assert_eq!(waiting(&pod).1, "configmap \"m\" not found");
    world.api.put(
        json!({"kind": "ConfigMap", "metadata": {"name": "m", "namespace": "default"}, "data": {"k": "v"}}),
    );
    world.phase(&path, "Running").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_too_big_is_refused() {
    let world = World::new();
    let _kubelet = world.kubelet().await;
    let mut spec = one("present");
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": "10000"}});
    let path = world.pod("big", spec);
    let pod = world.phase(&path, "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    assert!(pod["status"]["message"].as_str().unwrap().starts_with(
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 10000000, used: 0"
    ));
    assert_eq!(world.runtime.count("run_sandbox"), 0);
    world.api.delete(&path);
    world.api.until(&path, "gone", Value::is_null).await;
}

#[tokio::test(start_paused = true)]
async fn probes_make_ready_and_kill() {
    let world = World::new();
    let _kubelet = world.kubelet().await;
    world.runtime.exec_ends_with(1);
    let mut spec = one("present");
    let probe = |period: u32| json!({"exec": {"command": ["check"]}, "periodSeconds": period, "failureThreshold": 3, "successThreshold": 1, "timeoutSeconds": 1});
    spec["containers"][0]["readinessProbe"] = probe(5);
    let path = world.pod("web", spec.clone());
    let pod = world.phase(&path, "Running").await;
    assert_eq!(condition(&pod, "Ready"), "False");
    world
        .api
        .until_event("Unhealthy: Readiness probe failed: output")
        .await;
    world.runtime.exec_ends_with(0);
    world
        .api
        .until(&path, "ready", |p| condition(p, "Ready") == "True")
        .await;

    spec["containers"][0]["name"] = json!("b");
    spec["containers"][0]["livenessProbe"] = probe(5);
    spec["containers"][0]
        .as_object_mut()
        .unwrap()
        .remove("readinessProbe");
    let path = world.pod("sick", spec);
    world.phase(&path, "Running").await;
    world.runtime.exec_ends_with(1);
    world
        .api
        .until_event("Killing: Container b failed liveness probe, will be restarted")
        .await;
    world
        .api
        .until(&path, "restarted", |p| {
            p["status"]["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_shorter_grace_interrupts() {
    let world = World::new();
    let _kubelet = world.kubelet().await;
    world.runtime.make_stubborn("a");
    let path = world.pod("slow", one("present"));
    world.phase(&path, "Running").await;
    let before = world.clock.now();
    world.api.delete(&path);
    world
        .runtime
        .until("stopping", |r| r.count("stop a in 30") == 1)
        .await;
    world
        .api
        .change(&path, json!({"metadata": {"deletionGracePeriodSeconds": 3}}));
    world.api.until(&path, "gone", Value::is_null).await;
    let took = world.clock.now().duration_since(before).as_secs();
    assert!(took < 10, "{took}");
    assert_eq!(
        world.runtime.count("stop a in 3"),
        2,
        "30 and 3: {:?}",
        world.runtime.calls()
    );
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_pod() {
    let world = World::new();
    let _kubelet = world.kubelet().await;
    let mut spec = one("present");
    spec["activeDeadlineSeconds"] = json!(100);
    let path = world.pod("dead", spec);
    world.phase(&path, "Running").await;
    let pod = world.phase(&path, "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    assert_eq!(
        pod["status"]["message"],
        "Pod was active on the node longer than the specified deadline"
    );
    assert!(world.runtime.running().is_empty());
}
