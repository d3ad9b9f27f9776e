//! Controllers on a real node: sets with volumes, daemons, Jobs, schedules, autoscaling under real load, drains and the
//! end of a namespace. (Rolling updates and their undoing are tried in `rollout`.)

use crate::api::{Kubectl, is_ready, name};
use crate::harness::{TestNode, wait_for, wait_within};
use crate::payload;
use serde_json::{Value, json};
use std::time::Duration;

/// Two volumes that exist, and a set of two pods that write their names into theirs.
const STATEFUL: &str = "
apiVersion: v1
kind: PersistentVolume
metadata: {name: first}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 1Gi}
  storageClassName: by-hand
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: DATA/first, type: DirectoryOrCreate}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: second}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 1Gi}
  storageClassName: by-hand
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: DATA/second, type: DirectoryOrCreate}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: keeper, namespace: default}
spec:
  replicas: 2
  serviceName: keeper
  selector: {matchLabels: {app: keeper}}
  template:
    metadata: {labels: {app: keeper}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: keeper
        image: kijabi.test/tools:1
        command: [sh, -c, 'hostname >> /data/names; trap exit TERM; while :; do sleep 1 & wait $!; done']
        readinessProbe: {exec: {command: [test, -s, /data/names]}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: by-hand, resources: {requests: {storage: 1Gi}}}
";

#[test]
fn a_stateful_set_comes_in_order_and_keeps_its_volumes() {
    let Some(tools) = payload::tools() else { return };
    let Some(node) = TestNode::start() else { return };
    node.import(&tools);
    node.create(&STATEFUL.replace("DATA", &node.home().join("volumes").to_string_lossy()));
    let pods = node.wait_ready_pods("default", "app=keeper", 2);
    let began = |pod: &str| {
        let pod = pods.iter().find(|p| name(p) == pod).unwrap();
        pod["metadata"]["creationTimestamp"].as_str().unwrap().to_owned()
    };
    assert!(began("keeper-0") <= began("keeper-1"));
    let claims = node.get("/api/v1/namespaces/default/persistentvolumeclaims");
    let bound: Vec<&Value> = claims["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["status"]["phase"])
        .collect();
    assert_eq!(bound, ["Bound", "Bound"]);

    // A pod that dies comes back under its name, to its own volume.
    let path = "/api/v1/namespaces/default/pods/keeper-0";
    let uid = node.get(path)["metadata"]["uid"].clone();
    assert_eq!(node.request("DELETE", path, "").code, 200);
    wait_for("another keeper-0 is ready", || {
        let answer = node.request("GET", path, "");
        (answer.code == 200 && answer.body["metadata"]["uid"] != uid && is_ready(&answer.body)).then_some(())
    });
    let names = node
        .machine()
        .sh(&format!("cat {}/volumes/*/names | sort", node.home().display()));
    assert_eq!(
        names.split_whitespace().collect::<Vec<_>>(),
        ["keeper-0", "keeper-0", "keeper-1"]
    );
}

const DAEMON: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: watch, namespace: default}
spec:
  selector: {matchLabels: {app: watch}}
  template:
    metadata: {labels: {app: watch}}
    spec:
      terminationGracePeriodSeconds: 0
      nodeSelector: {watched: 'yes'}
      containers: [{name: watch, image: kijabi.test/tools:1, command: [sleep, '100000']}]
";

const JOB: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: parts, namespace: default}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  backoffLimitPerIndex: 3
  podFailurePolicy:
    rules: [{action: FailIndex, onExitCodes: {operator: In, values: [42]}}]
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: part
        image: kijabi.test/tools:1
        command: [sh, -c, 'test $JOB_COMPLETION_INDEX != 1 || exit 42']
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: minute, namespace: default}
spec:
  schedule: '* * * * *'
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: tick, image: kijabi.test/tools:1, command: ['true']}]
";

#[test]
fn daemons_follow_labels_jobs_their_policies_and_schedules_the_clock() {
    let Some(tools) = payload::tools() else { return };
    let Some(node) = TestNode::start() else { return };
    node.import(&tools);
    node.create(JOB);
    node.create(DAEMON);

    let nodes = node.get("/api/v1/nodes");
    let this = format!("/api/v1/nodes/{}", name(&nodes["items"][0]));
    let label = |value: Value| {
        let patch = json!({"metadata": {"labels": {"watched": value}}}).to_string();
        let answer = node
            .try_request("PATCH", &this, "application/merge-patch+json", patch.into())
            .unwrap();
        assert_eq!(answer.code, 200, "{}", answer.body);
    };
    label(json!("yes"));
    node.wait_ready_pods("default", "app=watch", 1);
    label(Value::Null);
    wait_for("the daemon has left the node", || {
        node.pods("default", "app=watch").is_empty().then_some(())
    });

    let job = wait_for("the Job is over", || {
        let job = node.get("/apis/batch/v1/namespaces/default/jobs/parts");
        let over = job["status"]["conditions"]
            .as_array()?
            .iter()
            .any(|c| c["type"] == "Failed" && c["status"] == "True");
        over.then_some(job)
    });
    let status = &job["status"];
    assert_eq!(
        (&status["completedIndexes"], &status["failedIndexes"]),
        (&json!("0,2"), &json!("1"))
    );
    let pods = node.pods("default", "batch.kubernetes.io/job-name=parts");
    assert_eq!(pods.len(), 3, "exit code 42 is not tried again");

    wait_within(Duration::from_secs(100), "the minute's Job is done", || {
        let cron = node.get("/apis/batch/v1/namespaces/default/cronjobs/minute");
        (!cron["status"]["lastSuccessfulTime"].is_null()).then_some(())
    });
}

