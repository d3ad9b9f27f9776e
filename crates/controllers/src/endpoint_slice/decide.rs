//! Which slices of a Service to make, change and delete, so that few are written and none holds too much.
//!
//! Upstream's order: drop what went, change what stayed where it is, fill slices that are written anyway, then the
//! one that fits best, then new ones.

use super::topology::{self, Shares};
use crate::owner::controller_ref;
use crate::pods::{is_ready, is_terminating};
use crate::service_pods::{
    HEADLESS_LABEL, TRIGGER_TIME, addresses, belongs, find_port, has_ip, hostname, publishes_not_ready,
    trigger_time,
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
const MAX_ENDPOINTS: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
    /// Pods whose node is not known yet.
    pub(super) nodeless: Vec<String>,
    /// What to tell the Service's owner about its hints.
    pub(super) hints: Vec<Notice>,
}

/// How a Service stands with topology aware hints, for one family of addresses.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice {
    Enabled(String),
    Disabled(String),
}

/// Gives a node's zone; the outer `None` when the node is unknown.
pub(super) type ZoneOf<'a> = dyn Fn(&str) -> Option<Option<String>> + 'a;

pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: &[Arc<EndpointSlice>],
    zone_of: &ZoneOf<'_>,
    shares: Option<&Shares>,
) -> Plan {
    let families = families(service);
    let mut plan = Plan::default();
    let (kept, strangers): (Vec<_>, Vec<_>) = existing
        .iter()
        .cloned()
        .partition(|s| families.contains(&s.address_type.as_str()) && is_owned(s, service));
    for family in families {
        let of_family: Vec<_> = kept
            .iter()
            .filter(|s| s.address_type == family)
            .cloned()
            .collect();
        plan_family(service, pods, &of_family, family, zone_of, shares, &mut plan);
    }
    plan.delete.extend(strangers);
    recycle(&mut plan, service);
    let time = |slice: &EndpointSlice| {
        let noted = slice
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(TRIGGER_TIME));
        trigger_time(service, pods, noted.map(String::as_str))
    };
    for slice in plan.create.iter_mut().chain(&mut plan.update) {
        if let Some(time) = time(slice) {
            slice
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(TRIGGER_TIME.to_owned(), time);
        }
    }
    plan
}

fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let listed = spec.and_then(|s| s.ip_families.as_ref()).into_iter().flatten();
    let families: Vec<_> = listed
        .map(|f| if f == "IPv6" { "IPv6" } else { "IPv4" })
        .collect();
    match spec.and_then(|s| s.cluster_ip.as_deref()) {
        _ if !families.is_empty() => families,
        None | Some("" | "None") => vec!["IPv4", "IPv6"],
        Some(ip) if ip.contains(':') => vec!["IPv6"],
        Some(_) => vec!["IPv4"],
    }
}

fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    let mut owners = slice.metadata.owner_references.iter().flatten();
    owners.any(|o| o.kind == "Service" && Some(&o.uid) == service.metadata.uid.as_ref())
}

fn plan_family(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: &[Arc<EndpointSlice>],
    family: &'static str,
    zone_of: &ZoneOf<'_>,
    shares: Option<&Shares>,
    plan: &mut Plan,
) {
    let mut wanted: Vec<(Vec<EndpointPort>, Vec<Endpoint>)> = Vec::new();
    for pod in pods.iter().filter(|p| belongs(p, true)) {
        let ports = ports(service, pod);
        let at = wanted
            .iter()
            .position(|(p, _)| same_ports(p, &ports))
            .unwrap_or_else(|| {
                wanted.push((ports, Vec::new()));
                wanted.len() - 1
            });
        let node = pod
            .spec
            .as_ref()
            .and_then(|s| s.node_name.as_deref())
            .unwrap_or("");
        let zone = zone_of(node);
        if zone.is_none() && !publishes_not_ready(service) {
            plan.nodeless.push(pod.metadata.name.clone().unwrap_or_default());
            continue;
        }
        let endpoint = endpoint(service, pod, family, zone.flatten());
        if !endpoint.addresses.is_empty() {
            wanted[at].1.push(endpoint);
        }
    }
    plan.hints
        .extend(assign_hints(service, &mut wanted, existing, family, shares));
    let before = (plan.create.len(), plan.delete.len());
    for (ports, offered) in &wanted {
        let of_ports: Vec<_> = existing
            .iter()
            .filter(|s| same_ports(slice_ports(s), ports))
            .cloned()
            .collect();
        fit(service, family, ports, offered.clone(), &of_ports, plan);
    }
    let unwanted = existing
        .iter()
        .filter(|s| !wanted.iter().any(|(p, _)| same_ports(slice_ports(s), p)));
    plan.delete.extend(unwanted.cloned());
    // A Service without any endpoint has one empty slice, so that readers know it was looked at.
    let deleted = plan.delete.len() - before.1;
    if existing.len() == deleted && plan.create.len() == before.0 {
        let placeholder = new_slice(service, family, &[]);
        match plan.delete.last() {
            Some(only) if deleted == 1 && is_same_placeholder(only, &placeholder) => {
                plan.delete.pop();
            }
            _ => plan.create.push(placeholder),
        }
    }
}

