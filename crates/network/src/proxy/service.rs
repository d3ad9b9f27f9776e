//! Services as the proxy sees them: one [`ServicePort`] per port and address family.

use std::net::IpAddr;
use std::time::Duration;

use compact_str::CompactString;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};

/// Which endpoints a kind of traffic may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    Cluster,
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            IpFamily::V4
        } else {
            IpFamily::V6
        }
    }

    pub(super) fn has(self, address: IpAddr) -> bool {
        IpFamily::of(address) == self
    }
}

/// One port of a Service, in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: CompactString,
    /// The transport protocol's number.
    pub proto: u8,
    pub cluster_ip: IpAddr,
    pub port: u16,
    pub node_port: Option<u16>,
    pub external_ips: Vec<IpAddr>,
    /// Addresses of load balancers that deliver packets with the address still in them.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer; empty is everybody.
    pub source_ranges: Vec<IpNet>,
    pub affinity: Option<Duration>,
    pub external_policy: Policy,
    pub internal_policy: Policy,
}

impl ServicePort {
    /// Reached by something other than its cluster IP.
    pub fn externally_accessible(&self) -> bool {
        self.node_port.is_some() || !self.load_balancer_ips.is_empty() || !self.external_ips.is_empty()
    }

    /// Ever uses endpoints of the whole cluster. External traffic with policy Local does too: what comes
    /// from the node's own pods may go anywhere.
    pub fn uses_cluster_endpoints(&self) -> bool {
        self.internal_policy == Policy::Cluster || self.externally_accessible()
    }

    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_policy == Policy::Local
            || (self.external_policy == Policy::Local && self.externally_accessible())
    }
}

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const SCTP: u8 = 132;

pub(super) fn protocol(name: Option<&str>) -> Option<u8> {
    match name {
        None | Some("TCP") => Some(TCP),
        Some("UDP") => Some(UDP),
        Some("SCTP") => Some(SCTP),
        Some(_) => None,
    }
}

/// The ports of a Service to be proxied; none for headless ones, external names and Services that name
/// another proxy.
pub fn service_ports(service: &Service, family: IpFamily) -> Vec<ServicePort> {
    const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let labels = service.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY))
        || spec.type_.as_deref() == Some("ExternalName")
    {
        return Vec::new();
    }
    let Some(cluster_ip) = cluster_ip(spec, family) else {
        return Vec::new();
    };
    let addresses = |list: Option<&Vec<String>>| -> Vec<IpAddr> {
        list.into_iter()
            .flatten()
            .filter_map(|ip| ip.parse().ok())
            .filter(|ip| family.has(*ip))
            .collect()
    };
    let external_ips = addresses(spec.external_ips.as_ref());
    let load_balancer_ips = load_balancer_ips(service, family);
    let source_ranges = source_ranges(spec, family);
    let affinity = affinity(spec);
    let external_policy = external_policy(spec);
    let internal_policy = policy(spec.internal_traffic_policy.as_deref());
    spec.ports
        .iter()
        .flatten()
        .filter_map(|port| {
            Some(ServicePort {
                name: port.name.as_deref().unwrap_or("").into(),
                proto: protocol(port.protocol.as_deref())?,
                cluster_ip,
                port: u16::try_from(port.port).ok()?,
                node_port: port
                    .node_port
                    .and_then(|port| u16::try_from(port).ok())
                    .filter(|p| *p != 0),
                external_ips: external_ips.clone(),
                load_balancer_ips: load_balancer_ips.clone(),
                source_ranges: source_ranges.clone(),
                affinity,
                external_policy,
                internal_policy,
            })
        })
        .collect()
}

/// The port on which a load balancer asks whether this node has endpoints.
pub fn health_check_node_port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    let asked = spec.type_.as_deref() == Some("LoadBalancer") && external_policy(spec) == Policy::Local;
    asked
        .then(|| u16::try_from(spec.health_check_node_port?).ok())
        .flatten()
        .filter(|port| *port != 0)
}

fn policy(name: Option<&str>) -> Policy {
    if name == Some("Local") {
        Policy::Local
    } else {
        Policy::Cluster
    }
}

fn external_policy(spec: &ServiceSpec) -> Policy {
    let accessible = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"))
        || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    if accessible {
        policy(spec.external_traffic_policy.as_deref())
    } else {
        Policy::Cluster
    }
}

fn cluster_ip(spec: &ServiceSpec, family: IpFamily) -> Option<IpAddr> {
    let listed = spec.cluster_ips.as_ref().filter(|ips| !ips.is_empty());
    let all: Vec<&String> = match listed {
        Some(ips) => ips.iter().collect(),
        None => spec.cluster_ip.iter().collect(),
    };
    // "None" and "" are no addresses.
    all.into_iter()
        .filter_map(|ip| ip.parse().ok())
        .find(|ip| family.has(*ip))
}

fn load_balancer_ips(service: &Service, family: IpFamily) -> Vec<IpAddr> {
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref());
    ingress
        .into_iter()
        .flatten()
        // In mode "Proxy" the balancer sends to a node's address, and its own must not be taken here.
        .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
        .filter(|ip| family.has(*ip))
        .collect()
}

fn source_ranges(spec: &ServiceSpec, family: IpFamily) -> Vec<IpNet> {
    let ranges: Vec<IpNet> = spec
        .load_balancer_source_ranges
        .iter()
        .flatten()
        // Validation lets blanks around a range pass.
        .filter_map(|range| range.trim().parse::<IpNet>().ok())
        .filter(|range| family.has(range.addr()))
        .collect();
    // A range of everybody is the same as none.
    if ranges.iter().any(|range| range.prefix_len() == 0) {
        Vec::new()
    } else {
        ranges
    }
}

fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    const DEFAULT: i32 = 10_800;
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref());
    let seconds = config
        .and_then(|config| config.timeout_seconds)
        .unwrap_or(DEFAULT);
    Some(Duration::from_secs(
        u64::try_from(seconds).unwrap_or(DEFAULT as u64),
    ))
}