const LOAD: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: load, namespace: default}
spec:
  selector: {matchLabels: {app: load}}
  template:
    metadata: {labels: {app: load}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: load
        image: kijabi.test/tools:1
        command: [sh, -c, 'while :; do if [ -e /tmp/calm ]; then sleep 1; else i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; fi; done']
        resources: {requests: {cpu: 50m}, limits: {cpu: 100m}}
        volumeMounts: [{name: switch, mountPath: /tmp}]
      volumes: [{name: switch, hostPath: {path: DATA, type: DirectoryOrCreate}}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: load, namespace: default}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: load}
  maxReplicas: 2
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}}]
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
";

#[test]
fn an_autoscaler_follows_real_load_up_and_down() {
    let Some(tools) = payload::tools() else { return };
    let Some(node) = TestNode::start() else { return };
    if node.cgroups().is_empty() {
        crate::harness::skipped("no control groups to measure load with");
        return;
    }
    node.import(&tools);
    let switch = node.home().join("switch");
    node.create(&LOAD.replace("DATA", &switch.to_string_lossy()));
    let patience = Duration::from_secs(120);
    let replicas = |wanted: i64| {
        let load = node.get("/apis/apps/v1/namespaces/default/deployments/load");
        (load["spec"]["replicas"] == wanted).then_some(())
    };
    wait_within(patience, "two replicas under load", || replicas(2));
    let usage = node.get("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app%3Dload");
    assert_eq!(usage["kind"], "PodMetricsList");
    assert_eq!(usage["items"][0]["containers"][0]["name"], "load");
    let nodes = node.get("/apis/metrics.k8s.io/v1beta1/nodes");
    assert_eq!(nodes["items"].as_array().map(Vec::len), Some(1));
    for kubectl in Kubectl::all() {
        assert!(
            kubectl.run(&node, "top pod -l app=load").contains("load-"),
            "{}",
            kubectl.name()
        );
        assert!(kubectl.run(&node, "top node").contains('%'), "{}", kubectl.name());
    }
    node.machine().sh(&format!("touch {}/calm", switch.display()));
    wait_within(patience, "one replica when it is calm", || replicas(1));
}

const BUDGET: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: kept, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app: kept}}
  template:
    metadata: {labels: {app: kept}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: kept, image: kijabi.test/tools:1, command: [sleep, '100000']}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: kept, namespace: default}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: kept}}
";

#[test]
fn a_drain_honours_a_budget() {
    let Some(tools) = payload::tools() else { return };
    let Some(node) = TestNode::start() else { return };
    node.import(&tools);
    node.create(BUDGET);
    node.wait_ready_pods("default", "app=kept", 2);
    let budget = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/kept";
    wait_for("one pod may go", || {
        (node.get(budget)["status"]["disruptionsAllowed"] == 1).then_some(())
    });
    let nodes = node.get("/api/v1/nodes");
    let this = name(&nodes["items"][0]).to_owned();
    for kubectl in Kubectl::all() {
        let words = format!("drain {this} --ignore-daemonsets --delete-emptydir-data --timeout=5s");
        let words: Vec<&str> = words.split_whitespace().collect();
        let drained = kubectl.command(&node, &words).output().unwrap();
        let told = String::from_utf8_lossy(&drained.stderr);
        assert!(
            !drained.status.success() && told.contains("disruption budget"),
            "{told}"
        );
        // One went, its successor finds no node; the other stays, however often it is asked to go.
        let ready = node
            .pods("default", "app=kept")
            .iter()
            .filter(|p| is_ready(p))
            .count();
        assert_eq!(ready, 1, "{}", kubectl.name());
        kubectl.run(&node, &format!("uncordon {this}"));
        node.wait_ready_pods("default", "app=kept", 2);
        wait_for("one pod may go again", || {
            (node.get(budget)["status"]["disruptionsAllowed"] == 1).then_some(())
        });
    }
}

#[test]
fn a_namespace_waits_for_finalizers_and_says_so() {
    let Some(node) = TestNode::start() else { return };
    node.create(
        "
apiVersion: v1
kind: Namespace
metadata: {name: leaving}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: held, namespace: leaving, finalizers: [kijabi.test/hold]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: free, namespace: leaving}
",
    );
    let path = "/api/v1/namespaces/leaving";
    assert_eq!(node.request("DELETE", path, "").code, 200);
    wait_for("the namespace says what it waits for", || {
        let conditions = node.get(path)["status"]["conditions"].as_array()?.clone();
        let waits = |c: &Value| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True";
        conditions.iter().any(waits).then_some(())
    });
    assert_eq!(
        node.request("GET", &format!("{path}/configmaps/free"), "").code,
        404
    );
    let freed = json!({"metadata": {"finalizers": null}}).to_string();
    let held = format!("{path}/configmaps/held");
    let answer = node
        .try_request("PATCH", &held, "application/merge-patch+json", freed.into())
        .unwrap();
    assert_eq!(answer.code, 200, "{}", answer.body);
    wait_for("the namespace is gone", || {
        (node.request("GET", path, "").code == 404).then_some(())
    });
}