/// Gives endpoints hints by their zones' shares, if the Service asks for that; what changed by it.
fn assign_hints(
    service: &Service,
    wanted: &mut [(Vec<EndpointPort>, Vec<Endpoint>)],
    existing: &[Arc<EndpointSlice>],
    family: &str,
    shares: Option<&Shares>,
) -> Option<Notice> {
    let before: Vec<&Endpoint> = existing.iter().flat_map(|s| endpoints(s)).collect();
    let had = before.iter().any(|e| topology::hinted(e).is_some());
    let Some(shares) = shares else {
        let other = service
            .spec
            .as_ref()
            .is_some_and(|s| s.traffic_distribution.is_some());
        let message = format!("Topology Aware Hints has been disabled, addressType: {family}");
        return (had && !other).then_some(Notice::Disabled(message));
    };
    let mut all: Vec<&mut Endpoint> = wanted.iter_mut().flat_map(|(_, endpoints)| endpoints).collect();
    match topology::assign(&mut all, &before, shares) {
        Ok(()) if had => None,
        Ok(()) => Some(Notice::Enabled(format!(
            "Topology Aware Hints has been enabled, addressType: {family}"
        ))),
        Err(why) => Some(Notice::Disabled(format!("{why}, addressType: {family}"))),
    }
}

fn is_same_placeholder(slice: &EndpointSlice, placeholder: &EndpointSlice) -> bool {
    endpoints(slice).is_empty()
        && slice_ports(slice).is_empty()
        && slice.metadata.labels == placeholder.metadata.labels
}

/// Puts endpoints of one set of ports into slices.
fn fit(
    service: &Service,
    family: &'static str,
    ports: &[EndpointPort],
    mut missing: Vec<Endpoint>,
    existing: &[Arc<EndpointSlice>],
    plan: &mut Plan,
) {
    let mut changed: Vec<EndpointSlice> = Vec::new();
    let mut unchanged: Vec<&Arc<EndpointSlice>> = Vec::new();
    for slice in existing {
        let mut stay = Vec::new();
        let mut differs = false;
        for old in endpoints(slice) {
            if let Some(at) = missing.iter().position(|e| is_same_endpoint(e, old)) {
                let new = missing.remove(at);
                differs |= new != *old;
                stay.push(new);
            }
        }
        let labels = labels(service);
        if stay.is_empty() && !endpoints(slice).is_empty() {
            plan.delete.push(Arc::clone(slice));
        } else if differs
            || stay.len() != endpoints(slice).len()
            || slice.metadata.labels.as_ref() != Some(&labels)
        {
            let mut copy = (**slice).clone();
            copy.endpoints = Some(stay);
            copy.metadata.labels = Some(labels);
            changed.push(copy);
        } else {
            unchanged.push(slice);
        }
    }
    changed.sort_by_key(|s| Reverse(endpoints(s).len()));
    for slice in &mut changed {
        fill(slice, &mut missing);
    }
    while !missing.is_empty() {
        let best = unchanged
            .iter()
            .enumerate()
            .filter(|(_, s)| {
                missing.len() < MAX_ENDPOINTS && endpoints(s).len() + missing.len() <= MAX_ENDPOINTS
            })
            .max_by_key(|(_, s)| endpoints(s).len())
            .map(|(at, _)| at);
        match best {
            Some(at) => {
                let mut slice = (**unchanged.remove(at)).clone();
                fill(&mut slice, &mut missing);
                changed.push(slice);
            }
            None => {
                let mut slice = new_slice(service, family, ports);
                fill(&mut slice, &mut missing);
                plan.create.push(slice);
            }
        }
    }
    plan.update.extend(changed);
}

fn fill(slice: &mut EndpointSlice, missing: &mut Vec<Endpoint>) {
    let room = MAX_ENDPOINTS
        .saturating_sub(endpoints(slice).len())
        .min(missing.len());
    slice
        .endpoints
        .get_or_insert_default()
        .extend(missing.drain(..room));
}

