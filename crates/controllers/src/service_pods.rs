//! Which pods stand behind a Service, for the two controllers that write it down.

use crate::pods;
use client::informer::Index;
use client::labels::selects;
use client::{Event, ObjectKey, Queue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Whether a controller keeps this Service's endpoints; the others' are kept by hand or do not exist.
pub(crate) fn has_selector(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let external = spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName");
    !external && spec.is_some_and(|s| s.selector.is_some())
}

/// The pods a Service selects, by name.
pub(crate) fn selected(service: &Service, pods: &Index<Pod>) -> Vec<Arc<Pod>> {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    let mut found = pods.get(service.metadata.namespace.as_deref().unwrap_or(""));
    found.retain(|pod| selects(selector, pod.metadata.labels.as_ref()));
    found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    found
}

/// Whether a pod has an address to offer.
pub(crate) fn belongs(pod: &Pod, include_terminating: bool) -> bool {
    let status = pod.status.as_ref();
    let has_ip = status.is_some_and(|s| {
        s.pod_ip.as_ref().is_some_and(|ip| !ip.is_empty())
            || s.pod_ips.as_ref().is_some_and(|ips| !ips.is_empty())
    });
    has_ip && !pods::is_finished(pod) && (include_terminating || !pods::is_terminating(pod))
}

/// The pod's addresses of one family, in canonical form.
pub(crate) fn addresses(pod: &Pod, v6: bool) -> Vec<String> {
    let ips = pod.status.as_ref().and_then(|s| s.pod_ips.as_ref());
    ips.into_iter()
        .flatten()
        .filter_map(|ip| ip.ip.parse::<IpAddr>().ok())
        .filter(|ip| ip.is_ipv6() == v6)
        .map(|ip| ip.to_string())
        .collect()
}

/// The pod's host name, if it makes a DNS name under this Service.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_ref().filter(|h| !h.is_empty())?;
    let same = spec.subdomain.as_deref() == service.metadata.name.as_deref()
        && pod.metadata.namespace == service.metadata.namespace;
    same.then(|| hostname.clone())
}

/// The number of a pod's port that a Service's port leads to.
pub(crate) fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let protocol = |p: &Option<String>| p.clone().unwrap_or_else(|| "TCP".to_owned());
    let mut ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten());
    let found =
        ports.find(|p| p.name.as_ref() == Some(name) && protocol(&p.protocol) == protocol(&port.protocol));
    found.map(|p| p.container_port)
}

/// Whether the Service has an address of its own.
pub(crate) fn has_ip(service: &Service) -> bool {
    let ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref());
    !matches!(ip, None | Some("" | "None"))
}

pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|s| s.publish_not_ready_addresses == Some(true))
}

/// When the change happened that is being written down: the earliest that came after what was `noted`.
pub(crate) fn trigger_time(service: &Service, pods: &[Arc<Pod>], noted: Option<&str>) -> Option<String> {
    let created = service.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let Some(noted) = noted.and_then(|t| t.parse::<Timestamp>().ok()) else {
        return created.map(|t| t.to_string());
    };
    let changes = pods.iter().filter_map(|pod| {
        let ready = pods::condition(pod, "Ready")?;
        ready.last_transition_time.as_ref().map(|t| t.0)
    });
    let earliest = changes.filter(|t| *t > noted).min();
    Some(earliest.unwrap_or(noted).to_string())
}

/// A pod's event concerns the Services that select it, or did.
pub(crate) fn enqueue_services(event: &Event<Pod>, services: &Index<Service>, queue: &Queue<ObjectKey>) {
    let pod = event.object();
    if let Event::Updated { old, new } = event
        && !matters(old, new)
    {
        return;
    }
    let former = match event {
        Event::Updated { old, .. } => old.metadata.labels.as_ref(),
        _ => None,
    };
    for service in services.get(pod.metadata.namespace.as_deref().unwrap_or("")) {
        let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
        if selects(selector, pod.metadata.labels.as_ref()) || selects(selector, former) {
            queue.add(ObjectKey::of(&*service));
        }
    }
}

fn matters(old: &Pod, new: &Pod) -> bool {
    let ips = |pod: &Pod| pod.status.as_ref().and_then(|s| s.pod_ips.clone());
    let dns = |pod: &Pod| {
        pod.spec
            .as_ref()
            .map(|s| (s.hostname.clone(), s.subdomain.clone()))
    };
    old.metadata.labels != new.metadata.labels
        || pods::is_terminating(old) != pods::is_terminating(new)
        || pods::is_ready(old) != pods::is_ready(new)
        || pods::is_finished(old) != pods::is_finished(new)
        || ips(old) != ips(new)
        || dns(old) != dns(new)
}
