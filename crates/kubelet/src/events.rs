//! Events about pods, containers and the node, with upstream's reasons.

use std::sync::Arc;

use client::events::{Recorder, Severity, Source, reference};
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod};
use machinery::clock::Clock;

use crate::pod::PodExt;

/// Says things. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    node: Arc<ObjectReference>,
}

/// Says things about one object.
pub struct About<'a> {
    events: &'a Events,
    about: ObjectReference,
}

impl Events {
    /// Must be called inside a tokio runtime.
    pub fn new(client: kube::Client, node: &str, clock: Arc<dyn Clock>) -> Self {
        let source = Source::Counted {
            component: "kubelet".to_owned(),
            host: node.to_owned(),
        };
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        };
        Self {
            recorder: Recorder::new(client, source, clock),
            node: Arc::new(about),
        }
    }

    pub fn pod(&self, pod: &Pod) -> About<'_> {
        About {
            events: self,
            about: pod_reference(pod),
        }
    }

    pub fn container(&self, pod: &Pod, container: &Container) -> About<'_> {
        self.container_named(pod, &container.name)
    }

    pub fn container_named(&self, pod: &Pod, name: &str) -> About<'_> {
        let mut about = pod_reference(pod);
        about.field_path = pod
            .find_container(name)
            .map(|(kind, _)| format!("{}{{{name}}}", kind.field()));
        About { events: self, about }
    }

    pub fn node(&self) -> About<'_> {
        About {
            events: self,
            about: (*self.node).clone(),
        }
    }
}

impl About<'_> {
    pub fn normal(&self, reason: &'static str, message: impl Into<String>) {
        self.events
            .recorder
            .event(&self.about, Severity::Normal, reason, message);
    }

    pub fn warning(&self, reason: &'static str, message: impl Into<String>) {
        self.events
            .recorder
            .event(&self.about, Severity::Warning, reason, message);
    }
}

impl About<'_> {
    /// A warning whose reason is one of the few that are not known beforehand.
    pub fn event_warning(&self, reason: &str, message: &str) {
        let known = REFUSALS
            .iter()
            .find(|r| **r == reason)
            .copied()
            .unwrap_or("UnexpectedAdmissionError");
        self.warning(known, message);
    }
}

/// Reasons of admission.
const REFUSALS: [&str; 10] = [
    "NodeAffinity",
    "NodeName",
    "NodePorts",
    "OutOfcpu",
    "OutOfephemeral-storage",
    "OutOfmemory",
    "OutOfpods",
    "PodOSNotSupported",
    "PodOSSelectorNodeLabelDoesNotMatch",
    "TaintToleration",
];

/// The generated type does not carry kind and version; a reference does.
fn pod_reference(pod: &Pod) -> ObjectReference {
    reference(pod)
}