/// A slice to be deleted is written over instead of one to be made.
fn recycle(plan: &mut Plan, service: &Service) {
    let mut kept = Vec::new();
    for gone in std::mem::take(&mut plan.delete) {
        let at = plan
            .create
            .iter()
            .rposition(|s| s.address_type == gone.address_type);
        match at.filter(|_| is_owned(&gone, service)) {
            Some(at) => {
                let mut slice = plan.create.remove(at);
                slice.metadata = ObjectMeta {
                    labels: slice.metadata.labels,
                    owner_references: slice.metadata.owner_references,
                    generate_name: gone.metadata.generate_name.clone(),
                    ..gone.metadata.clone()
                };
                plan.update.push(slice);
            }
            None => kept.push(gone),
        }
    }
    plan.delete = kept;
}

/// The same pod at the same addresses, whatever its conditions.
fn is_same_endpoint(a: &Endpoint, b: &Endpoint) -> bool {
    let pod = |e: &Endpoint| e.target_ref.as_ref().map(|r| (r.name.clone(), r.uid.clone()));
    a.addresses == b.addresses && a.hostname == b.hostname && pod(a) == pod(b)
}

fn endpoints(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or(&[])
}

fn slice_ports(slice: &EndpointSlice) -> &[EndpointPort] {
    slice.ports.as_deref().unwrap_or(&[])
}

