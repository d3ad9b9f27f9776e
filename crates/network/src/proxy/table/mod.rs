//! The fixed part of the proxy's table: sets, maps, chains, and the rules that look things up in them.
//!
//! ```text
//! pre-dnat     : to a firewalled address from a source not allowed → drop
//! nat prerouting, output → services:
//!                to a cluster IP from outside the pods' ranges → mark
//!                front in `masquerade`  → mark
//!                from this node or its pods, front in `inside-fronts` → inside-<n>
//!                front in `fronts` → pool-<n>          (node ports: to a local address, likewise)
//! pool-<n>     : front . random below n → endpoint; rewrite
//! filter       : front without endpoints → reject or drop; other ports of cluster IPs → reject
//! postrouting  : mark → masquerade; an endpoint calling itself → masquerade
//! ```
//!
//! There is one chain per *number of endpoints*, not per Service or endpoint; Services live in maps alone,
//! so a change of one costs a few elements whatever the number of the others.
//!
//! Session affinity cannot be shared like this: a Service port with it has a chain, and each of its
//! endpoints has one and a set of the clients that belong to it (see [`StickyPool`]).
//!
//! What a map gives is never part of another lookup's key: kernels can do it, but `nft list ruleset`
//! dies on it, and administrators must be able to look at their rules.

mod pools;
mod rules;

use ipnet::IpNet;
use linux::nftables::{
    Batch, Element, Expr, Family, FibResult, Field, Key, Reg, Set, SetKind, Table, Verdict, dport, dst,
    l4proto,
};

use super::service::IpFamily;
use crate::Names;
pub use pools::{FrontKind, Path, PoolChain, StickyPool};

/// Which set or map an element belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetId {
    ClusterIps,
    /// Fronts by address, to chains; and each one's endpoints.
    Fronts,
    Endpoints,
    /// Node ports likewise.
    Ports,
    PortEndpoints,
    InsideFronts,
    InsideEndpoints,
    InsidePorts,
    InsidePortEndpoints,
    Masquerade,
    MasqueradePorts,
    DeadFronts,
    DeadPorts,
    StickyPicks,
    Hairpin,
    Firewalled,
    Allowed,
}

/// What of the rules depends on the node's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableOptions {
    /// Sources that are pods: not masqueraded on the way to cluster IPs.
    pub cluster_cidrs: Vec<IpNet>,
    /// Unused addresses in here are dropped instead of leaving the node.
    pub service_cidrs: Vec<IpNet>,
    /// Node ports answer on these; all local addresses when empty.
    pub node_port_addresses: Vec<IpNet>,
    /// The packet mark's bit that asks for masquerading.
    pub mark: u32,
    pub masquerade_all: bool,
}

/// The shape of one family's table.
#[derive(Clone, Debug)]
pub struct Shape {
    pub table: Table,
    family: Family,
    address: Field,
    options: TableOptions,
}

const LOCAL_ADDRESS: u32 = 2;
const REJECT: &str = "reject";

impl Shape {
    pub fn new(names: &Names, family: IpFamily, options: TableOptions) -> Self {
        let (family, address) = match family {
            IpFamily::V4 => (Family::Ip, Field::Ipv4),
            IpFamily::V6 => (Family::Ip6, Field::Ipv6),
        };
        Shape {
            table: names.proxy_table(family),
            family,
            address,
            options,
        }
    }

    pub fn set(&self, id: SetId) -> Set {
        use Field::{Number, Port, Proto};
        let a = self.address;
        let front = [a, Proto, Port];
        let port = [Proto, Port];
        match id {
            SetId::ClusterIps => Set::plain("cluster-ips", [a]),
            SetId::Fronts => Set::verdicts("fronts", front),
            SetId::Endpoints => Set::map("endpoints", [a, Proto, Port, Number], [a, Port]),
            SetId::Ports => Set::verdicts("ports", port),
            SetId::PortEndpoints => Set::map("port-endpoints", [Proto, Port, Number], [a, Port]),
            SetId::InsideFronts => Set::verdicts("inside-fronts", front),
            SetId::InsideEndpoints => Set::map("inside-endpoints", [a, Proto, Port, Number], [a, Port]),
            SetId::InsidePorts => Set::verdicts("inside-ports", port),
            SetId::InsidePortEndpoints => Set::map("inside-port-endpoints", [Proto, Port, Number], [a, Port]),
            SetId::Masquerade => Set::plain("masquerade", front),
            SetId::MasqueradePorts => Set::plain("masquerade-ports", port),
            SetId::DeadFronts => Set::verdicts("dead-fronts", front),
            SetId::DeadPorts => Set::verdicts("dead-ports", port),
            SetId::StickyPicks => Set::verdicts("sticky-picks", [Number, Number]),
            SetId::Hairpin => Set::plain("hairpin", [a, a, Proto, Port]),
            SetId::Firewalled => Set::plain("firewalled", front),
            SetId::Allowed => Set::plain("allowed", [a, Proto, Port, a]).with_kind(SetKind::Interval),
        }
    }

