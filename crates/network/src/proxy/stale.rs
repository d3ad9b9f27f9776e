//! Which tracked connections no longer lead where their Service does. Pure.
//!
//! Only UDP: a TCP connection to a vanished endpoint ends by itself, UDP "connections" live as long as
//! packets come. As upstream, neither traffic policy nor topology matters here, and a Service without any
//! serving endpoint keeps its entries.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use linux::conntrack::Connection;

use super::endpoints::{Endpoint, EndpointState};
use super::service::{ServicePort, UDP};

/// The serving endpoints behind each front of some Services.
#[derive(Clone, Debug, Default)]
pub struct UdpFronts {
    lists: Vec<HashSet<(IpAddr, u16)>>,
    addresses: HashMap<(IpAddr, u16), usize>,
    ports: HashMap<u16, usize>,
}

impl UdpFronts {
    pub fn add(&mut self, port: &ServicePort, endpoints: &[Endpoint]) {
        if port.proto != UDP {
            return;
        }
        let serving: HashSet<_> = endpoints
            .iter()
            .filter(|e| e.state != EndpointState::Unusable)
            .map(|e| (e.ip, e.port))
            .collect();
        if serving.is_empty() {
            return;
        }
        let list = self.lists.len();
        self.lists.push(serving);
        let addresses = port.external_ips.iter().chain(&port.load_balancer_ips);
        for ip in addresses.chain([&port.cluster_ip]) {
            self.addresses.insert((*ip, port.port), list);
        }
        if let Some(number) = port.node_port {
            self.ports.insert(number, list);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    pub fn is_stale(&self, connection: &Connection) -> bool {
        if connection.proto != UDP {
            return false;
        }
        let front = (
            connection.original.destination,
            connection.original.destination_port,
        );
        let answers = (connection.reply.source, connection.reply.source_port);
        let by_address = self.addresses.get(&front);
        let list = by_address.or_else(|| self.ports.get(&connection.original.destination_port));
        list.is_some_and(|list| !self.lists[*list].contains(&answers))
    }
}
