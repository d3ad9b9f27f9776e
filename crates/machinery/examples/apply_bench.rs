//! What tracking of field managers and the patches cost per write.
//!
//! `cargo run --release -p machinery --example apply_bench`

#[allow(dead_code)]
#[path = "../tests/it/cases.rs"]
mod cases;
#[allow(dead_code)]
#[path = "../tests/it/table.rs"]
mod table;

use jiff::Timestamp;
use machinery::apply::{FieldManager, ResetFields, SameFields};
use machinery::patch::strategic;
use std::hint::black_box;
use std::time::Instant;

const CONFIG_MAP: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: load-00001, namespace: bench, labels: {app: load, shard: "7"}, uid: 4d0b1c52-2f4b-4a5e-9a53-6f1f4a1d0001}
data: {payload: "PAYLOAD", a: "1", b: "2"}
"#;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: web-7c5ddbdf54-abcde
  generateName: web-7c5ddbdf54-
  namespace: default
  uid: 4d0b1c52-2f4b-4a5e-9a53-6f1f4a1d0001
  labels: {app: web, pod-template-hash: 7c5ddbdf54}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-7c5ddbdf54, uid: 9d0b1c52-2f4b-4a5e-9a53-6f1f4a1d0001, controller: true}]
spec:
  restartPolicy: Always
  terminationGracePeriodSeconds: 30
  nodeName: node-1
  securityContext: {}
  tolerations: [{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute}]
  volumes: [{name: tmp, emptyDir: {}}, {name: conf, configMap: {name: conf, key: k}}]
  containers:
  - name: web
    image: nginx:1.27
    env: [{name: A, value: "1"}, {name: B, value: "2"}, {name: C, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    ports: [{containerPort: 80, protocol: TCP, name: http}, {containerPort: 443, protocol: TCP, name: https}]
    resources: {limits: {cpu: 500m, memory: 128Mi}, requests: {cpu: 100m, memory: 64Mi}}
    volumeMounts: [{name: tmp, mountPath: /tmp}, {name: conf, mountPath: /etc/nginx}]
    livenessProbe: {httpGet: {path: /healthz, port: 80}, periodSeconds: 10}
  - name: sidecar
    image: envoy:1.30
    args: [--config, /etc/envoy.yaml]
status: {phase: Pending}
"#;

fn measure(name: &str, mut work: impl FnMut()) {
    for _ in 0..200 {
        work();
    }
    let (start, mut rounds) = (Instant::now(), 0_u32);
    while start.elapsed().as_millis() < 300 {
        for _ in 0..100 {
            work();
        }
        rounds += 100;
    }
    println!(
        "{name:<44} {:>9.2} us",
        start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds)
    );
}

fn main() {
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let main_reset = ResetFields::new([&["f:status"][..]]);
    let status_reset = ResetFields::new([&["f:spec"][..]]);
    let payload = "x".repeat(1000);
    for (kind, text) in [
        ("ConfigMap", CONFIG_MAP.replace("PAYLOAD", &payload)),
        ("Pod", POD.to_owned()),
    ] {
        let manager = |subresource, reset| FieldManager {
            types: &table::TYPES,
            id: table::id(kind),
            version: "v1",
            kind,
            subresource,
            built_in: true,
            reset,
            versions: &SameFields,
        };
        let main = manager("", &main_reset);
        let new = cases::value(&text);
        measure(&format!("{kind}: clone (for scale)"), || {
            drop(black_box(new.clone()))
        });
        measure(&format!("{kind}: create"), || {
            let mut new = new.clone();
            main.update(None, &mut new, "bench", now);
            black_box(new);
        });
        let mut live = new.clone();
        main.update(None, &mut live, "bench", now);
        measure(&format!("{kind}: update that changes nothing"), || {
            let mut new = live.clone();
            new.set_path(&["metadata", "resourceVersion"], "5");
            main.update(Some(&live), &mut new, "bench", now);
            black_box(new);
        });
        let mut changed = live.clone();
        changed.set_path(&["metadata", "annotations", "round"], "1");
        measure(&format!("{kind}: update of one annotation"), || {
            let mut new = changed.clone();
            main.update(Some(&live), &mut new, "other", now);
            black_box(new);
        });
        if kind == "Pod" {
            let status = manager("status", &status_reset);
            let conditions = "{phase: Running, conditions: [{type: Ready, status: 'True'}, {type: Initialized, status: 'True'}]}";
            let mut running = live.clone();
            running.set_path(&["status"], cases::value(conditions));
            measure("Pod: status update", || {
                let mut new = running.clone();
                status.update(Some(&live), &mut new, "kubelet", now);
                black_box(new);
            });
            let patch = cases::object("{spec: {containers: [{name: web, image: 'nginx:1.28'}]}}");
            let object = live.as_object().expect("an object").clone();
            measure("Pod: strategic merge patch", || {
                let done = strategic::apply(&table::TYPES, table::id(kind), object.clone(), patch.clone());
                let _ = black_box(done);
            });
        }
        let mut config = new.clone();
        config.remove_path(&["status"]);
        config.remove_path(&["metadata", "uid"]);
        let applied = main
            .apply(None, &config, "me", false, now)
            .expect("an apply to nothing")
            .object;
        measure(&format!("{kind}: apply that creates"), || {
            drop(black_box(main.apply(None, &config, "me", false, now)));
        });
        measure(&format!("{kind}: apply that changes nothing"), || {
            drop(black_box(main.apply(Some(&applied), &config, "me", false, now)));
        });
        let mut less = config.clone();
        less.remove_path(&["metadata", "labels", "app"]);
        measure(&format!("{kind}: apply that removes a field"), || {
            drop(black_box(main.apply(Some(&applied), &less, "me", false, now)));
        });
    }
}
