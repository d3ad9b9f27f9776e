//! Labels and annotations on sandboxes and containers, with upstream's names, so that either kubelet can
//! adopt what the other started.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::pod::PodExt;

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

const HASH: &str = "io.kubernetes.container.hash";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
const PORTS: &str = "io.kubernetes.container.ports";
const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// What a container's annotations tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerInfo {
    pub hash: u64,
    pub restart_count: i32,
    pub message_path: String,
    pub fallback_to_logs: bool,
    pub deletion_grace: Option<i64>,
    pub termination_grace: Option<i64>,
    pub pre_stop: Option<LifecycleHandler>,
}

pub fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = pod
        .metadata
        .labels
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    labels.extend(identity(pod));
    labels
}

pub fn pod_annotations(pod: &Pod) -> HashMap<String, String> {
    pod.metadata
        .annotations
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

pub fn container_labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = identity(pod).into_iter().collect();
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    labels
}

/// The selector that finds everything of one pod.
pub fn uid_selector(uid: &str) -> HashMap<String, String> {
    HashMap::from([(POD_UID.to_owned(), uid.to_owned())])
}

fn identity(pod: &Pod) -> [(String, String); 3] {
    [
        (POD_NAME.to_owned(), pod.name().to_owned()),
        (POD_NAMESPACE.to_owned(), pod.namespace().to_owned()),
        (POD_UID.to_owned(), pod.uid().to_owned()),
    ]
}

pub fn container_annotations(
    pod: &Pod,
    container: &Container,
    restart_count: i32,
) -> HashMap<String, String> {
    let mut map = HashMap::from([
        (HASH.to_owned(), format!("{:x}", hash(container))),
        (RESTART_COUNT.to_owned(), restart_count.to_string()),
        (
            MESSAGE_PATH.to_owned(),
            container.termination_message_path.clone().unwrap_or_default(),
        ),
        (
            MESSAGE_POLICY.to_owned(),
            container.termination_message_policy.clone().unwrap_or_default(),
        ),
    ]);
    if let Some(grace) = pod.metadata.deletion_grace_period_seconds {
        map.insert(DELETION_GRACE.to_owned(), grace.to_string());
    }
    if let Some(grace) = pod.spec().termination_grace_period_seconds {
        map.insert(TERMINATION_GRACE.to_owned(), grace.to_string());
    }
    if let Some(text) = container
        .lifecycle
        .as_ref()
        .and_then(|l| l.pre_stop.as_ref())
        .and_then(json)
    {
        map.insert(PRE_STOP.to_owned(), text);
    }
    if let Some(text) = container.ports.as_ref().filter(|p| !p.is_empty()).and_then(json) {
        map.insert(PORTS.to_owned(), text);
    }
    map
}

fn json<T: serde::Serialize>(value: &T) -> Option<String> {
    serde_json::to_string(value)
        .inspect_err(|error| tracing::warn!(%error, "cannot annotate a container"))
        .ok()
}

pub fn container_info(annotations: &HashMap<String, String>) -> ContainerInfo {
    let text = |key: &str| annotations.get(key).map(String::as_str);
    let number = |key: &str| text(key).and_then(|t| t.parse::<i64>().ok());
    ContainerInfo {
        hash: text(HASH)
            .and_then(|t| u64::from_str_radix(t, 16).ok())
            .unwrap_or(0),
        restart_count: text(RESTART_COUNT).and_then(|t| t.parse().ok()).unwrap_or(0),
        message_path: text(MESSAGE_PATH).unwrap_or_default().to_owned(),
        fallback_to_logs: text(MESSAGE_POLICY) == Some("FallbackToLogsOnError"),
        deletion_grace: number(DELETION_GRACE),
        termination_grace: number(TERMINATION_GRACE),
        pre_stop: text(PRE_STOP).and_then(|t| serde_json::from_str(t).ok()),
    }
}

/// FNV-1a over what makes a running container another one: its name and image. Everything else of a container
/// spec is either immutable or applied in place.
pub fn hash(container: &Container) -> u64 {
    let image = container.image.as_deref().unwrap_or_default();
    let text = serde_json::json!({ "image": image, "name": container.name }).to_string();
    u64::from(fnv1a32(text.as_bytes()))
}

fn fnv1a32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn annotations_round_trip() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "deletionGracePeriodSeconds": 7},
            "spec": {"terminationGracePeriodSeconds": 30, "containers": [{
                "name": "c", "image": "i", "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "lifecycle": {"preStop": {"sleep": {"seconds": 3}}}
            }]}
        }))
        .unwrap();
        let container = &pod.containers()[0];
        let info = container_info(&container_annotations(&pod, container, 4));
        assert_eq!(info.hash, hash(container));
        assert_eq!(info.restart_count, 4);
        assert_eq!((info.deletion_grace, info.termination_grace), (Some(7), Some(30)));
        assert!(info.fallback_to_logs);
        assert_eq!(info.pre_stop.unwrap().sleep.unwrap().seconds, 3);
        let mut changed = container.clone();
        changed.image = Some("j".into());
        assert_ne!(hash(&changed), hash(container));
    }
}