fn same_ports(a: &[EndpointPort], b: &[EndpointPort]) -> bool {
    let name = |p: &EndpointPort| p.name.clone().unwrap_or_default();
    let same = |a: &EndpointPort, b: &EndpointPort| {
        name(a) == name(b) && a.port == b.port && a.protocol == b.protocol && a.app_protocol == b.app_protocol
    };
    a.len() == b.len() && a.iter().all(|a| b.iter().any(|b| same(a, b)))
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_ref());
    ports
        .into_iter()
        .flatten()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(find_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn endpoint(service: &Service, pod: &Pod, family: &str, zone: Option<String>) -> Endpoint {
    let (serving, terminating) = (is_ready(pod), is_terminating(pod));
    let ready = publishes_not_ready(service) || (serving && !terminating);
    let node_name = pod
        .spec
        .as_ref()
        .and_then(|s| s.node_name.clone())
        .filter(|n| !n.is_empty());
    Endpoint {
        addresses: addresses(pod, family == "IPv6"),
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: ready
            .then(|| hints(service, node_name.as_deref(), zone.as_deref()))
            .flatten(),
        hostname: hostname(pod, service),
        node_name,
        zone,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// Whom the endpoint is meant for, where the Service asks for traffic to stay near.
fn hints(service: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let distribution = service
        .spec
        .as_ref()
        .and_then(|s| s.traffic_distribution.as_deref())?;
    let by_node = distribution == "PreferSameNode";
    if !by_node && !matches!(distribution, "PreferClose" | "PreferSameZone") {
        return None;
    }
    let hints = EndpointHints {
        for_zones: zone.map(|z| vec![ForZone { name: z.to_owned() }]),
        for_nodes: node
            .filter(|_| by_node)
            .map(|n| vec![ForNode { name: n.to_owned() }]),
    };
    (hints != EndpointHints::default()).then_some(hints)
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if !has_ip(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), name);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn new_slice(service: &Service, family: &str, ports: &[EndpointPort]) -> EndpointSlice {
    let name = service.metadata.name.as_deref().unwrap_or("");
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![controller_ref(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service() -> Service {
        let spec = json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "selector": {"a": "b"}, "ports": [{"port": 80, "protocol": "TCP"}]});
        let meta =
            json!({"name": "s", "namespace": "d", "uid": "s", "creationTimestamp": "2026-01-01T00:00:00Z"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("service")
    }

    fn pod(number: usize, ready: bool) -> Arc<Pod> {
        let ip = format!("10.1.{}.{}", number / 250, number % 250);
        let ready = if ready { "True" } else { "False" };
        let status =
            json!({"podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]});
        let meta = json!({"name": format!("p{number}"), "namespace": "d", "uid": format!("u{number}")});
        Arc::new(
            serde_json::from_value(
                json!({"metadata": meta, "spec": {"nodeName": "n", "containers": []}, "status": status}),
            )
            .expect("pod"),
        )
    }

    /// Carries plans out until there is nothing to do; what was written, and the sizes of the slices.
    fn settle(service: &Service, pods: &[Arc<Pod>], slices: &mut Vec<Arc<EndpointSlice>>) -> [usize; 3] {
        let zone = |_: &str| Some(Some("z".to_owned()));
        let first = plan(service, pods, slices, &zone, None);
        let counts = [first.create.len(), first.update.len(), first.delete.len()];
        for (at, mut slice) in first.create.into_iter().enumerate() {
            slice.metadata.name = Some(format!("s{}-{at}", slices.len()));
            slices.push(Arc::new(slice));
        }
        for slice in first.update {
            let at = slices
                .iter()
                .position(|s| s.metadata.name == slice.metadata.name)
                .expect("known");
            slices[at] = Arc::new(slice);
        }
        slices.retain(|s| !first.delete.iter().any(|d| d.metadata.name == s.metadata.name));
        let again = plan(service, pods, slices, &zone, None);
        assert!(
            again.create.is_empty() && again.update.is_empty() && again.delete.is_empty(),
            "settled: {again:?}"
        );
        counts
    }

    fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
        slices.iter().map(|s| endpoints(s).len()).collect()
    }

    #[test]
    fn slices_are_filled_changed_and_emptied_with_few_writes() {
        let service = service();
        let mut slices = Vec::new();
        assert_eq!(settle(&service, &[], &mut slices), [1, 0, 0], "a placeholder");
        let mut pods: Vec<_> = (0..150).map(|i| pod(i, true)).collect();
        assert_eq!(
            settle(&service, &pods, &mut slices),
            [1, 1, 0],
            "the placeholder is written over"
        );
        assert_eq!(sizes(&slices).iter().sum::<usize>(), 150);
        pods.push(pod(150, true));
        assert_eq!(
            settle(&service, &pods, &mut slices),
            [0, 1, 0],
            "the one with room is filled"
        );
        pods[0] = pod(0, false);
        assert_eq!(
            settle(&service, &pods, &mut slices),
            [0, 1, 0],
            "readiness changes in place"
        );
        let unready = slices.iter().flat_map(|s| endpoints(s));
        let unready = unready.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(false));
        assert_eq!(unready.count(), 1);
        settle(&service, &[], &mut slices);
        assert_eq!(sizes(&slices), [0]);
    }

    #[test]
    fn hints_come_and_go_with_the_wish_and_settle() {
        let mut service = service();
        let pods: Vec<_> = (0..4).map(|n| pod(n, true)).collect();
        let shares = Some(BTreeMap::from([("y".to_owned(), 0.5), ("z".to_owned(), 0.5)]));
        let zone = |_: &str| Some(Some("z".to_owned()));
        let first = plan(&service, &pods, &[], &zone, Some(&shares));
        let given = |slice: &EndpointSlice, zone: &str| {
            endpoints(slice)
                .iter()
                .filter(|e| topology::hinted(e) == Some(zone))
                .count()
        };
        assert_eq!(["y", "z"].map(|z| given(&first.create[0], z)), [2, 2]);
        let enabled = "Topology Aware Hints has been enabled, addressType: IPv4";
        assert_eq!(first.hints, [Notice::Enabled(enabled.to_owned())]);
        let slices: Vec<_> = first.create.into_iter().map(Arc::new).collect();
        let again = plan(&service, &pods, &slices, &zone, Some(&shares));
        assert!(again.update.is_empty() && again.hints.is_empty(), "{again:?}");
        let off = plan(&service, &pods, &slices, &zone, None);
        assert_eq!(["y", "z"].map(|z| given(&off.update[0], z)), [0, 0]);
        let disabled = "Topology Aware Hints has been disabled, addressType: IPv4";
        assert_eq!(off.hints, [Notice::Disabled(disabled.to_owned())]);
        service.spec.as_mut().expect("spec").traffic_distribution = Some("PreferSameZone".to_owned());
        let few = plan(&service, &pods[..1], &slices, &zone, Some(&shares));
        assert_eq!(["y", "z"].map(|z| given(&few.update[0], z)), [0, 0]);
    }

    #[test]
    fn labels_follow_the_service_and_hints_its_wish() {
        let mut service = service();
        let pods = [pod(1, true)];
        let mut slices = Vec::new();
        settle(&service, &pods, &mut slices);
        service.metadata.labels = Some([("x".to_owned(), "y".to_owned())].into());
        service.spec.as_mut().expect("spec").traffic_distribution = Some("PreferSameZone".to_owned());
        assert_eq!(settle(&service, &pods, &mut slices), [0, 1, 0]);
        assert_eq!(slices[0].metadata.labels.as_ref().expect("labels")["x"], "y");
        let hints = endpoints(&slices[0])[0].hints.clone().expect("hints");
        assert_eq!(hints.for_zones.expect("zones")[0].name, "z");
    }
}
