//! Tests of what a node should have attached.

use super::decide::{Plan, View, Volume, needs_volumes, plan};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

fn volume(name: &str, mode: &str) -> Volume {
    let spec = json!({"accessModes": [mode], "csi": {"driver": "d", "volumeHandle": format!("h-{name}")}});
    let volume = json!({"metadata": {"name": name}, "spec": spec});
    let volume: PersistentVolume = serde_json::from_value(volume).expect("volume");
    Volume::of(&volume).expect("a CSI volume")
}

fn node(change: Value) -> Node {
    let mut node = json!({"metadata": {"name": "n"}, "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    for (path, value) in change.as_object().expect("changes") {
        *node.pointer_mut(path).expect("path") = value.clone();
    }
    serde_json::from_value(node).expect("node")
}

fn attachment(volume: &Volume, attached: bool) -> (Volume, Arc<VolumeAttachment>) {
    let attachment = json!({"metadata": {"name": volume.attachment_name("n")},
        "spec": {"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": volume.volume}},
        "status": {"attached": attached}});
    let attachment: VolumeAttachment = serde_json::from_value(attachment).expect("attachment");
    (volume.clone(), Arc::new(attachment))
}

struct Case {
    node: Option<Node>,
    wanted: Vec<Volume>,
    attachments: Vec<(Volume, Arc<VolumeAttachment>)>,
    /// How long what is in the way has been there.
    waited: i64,
    elsewhere: bool,
}

impl Case {
    fn new(node: Value) -> Self {
        Self {
            node: Some(self::node(node)),
            wanted: Vec::new(),
            attachments: Vec::new(),
            waited: 0,
            elsewhere: false,
        }
    }

    fn plan(&self) -> Plan {
        let now = Timestamp::from_second(10_000).expect("time");
        let since = now - SignedDuration::from_secs(self.waited);
        let names = self
            .attachments
            .iter()
            .filter_map(|(_, a)| a.metadata.name.clone());
        let view = View {
            name: "n",
            node: self.node.as_ref(),
            wanted: self
                .wanted
                .iter()
                .map(|v| (v.volume.clone(), v.clone()))
                .collect(),
            attachments: self.attachments.clone(),
            unwanted_since: &names.map(|n| (n, since)).collect::<BTreeMap<_, _>>(),
            elsewhere: &|_| self.elsewhere,
        };
        plan(&view, now)
    }
}

fn shown(plan: &Plan) -> Option<Vec<&str>> {
    let attached = plan.attached.as_ref()?;
    Some(attached.iter().map(|v| v.name.as_str()).collect())
}

#[test]
fn names_are_the_drivers() {
    let volume = volume("v", "ReadWriteOnce");
    assert_eq!(volume.unique_name(), "kubernetes.io/csi/d^h-v");
    // The digest of "h-vdn".
    assert_eq!(
        volume.attachment_name("n"),
        "csi-fb13f001a60a6b661a5e537ddb2cab004d25c489adf3dd79b540f233f8f3a2d8"
    );
}

#[test]
fn what_is_wanted_is_attached_and_then_shown() {
    let v = volume("v", "ReadWriteOnce");
    let mut case = Case::new(json!({}));
    case.wanted = vec![v.clone()];
    let plan = case.plan();
    assert_eq!(plan.attach.len(), 1);
    assert_eq!(
        plan.attach[0].spec.source.persistent_volume_name.as_deref(),
        Some("v")
    );
    assert_eq!(
        plan.attached, None,
        "nothing is shown before the driver has attached it"
    );
    case.attachments = vec![attachment(&v, false)];
    assert_eq!(case.plan(), Plan::default());
    case.attachments = vec![attachment(&v, true)];
    let plan = case.plan();
    assert_eq!(shown(&plan), Some(vec!["kubernetes.io/csi/d^h-v"]));
    assert!(plan.attach.is_empty() && plan.detach.is_empty());
}

