//! What a Service port wants from the packet filter. Pure.
//!
//! A *front* is a place where traffic comes in (cluster IP, external IP, load balancer IP, node port); a
//! *pool* is a list of endpoints to share it among.

use std::net::IpAddr;
use std::time::Duration;

use compact_str::CompactString;
use ipnet::IpNet;

use super::endpoints::{Categories, Endpoint, NodeFacts, categorize};
use super::service::{Policy, ServicePort};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    pub name: CompactString,
    pub proto: u8,
    pub cluster_ip: IpAddr,
    pub fronts: Vec<Front>,
    pub pools: Vec<Pool>,
    /// Endpoints of this node that may call themselves through the Service.
    pub hairpin: Vec<(IpAddr, u16)>,
    /// Load balancer addresses with those who may use them.
    pub firewall: Vec<(IpAddr, Vec<IpNet>)>,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub policy: Policy,
    pub endpoints: Vec<(IpAddr, u16)>,
    pub affinity: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    pub at: At,
    pub to: Target,
    /// Where traffic from this node and its pods goes instead, if that differs.
    pub from_inside: Option<Policy>,
    pub source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Address(IpAddr, u16),
    NodePort(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Pool(Policy),
    /// Nobody anywhere: say so at once.
    Reject,
    /// Nobody here, though elsewhere: silence makes the load balancer try another node.
    Drop,
}

/// What becomes of the caller's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Kept,
    Masqueraded,
}

pub fn plan(port: &ServicePort, endpoints: &[Endpoint], node: &NodeFacts) -> PortPlan {
    let found = categorize(endpoints, port, node);
    let mut fronts = vec![Front {
        at: At::Address(port.cluster_ip, port.port),
        to: target(port.internal_policy, &found),
        from_inside: None,
        source: Source::Kept,
    }];
    let external = external_front(port, &found);
    let addresses = port.external_ips.iter().chain(&port.load_balancer_ips);
    fronts.extend(addresses.map(|ip| Front {
        at: At::Address(*ip, port.port),
        ..external
    }));
    fronts.extend(port.node_port.map(|number| Front {
        at: At::NodePort(number),
        ..external
    }));

    let used = |policy| {
        fronts
            .iter()
            .any(|f| f.to == Target::Pool(policy) || f.from_inside == Some(policy))
    };
    let pools = [(Policy::Cluster, &found.cluster), (Policy::Local, &found.local)]
        .into_iter()
        .filter(|(policy, _)| used(*policy))
        .map(|(policy, list)| Pool {
            policy,
            endpoints: list.iter().map(|e| (e.ip, e.port)).collect(),
            affinity: port.affinity,
        })
        .collect();
    let mut hairpin: Vec<(IpAddr, u16)> = found
        .cluster
        .iter()
        .chain(&found.local)
        .filter(|e| e.local)
        .map(|e| (e.ip, e.port))
        .collect();
    hairpin.sort_unstable();
    hairpin.dedup();
    PortPlan {
        name: port.name.clone(),
        proto: port.proto,
        cluster_ip: port.cluster_ip,
        fronts,
        pools,
        hairpin,
        firewall: firewall(port, node),
        port: port.port,
    }
}

fn target(policy: Policy, found: &Categories<'_>) -> Target {
    let list = match policy {
        Policy::Cluster => &found.cluster,
        Policy::Local => &found.local,
    };
    match (found.any, list.is_empty()) {
        (false, _) => Target::Reject,
        (true, true) => Target::Drop,
        (true, false) => Target::Pool(policy),
    }
}

fn external_front(port: &ServicePort, found: &Categories<'_>) -> Front {
    // The address is filled in by the caller.
    let at = At::NodePort(0);
    let to = target(port.external_policy, found);
    match port.external_policy {
        // The endpoint may be on another node, which would answer the caller directly.
        Policy::Cluster => Front {
            at,
            to,
            from_inside: None,
            source: Source::Masqueraded,
        },
        Policy::Local => {
            let from_inside = (!found.cluster.is_empty()).then_some(Policy::Cluster);
            Front {
                at,
                to,
                from_inside,
                source: Source::Kept,
            }
        }
    }
}

fn firewall(port: &ServicePort, node: &NodeFacts) -> Vec<(IpAddr, Vec<IpNet>)> {
    if port.source_ranges.is_empty() {
        return Vec::new();
    }
    let mut allowed = port.source_ranges.clone();
    // The node's own calls to a balancer address come back with that address as their source, where it is
    // also a local address.
    if port
        .source_ranges
        .iter()
        .any(|range| node.ips.iter().any(|ip| range.contains(ip)))
    {
        allowed.extend(port.load_balancer_ips.iter().map(|ip| IpNet::from(*ip)));
    }
    // Ranges in a set must not overlap.
    let allowed = IpNet::aggregate(&allowed);
    port.load_balancer_ips
        .iter()
        .map(|ip| (*ip, allowed.clone()))
        .collect()
}