    /// What a dead front's packets meet.
    pub fn reject() -> Verdict {
        Verdict::Goto(REJECT.to_owned())
    }

    /// The table from nothing, without any Service.
    pub fn create(&self, batch: &mut Batch) {
        batch.remove_table(&self.table);
        batch.add_table(&self.table);
        for id in ALL_SETS {
            batch.add_set(&self.table, &self.set(id));
        }
        for (name, nets) in [
            ("pods", &self.options.cluster_cidrs),
            ("services", &self.options.service_cidrs),
            ("node-addresses", &self.options.node_port_addresses),
        ] {
            let set = Set::plain(name, [self.address]).with_kind(SetKind::Interval);
            batch.add_set(&self.table, &set);
            batch.add_elements(&self.table, &set, self.ranges(nets));
        }
        self.chains(batch);
        self.service_rules(batch);
        self.filter_rules(batch);
        self.masquerade_rules(batch);
    }

    fn ranges(&self, nets: &[IpNet]) -> Vec<Element> {
        let mine: Vec<IpNet> = nets
            .iter()
            .copied()
            .filter(|net| net.addr().is_ipv4() == (self.family == Family::Ip))
            .collect();
        IpNet::aggregate(&mine)
            .iter()
            .map(|net| Element::range(Key::new().ip(net.network()), Key::new().ip(net.broadcast())))
            .collect()
    }

    /// `address . proto . port` of the destination, from the first register on.
    fn front(&self) -> Vec<Expr> {
        let w = self.words();
        vec![dst(self.family, Reg(0)), l4proto(Reg(w)), dport(Reg(w + 1))]
    }

    /// Matches packets to an address on which node ports answer.
    fn to_node(&self) -> Vec<Expr> {
        if self.options.node_port_addresses.is_empty() {
            return vec![
                Expr::Fib {
                    to: Reg(0),
                    result: FibResult::DestinationType,
                },
                Expr::eq(Reg(0), LOCAL_ADDRESS.to_ne_bytes()),
            ];
        }
        vec![dst(self.family, Reg(0)), in_set("node-addresses")]
    }

    /// Registers an address takes.
    fn words(&self) -> u8 {
        if self.family == Family::Ip6 { 4 } else { 1 }
    }
}

const ALL_SETS: [SetId; 17] = [
    SetId::ClusterIps,
    SetId::Fronts,
    SetId::Endpoints,
    SetId::Ports,
    SetId::PortEndpoints,
    SetId::InsideFronts,
    SetId::InsideEndpoints,
    SetId::InsidePorts,
    SetId::InsidePortEndpoints,
    SetId::Masquerade,
    SetId::MasqueradePorts,
    SetId::DeadFronts,
    SetId::DeadPorts,
    SetId::StickyPicks,
    SetId::Hairpin,
    SetId::Firewalled,
    SetId::Allowed,
];

fn concat<const N: usize>(parts: [Vec<Expr>; N]) -> Vec<Expr> {
    parts.into_iter().flatten().collect()
}

fn port() -> Vec<Expr> {
    vec![l4proto(Reg(0)), dport(Reg(1))]
}

fn in_set(set: &str) -> Expr {
    Expr::InSet {
        set: set.into(),
        from: Reg(0),
    }
}

fn verdict(map: &str) -> Expr {
    Expr::VerdictMap {
        map: map.into(),
        from: Reg(0),
    }
}

fn masked(mask: u32) -> Expr {
    Expr::Bitwise {
        from: Reg(0),
        to: Reg(0),
        mask: mask.to_ne_bytes().into(),
        xor: vec![0; 4],
    }
}