#[test]
fn a_volume_for_one_node_waits_until_the_other_has_let_go() {
    let check = |mode: &str, blocked: usize, attach: usize| {
        let mut case = Case::new(json!({}));
        case.wanted = vec![volume("v", mode)];
        case.elsewhere = true;
        let plan = case.plan();
        assert_eq!(
            (plan.blocked.len(), plan.attach.len()),
            (blocked, attach),
            "{mode}"
        );
    };
    check("ReadWriteOnce", 1, 0);
    check("ReadWriteOncePod", 1, 0);
    check("ReadWriteMany", 0, 1);
    check("ReadOnlyMany", 0, 1);
}

#[test]
fn what_nobody_wants_goes_when_the_node_cannot_use_it() {
    let v = volume("v", "ReadWriteOnce");
    let in_use =
        json!({"conditions": [{"type": "Ready", "status": "True"}], "volumesInUse": [v.unique_name()]});
    let lost =
        json!({"conditions": [{"type": "Ready", "status": "Unknown"}], "volumesInUse": [v.unique_name()]});
    let taint = json!({"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]});
    let check = |node: Option<Value>, waited: i64, detached: bool, after: Option<u64>| {
        let mut case = Case::new(node.clone().unwrap_or(json!({})));
        case.node = node.as_ref().and(case.node);
        case.attachments = vec![attachment(&v, true)];
        case.waited = waited;
        let plan = case.plan();
        assert_eq!(!plan.detach.is_empty(), detached, "{node:?} {waited}");
        assert_eq!(plan.after, after.map(Duration::from_secs), "{node:?} {waited}");
        assert_eq!(plan.unwanted.len(), 1);
    };
    check(Some(json!({})), 0, true, None);
    check(Some(json!({"/status": in_use})), 9000, false, None);
    check(Some(json!({"/status": lost})), 0, false, Some(360));
    check(Some(json!({"/status": lost})), 300, false, Some(60));
    check(Some(json!({"/status": lost})), 360, true, None);
    check(Some(json!({"/status": lost, "/spec": taint})), 0, true, None);
    check(Some(json!({"/status": in_use, "/spec": taint})), 0, true, None);
    check(None, 0, true, None);
}

#[test]
fn the_status_no_longer_shows_what_is_to_be_detached() {
    let v = volume("v", "ReadWriteOnce");
    let attached = json!([{"name": v.unique_name(), "devicePath": ""}, {"name": "kubernetes.io/other/x", "devicePath": "/dev/x"}]);
    let mut case = Case::new(json!({"/status": {"volumesAttached": attached}}));
    case.attachments = vec![attachment(&v, true)];
    let plan = case.plan();
    assert_eq!(shown(&plan), Some(vec!["kubernetes.io/other/x"]));
    assert_eq!(plan.detach.len(), 1);
}

#[test]
fn which_pods_need_volumes() {
    let check = |pod: Value, keep: bool, expected: bool| {
        let annotations = json!({"volumes.kubernetes.io/keep-terminated-pod-volumes": keep.to_string()});
        let node = node(json!({"/metadata": {"name": "n", "annotations": annotations}}));
        let pod: Pod = serde_json::from_value(pod).expect("pod");
        assert_eq!(needs_volumes(&pod, &node), expected, "{pod:?}");
    };
    let running = json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": true, "restartCount": 0, "image": "", "imageID": "", "state": {"running": {}}}]});
    let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    check(
        json!({"metadata": {}, "status": {"phase": "Pending"}}),
        false,
        true,
    );
    check(
        json!({"metadata": {}, "status": {"phase": "Succeeded"}}),
        false,
        false,
    );
    check(
        json!({"metadata": {}, "status": {"phase": "Succeeded"}}),
        true,
        true,
    );
    check(json!({"metadata": deleted, "status": running}), false, true);
    check(
        json!({"metadata": deleted, "status": {"phase": "Running"}}),
        false,
        false,
    );
}
