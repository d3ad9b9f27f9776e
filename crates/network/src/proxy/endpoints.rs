//! EndpointSlices to endpoints, and which of them traffic may use.
//!
//! Follows upstream's `pkg/proxy/topology.go`: ready endpoints first, those that end but still serve when
//! there is no ready one; hints count only when every ready endpoint has them and one fits this node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use compact_str::CompactString;
use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};

use super::service::{IpFamily, ServicePort, protocol};

/// What the proxy has to know about its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    pub name: CompactString,
    /// The label `topology.kubernetes.io/zone`; empty when it has none.
    pub zone: CompactString,
    pub ips: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
    pub local: bool,
    pub state: EndpointState,
    pub zone_hints: Vec<CompactString>,
    pub node_hints: Vec<CompactString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    Ready,
    /// Asked to end, still answering.
    ServingTerminating,
    /// Answering, but neither ready nor ending.
    Serving,
    Unusable,
}

/// A port's name and protocol.
pub type PortKey = (CompactString, u8);

/// All endpoints of a Service in one family, by port, sorted and each but once.
pub fn endpoints(
    slices: &[Arc<EndpointSlice>],
    family: IpFamily,
    node: &str,
) -> BTreeMap<PortKey, Vec<Endpoint>> {
    let kind = match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    };
    let mut found: BTreeMap<PortKey, BTreeMap<(IpAddr, u16), Endpoint>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == kind) {
        for port in slice.ports.iter().flatten() {
            let number = port
                .port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0);
            let (Some(number), Some(name), Some(proto)) =
                (number, port.name.as_deref(), protocol(port.protocol.as_deref()))
            else {
                continue;
            };
            let of_port = found.entry((name.into(), proto)).or_default();
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(endpoint) = read(endpoint, number, node) else {
                    continue;
                };
                let terminating = is_terminating(&endpoint);
                // Two pods may hold one address for a while: the one that goes and the one that came. Prefer
                // the living; two slices may hold one endpoint: either will do.
                let known = of_port
                    .entry((endpoint.ip, endpoint.port))
                    .or_insert_with(|| endpoint.clone());
                if !terminating {
                    *known = endpoint;
                }
            }
        }
    }
    found
        .into_iter()
        .map(|(key, endpoints)| (key, endpoints.into_values().collect()))
        .collect()
}

fn is_terminating(endpoint: &Endpoint) -> bool {
    matches!(
        endpoint.state,
        EndpointState::ServingTerminating | EndpointState::Unusable
    )
}

fn read(endpoint: &ApiEndpoint, port: u16, node: &str) -> Option<Endpoint> {
    let conditions = endpoint.conditions.as_ref();
    let is = |get: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>, default| {
        conditions.and_then(get).unwrap_or(default)
    };
    let state = match (
        is(|c| c.ready, true),
        is(|c| c.serving, true),
        is(|c| c.terminating, false),
    ) {
        (true, _, _) => EndpointState::Ready,
        (false, true, true) => EndpointState::ServingTerminating,
        (false, true, false) => EndpointState::Serving,
        (false, false, _) => EndpointState::Unusable,
    };
    let hints = endpoint.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref());
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref());
    Some(Endpoint {
        ip: endpoint.addresses.first()?.parse().ok()?,
        port,
        local: !node.is_empty() && endpoint.node_name.as_deref() == Some(node),
        state,
        zone_hints: zones
            .into_iter()
            .flatten()
            .map(|zone| zone.name.as_str().into())
            .collect(),
        node_hints: nodes
            .into_iter()
            .flatten()
            .map(|node| node.name.as_str().into())
            .collect(),
    })
}

/// The endpoints each policy may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Categories<'a> {
    pub cluster: Vec<&'a Endpoint>,
    pub local: Vec<&'a Endpoint>,
    /// Whether there is a usable endpoint anywhere.
    pub any: bool,
}

pub fn categorize<'a>(all: &'a [Endpoint], port: &ServicePort, node: &NodeFacts) -> Categories<'a> {
    use EndpointState::{Ready, ServingTerminating};
    let usable = |fits: &dyn Fn(&Endpoint) -> bool| -> Vec<&'a Endpoint> {
        let ready: Vec<_> = all.iter().filter(|e| e.state == Ready && fits(e)).collect();
        if !ready.is_empty() {
            return ready;
        }
        all.iter()
            .filter(|e| e.state == ServingTerminating && fits(e))
            .collect()
    };
    let mut found = Categories::default();
    if port.uses_cluster_endpoints() {
        // Hints are heeded only when they leave a ready endpoint, so the fallback needs none.
        found.cluster = match topology(all, node) {
            Topology::Any => usable(&|_| true),
            Topology::Node => usable(&|e| e.node_hints.contains(&node.name)),
            Topology::Zone => usable(&|e| e.zone_hints.contains(&node.zone)),
        };
        found.any = !found.cluster.is_empty();
    }
    if port.uses_local_endpoints() {
        found.local = usable(&|e| e.local);
        found.any |= all.iter().any(|e| matches!(e.state, Ready | ServingTerminating));
    }
    found
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    Any,
    Node,
    Zone,
}

fn topology(all: &[Endpoint], node: &NodeFacts) -> Topology {
    let ready = || all.iter().filter(|e| e.state == EndpointState::Ready);
    let heeded = |hints: fn(&Endpoint) -> &Vec<CompactString>, here: &CompactString| {
        ready().all(|e| !hints(e).is_empty()) && ready().any(|e| hints(e).contains(here))
    };
    if heeded(|e| &e.node_hints, &node.name) {
        return Topology::Node;
    }
    if heeded(|e| &e.zone_hints, &node.zone) {
        return Topology::Zone;
    }
    Topology::Any
}
