//! What the Node object should say. Pure.
//!
//! Follows upstream's `nodestatus/setters.go` with its reasons and messages.

use std::collections::BTreeMap;

use cri::v1;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::machine::Machine;
use crate::config::Settings;
use crate::quantity::{ResourceList, cpu_quantity, quantity};

/// Names of an image that are listed.
const MAX_NAMES: usize = 5;

/// What is measured or asked each time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Against being ready, in upstream's words; empty when ready.
    pub errors: Vec<String>,
    pub memory_pressure: bool,
    pub disk_pressure: bool,
    pub pid_pressure: bool,
    pub images: Vec<v1::Image>,
    pub runtime: String,
    pub runtime_version: String,
    pub handlers: Vec<v1::RuntimeHandler>,
    pub features: Option<v1::RuntimeFeatures>,
    /// Of device plugins, by resource: all, and those that are well.
    pub devices: BTreeMap<String, (i64, i64)>,
    /// Sorted.
    pub volumes_in_use: Vec<String>,
}

/// The object a node registers itself with.
pub fn initial(settings: &Settings, machine: &Machine) -> Node {
    let mut taints = settings.taints.clone();
    if settings.unschedulable {
        taints.push(k8s_openapi::api::core::v1::Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Default::default()
        });
    }
    Node {
        metadata: ObjectMeta {
            name: Some(settings.node_name.clone()),
            labels: Some(labels(settings, machine)),
            annotations: Some(BTreeMap::from([(
                "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                "true".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            unschedulable: settings.unschedulable.then_some(true),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

/// The labels a kubelet gives its node.
pub fn labels(settings: &Settings, machine: &Machine) -> BTreeMap<String, String> {
    let mut labels = settings.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", settings.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine.arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine.arch),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// The status as it should be, given the one that stands; and events about what changed.
pub fn status(
    settings: &Settings,
    machine: &Machine,
    observed: &Observed,
    old: &NodeStatus,
    now: Timestamp,
) -> (NodeStatus, Vec<&'static str>) {
    let mut events = Vec::new();
    let mut conditions = old.conditions.clone().unwrap_or_default();
    pressure(
        &mut conditions,
        &MEMORY,
        observed.memory_pressure,
        now,
        &mut events,
    );
    pressure(&mut conditions, &DISK, observed.disk_pressure, now, &mut events);
    pressure(&mut conditions, &PID, observed.pid_pressure, now, &mut events);
    ready(&mut conditions, &observed.errors, now, &mut events);
    let with = |own: &BTreeMap<String, i64>, count: fn(i64, i64) -> i64| {
        let devices = observed.devices.iter();
        let mut amounts: BTreeMap<String, i64> = devices
            .map(|(name, (all, well))| (name.clone(), count(*all, *well)))
            .collect();
        amounts.extend(own.clone());
        amounts
    };
    let status = NodeStatus {
        addresses: Some(addresses(settings)),
        capacity: Some(list(&with(&machine.capacity, |all, _| all))),
        allocatable: Some(list(&with(&machine.allocatable, |_, well| well))),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(settings.port),
            }),
        }),
        images: Some(images(settings, &observed.images)).filter(|i| !i.is_empty()),
        node_info: Some(NodeSystemInfo {
            architecture: machine.arch.to_owned(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: format!("{}://{}", observed.runtime, observed.runtime_version),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: settings.version.clone(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }),
        runtime_handlers: Some(observed.handlers.iter().map(handler).collect())
            .filter(|h: &Vec<_>| !h.is_empty()),
        features: observed.features.as_ref().map(|f| NodeFeatures {
            supplemental_groups_policy: Some(f.supplemental_groups_policy),
        }),
        volumes_in_use: Some(observed.volumes_in_use.clone()).filter(|v| !v.is_empty()),
        ..old.clone()
    };
    (status, events)
}

/// Whether two statuses differ in more than the time of the heartbeat.
pub fn differs(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    still(a) != still(b)
}

struct Pressure {
    kind: &'static str,
    yes: [&'static str; 2],
    no: [&'static str; 2],
    events: [&'static str; 2],
}

const MEMORY: Pressure = Pressure {
    kind: "MemoryPressure",
    yes: [
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
    ],
    no: [
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
    ],
    events: ["NodeHasInsufficientMemory", "NodeHasSufficientMemory"],
};
const DISK: Pressure = Pressure {
    kind: "DiskPressure",
    yes: ["KubeletHasDiskPressure", "kubelet has disk pressure"],
    no: ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"],
    events: ["NodeHasDiskPressure", "NodeHasNoDiskPressure"],
};
const PID: Pressure = Pressure {
    kind: "PIDPressure",
    yes: [
        "KubeletHasInsufficientPID",
        "kubelet has insufficient PID available",
    ],
    no: ["KubeletHasSufficientPID", "kubelet has sufficient PID available"],
    events: ["NodeHasInsufficientPID", "NodeHasSufficientPID"],
};

fn pressure(
    conditions: &mut Vec<NodeCondition>,
    kind: &Pressure,
    under: bool,
    now: Timestamp,
    events: &mut Vec<&'static str>,
) {
    let ([reason, message], event) = if under {
        (kind.yes, kind.events[0])
    } else {
        (kind.no, kind.events[1])
    };
    if set(conditions, kind.kind, under, reason, message, now) {
        events.push(event);
    }
}

fn ready(
    conditions: &mut Vec<NodeCondition>,
    errors: &[String],
    now: Timestamp,
    events: &mut Vec<&'static str>,
) {
    let is_new = !conditions.iter().any(|c| c.type_ == "Ready");
    let message = match errors {
        [] => "kubelet is posting ready status".to_owned(),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let ready = errors.is_empty();
    let reason = if ready { "KubeletReady" } else { "KubeletNotReady" };
    if set(conditions, "Ready", ready, reason, &message, now) && !is_new {
        events.push(if ready { "NodeReady" } else { "NodeNotReady" });
    }
}

/// Returns whether the condition's status is another than before.
fn set(
    conditions: &mut Vec<NodeCondition>,
    kind: &str,
    status: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let status = if status { "True" } else { "False" };
    // Times are written in whole seconds; compare what will be read back.
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let old = conditions.iter().position(|c| c.type_ == kind);
    let changed = old.is_none_or(|i| conditions[i].status != status);
    let transition = match old {
        Some(i) if !changed => conditions[i].last_transition_time.clone(),
        _ => Some(now.clone()),
    };
    let condition = NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: Some(now),
        last_transition_time: transition,
    };
    match old {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
    changed
}

fn addresses(settings: &Settings) -> Vec<NodeAddress> {
    let address = |kind: &str, address: &str| NodeAddress {
        type_: kind.to_owned(),
        address: address.to_owned(),
    };
    let mut list: Vec<NodeAddress> = settings
        .node_ips
        .iter()
        .map(|ip| address("InternalIP", ip))
        .collect();
    list.push(address("Hostname", &settings.node_name));
    list
}

fn list(amounts: &BTreeMap<String, i64>) -> ResourceList {
    amounts
        .iter()
        .map(|(name, value)| {
            let q = match name.as_str() {
                "cpu" => cpu_quantity(*value),
                "memory" => {
                    k8s_openapi::apimachinery::pkg::api::resource::Quantity(format!("{}Ki", value / 1024))
                }
                _ => quantity(*value),
            };
            (name.clone(), q)
        })
        .collect()
}

/// The largest first, with the digests before the tags.
fn images(settings: &Settings, images: &[v1::Image]) -> Vec<ContainerImage> {
    let mut sorted: Vec<&v1::Image> = images.iter().collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    sorted
        .into_iter()
        .take(settings.max_images)
        .map(|image| ContainerImage {
            names: Some(
                image
                    .repo_digests
                    .iter()
                    .chain(&image.repo_tags)
                    .take(MAX_NAMES)
                    .cloned()
                    .collect(),
            ),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect()
}

fn handler(handler: &v1::RuntimeHandler) -> NodeRuntimeHandler {
    NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: handler.features.as_ref().map(|f| NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(f.recursive_read_only_mounts),
            user_namespaces: Some(f.user_namespaces),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_and_events() {
        let settings = Settings::new("n", "/d", "/s");
        let machine = Machine {
            cpus: 2,
            memory: 1 << 30,
            arch: "amd64",
            ..Machine::default()
        }
        .with_resources(&settings);
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut observed = Observed::default();
        let (first, events) = status(&settings, &machine, &observed, &NodeStatus::default(), at(1));
        assert_eq!(
            events,
            [
                "NodeHasSufficientMemory",
                "NodeHasNoDiskPressure",
                "NodeHasSufficientPID"
            ]
        );
        let kinds: Vec<_> = first
            .conditions
            .iter()
            .flatten()
            .map(|c| format!("{}={}", c.type_, c.status))
            .collect();
        assert_eq!(
            kinds,
            [
                "MemoryPressure=False",
                "DiskPressure=False",
                "PIDPressure=False",
                "Ready=True"
            ]
        );
        assert_eq!(first.capacity.as_ref().unwrap()["cpu"].0, "2");
        assert_eq!(first.capacity.as_ref().unwrap()["memory"].0, "1048576Ki");

        let (second, events) = status(&settings, &machine, &observed, &first, at(100));
        assert!(
            events.is_empty() && !differs(&first, &second),
            "only the heartbeat moved"
        );
        observed.errors = vec!["container runtime is down".into(), "x".into()];
        let (third, events) = status(&settings, &machine, &observed, &second, at(200));
        assert_eq!(events, ["NodeNotReady"]);
        let ready = third
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Ready")
            .unwrap();
        assert_eq!(ready.message.as_deref(), Some("[container runtime is down, x]"));
        assert_eq!(ready.last_transition_time, Some(Time(at(200))));
    }
}
