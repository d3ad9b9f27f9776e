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

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use linux::nftables::{
    Batch, Chain, ChainKind, CtKey, DynsetOp, Element, Expr, Family, FibResult, Field, Hook, Key, MetaKey,
    NatKind, NumgenKind, Op, Reg, RejectKind, Set, SetKind, Table, Verdict, dport, dst, l4proto, priority,
    src,
};

use super::service::{IpFamily, TCP};
use crate::Names;

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

/// A chain that shares traffic among so many endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolChain {
    pub kind: FrontKind,
    pub path: Path,
    pub endpoints: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontKind {
    Address,
    NodePort,
}

/// For whom a chain chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    Anybody,
    /// This node and its pods, where a front treats them apart.
    Inside,
}

impl PoolChain {
    pub fn name(&self) -> String {
        let (kind, path) = (self.kind.word(), self.path.word());
        format!("{path}{kind}-{}", self.endpoints)
    }

    /// Where its fronts' endpoints are.
    pub fn endpoints(&self) -> SetId {
        match (self.path, self.kind) {
            (Path::Anybody, FrontKind::Address) => SetId::Endpoints,
            (Path::Anybody, FrontKind::NodePort) => SetId::PortEndpoints,
            (Path::Inside, FrontKind::Address) => SetId::InsideEndpoints,
            (Path::Inside, FrontKind::NodePort) => SetId::InsidePortEndpoints,
        }
    }
}

impl FrontKind {
    fn word(self) -> &'static str {
        match self {
            FrontKind::Address => "pool",
            FrontKind::NodePort => "port",
        }
    }
}

impl Path {
    fn word(self) -> &'static str {
        match self {
            Path::Anybody => "",
            Path::Inside => "inside-",
        }
    }
}

/// A Service port with session affinity: chains and sets of its own.
///
/// ```text
/// sticky-<n>   : from a client in clients-<e> → endpoint-<e>, for each endpoint
///                n . random → endpoint-<e>
/// endpoint-<e> : note the client in clients-<e> for its time; rewrite
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyPool {
    pub number: u32,
    pub time: Duration,
    /// Each endpoint with its number, by place.
    pub endpoints: Vec<(u32, IpAddr, u16)>,
}

impl StickyPool {
    pub fn chain(&self, path: Path) -> String {
        format!("{}sticky-{}", path.word(), self.number)
    }

    pub fn endpoint_chain(endpoint: u32) -> String {
        format!("endpoint-{endpoint}")
    }

    pub fn clients(endpoint: u32) -> String {
        format!("clients-{endpoint}")
    }
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

/// Bounds the kernel memory that strangers can make us use.
const MOST_CLIENTS: u32 = 65_536;
const LOCAL_ADDRESS: u32 = 2;
const STATE_NEW: u32 = 1 << 3;
const DESTINATION_REWRITTEN: u32 = 1 << 5;
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

    fn chains(&self, batch: &mut Batch) {
        for name in [
            REJECT,
            "mark",
            "services",
            "firewall",
            "dead",
            "cluster-ips-check",
        ] {
            batch.add_chain(&self.table, Chain::regular(name));
        }
        use ChainKind::{Filter, Nat};
        for (name, kind, hook, priority) in [
            (
                "pre-dnat-prerouting",
                Filter,
                Hook::Prerouting,
                priority::DSTNAT - 10,
            ),
            ("pre-dnat-output", Filter, Hook::Output, priority::DSTNAT - 10),
            ("nat-prerouting", Nat, Hook::Prerouting, priority::DSTNAT),
            ("nat-output", Nat, Hook::Output, priority::DSTNAT),
            ("nat-postrouting", Nat, Hook::Postrouting, priority::SRCNAT),
            ("filter-input", Filter, Hook::Input, priority::FILTER),
            ("filter-forward", Filter, Hook::Forward, priority::FILTER),
            ("filter-output", Filter, Hook::Output, priority::FILTER),
        ] {
            batch.add_chain(&self.table, Chain::base(name, kind, hook, priority));
        }
        let new = |chain: &str| {
            vec![
                Expr::Ct {
                    to: Reg(0),
                    key: CtKey::State,
                },
                masked(STATE_NEW),
                Expr::ne(Reg(0), [0; 4]),
                Expr::jump(chain),
            ]
        };
        for (from, to) in [
            ("pre-dnat-prerouting", "firewall"),
            ("pre-dnat-output", "firewall"),
            ("filter-input", "dead"),
            ("filter-forward", "dead"),
            ("filter-forward", "cluster-ips-check"),
            ("filter-output", "dead"),
            ("filter-output", "cluster-ips-check"),
        ] {
            batch.add_rule(&self.table, from, new(to));
        }
        for hook in ["nat-prerouting", "nat-output"] {
            batch.add_rule(&self.table, hook, vec![Expr::jump("services")]);
        }
        // The node's own callers hear a reset at once, an unreachable port only on their second try.
        let reset = vec![
            l4proto(Reg(0)),
            Expr::eq(Reg(0), [TCP]),
            Expr::Reject(RejectKind::TcpReset),
        ];
        batch.add_rule(&self.table, REJECT, reset);
        batch.add_rule(
            &self.table,
            REJECT,
            vec![Expr::Reject(RejectKind::PortUnreachable)],
        );
        let mark = self.options.mark;
        batch.add_rule(
            &self.table,
            "mark",
            vec![
                Expr::Meta {
                    to: Reg(0),
                    key: MetaKey::Mark,
                },
                Expr::Bitwise {
                    from: Reg(0),
                    to: Reg(0),
                    mask: (!mark).to_ne_bytes().into(),
                    xor: mark.to_ne_bytes().into(),
                },
                Expr::SetMeta {
                    key: MetaKey::Mark,
                    from: Reg(0),
                },
            ],
        );
    }

    fn service_rules(&self, batch: &mut Batch) {
        let mut rule = |exprs: Vec<Expr>| batch.add_rule(&self.table, "services", exprs);
        let mut outside = vec![dst(self.family, Reg(0)), in_set("cluster-ips")];
        if !self.options.masquerade_all {
            outside.extend([
                src(self.family, Reg(0)),
                Expr::NotInSet {
                    set: "pods".into(),
                    from: Reg(0),
                },
            ]);
        }
        outside.push(Expr::jump("mark"));
        rule(outside);
        rule(concat([
            self.front(),
            vec![in_set("masquerade"), Expr::jump("mark")],
        ]));
        for from_inside in [
            vec![src(self.family, Reg(0)), in_set("pods")],
            vec![
                Expr::Fib {
                    to: Reg(0),
                    result: FibResult::SourceType,
                },
                Expr::eq(Reg(0), LOCAL_ADDRESS.to_ne_bytes()),
            ],
        ] {
            rule(concat([
                from_inside,
                self.front(),
                vec![verdict("inside-fronts")],
            ]));
        }
        rule(concat([self.front(), vec![verdict("fronts")]]));
        // Node ports have rules of their own: the destination is any address of the node.
        rule(concat([
            self.to_node(),
            port(),
            vec![in_set("masquerade-ports"), Expr::jump("mark")],
        ]));
        for from_inside in [
            vec![src(self.family, Reg(0)), in_set("pods")],
            vec![
                Expr::Fib {
                    to: Reg(0),
                    result: FibResult::SourceType,
                },
                Expr::eq(Reg(0), LOCAL_ADDRESS.to_ne_bytes()),
            ],
        ] {
            rule(concat([
                from_inside,
                self.to_node(),
                port(),
                vec![verdict("inside-ports")],
            ]));
        }
        rule(concat([self.to_node(), port(), vec![verdict("ports")]]));
    }

    fn filter_rules(&self, batch: &mut Batch) {
        let w = self.words();
        batch.add_rule(
            &self.table,
            "firewall",
            concat([
                self.front(),
                vec![
                    in_set("firewalled"),
                    src(self.family, Reg(w + 2)),
                    Expr::NotInSet {
                        set: "allowed".into(),
                        from: Reg(0),
                    },
                    Expr::Verdict(Verdict::Drop),
                ],
            ]),
        );
        batch.add_rule(
            &self.table,
            "dead",
            concat([self.front(), vec![verdict("dead-fronts")]]),
        );
        batch.add_rule(
            &self.table,
            "dead",
            concat([self.to_node(), port(), vec![verdict("dead-ports")]]),
        );
        batch.add_rule(
            &self.table,
            "cluster-ips-check",
            vec![
                dst(self.family, Reg(0)),
                in_set("cluster-ips"),
                Expr::goto(REJECT),
            ],
        );
        batch.add_rule(
            &self.table,
            "cluster-ips-check",
            vec![
                dst(self.family, Reg(0)),
                in_set("services"),
                Expr::Verdict(Verdict::Drop),
            ],
        );
    }

    fn masquerade_rules(&self, batch: &mut Batch) {
        let mark = self.options.mark;
        let masquerade = Expr::Masquerade { fully_random: true };
        batch.add_rule(
            &self.table,
            "nat-postrouting",
            vec![
                Expr::Meta {
                    to: Reg(0),
                    key: MetaKey::Mark,
                },
                masked(mark),
                Expr::ne(Reg(0), [0; 4]),
                Expr::Meta {
                    to: Reg(0),
                    key: MetaKey::Mark,
                },
                masked(!mark),
                Expr::SetMeta {
                    key: MetaKey::Mark,
                    from: Reg(0),
                },
                masquerade.clone(),
            ],
        );
        let w = self.words();
        batch.add_rule(
            &self.table,
            "nat-postrouting",
            vec![
                Expr::Ct {
                    to: Reg(0),
                    key: CtKey::Status,
                },
                masked(DESTINATION_REWRITTEN),
                Expr::ne(Reg(0), [0; 4]),
                src(self.family, Reg(0)),
                dst(self.family, Reg(w)),
                l4proto(Reg(2 * w)),
                dport(Reg(2 * w + 1)),
                in_set("hairpin"),
                masquerade,
            ],
        );
    }

    /// The chain for so many endpoints, with its rules.
    pub fn add_pool_chain(&self, batch: &mut Batch, chain: &PoolChain) {
        let name = chain.name();
        batch.add_chain(&self.table, Chain::regular(name.clone()));
        if chain.path == Path::Inside {
            self.mark_local_callers(batch, &name);
        }
        let (front, choice) = match chain.kind {
            FrontKind::Address => (self.front(), Reg(self.words() + 2)),
            FrontKind::NodePort => (port(), Reg(2)),
        };
        let map = self.set(chain.endpoints()).name;
        let to = Reg(8);
        let mut choose = |choice: Expr| {
            let find = Expr::Map {
                map: map.clone(),
                from: Reg(0),
                to,
            };
            let rule = concat([front.clone(), vec![choice, find, self.rewrite(to)]]);
            batch.add_rule(&self.table, &name, rule);
        };
        if chain.endpoints > 1 {
            choose(any_of(chain.endpoints, choice));
        }
        // A change that takes effect between the look-up of the chain and that of the endpoint may have
        // taken the place away; the first place is always there.
        choose(any_of(1, choice));
    }

    /// The chain and set of one endpoint of a pool with affinity.
    pub fn add_sticky_endpoint(&self, batch: &mut Batch, pool: &StickyPool, endpoint: (u32, IpAddr, u16)) {
        let (number, ip, port) = endpoint;
        let (chain, clients) = (StickyPool::endpoint_chain(number), StickyPool::clients(number));
        let set =
            Set::plain(clients.clone(), [self.address]).with_kind(SetKind::Dynamic { size: MOST_CLIENTS });
        batch.add_set(&self.table, &set);
        batch.add_chain(&self.table, Chain::regular(chain.clone()));
        batch.add_rule(
            &self.table,
            &chain,
            vec![
                src(self.family, Reg(0)),
                Expr::Dynset {
                    set: clients,
                    op: DynsetOp::Update,
                    key: Reg(0),
                    data: None,
                    timeout: pool.time,
                },
            ],
        );
        let to = Reg(8);
        batch.add_rule(
            &self.table,
            &chain,
            vec![
                Expr::Immediate {
                    to,
                    value: Key::new().ip(ip),
                },
                Expr::Immediate {
                    to: Reg(to.0 + self.words()),
                    value: Key::new().port(port),
                },
                self.rewrite(to),
            ],
        );
    }

    /// Deletes the chain and set of an endpoint that nothing points at any more.
    pub fn delete_sticky_endpoint(&self, batch: &mut Batch, number: u32) {
        batch.push(Op::FlushChain(
            self.table.clone(),
            StickyPool::endpoint_chain(number),
        ));
        batch.push(Op::DeleteChain(
            self.table.clone(),
            StickyPool::endpoint_chain(number),
        ));
        batch.push(Op::DeleteSet(self.table.clone(), StickyPool::clients(number)));
    }

    /// The chains of a pool with affinity, as new or in place of what they held.
    pub fn write_sticky_chains(&self, batch: &mut Batch, pool: &StickyPool) {
        for path in [Path::Anybody, Path::Inside] {
            let name = pool.chain(path);
            batch.add_chain(&self.table, Chain::regular(name.clone()));
            batch.push(Op::FlushChain(self.table.clone(), name.clone()));
            if path == Path::Inside {
                self.mark_local_callers(batch, &name);
            }
            for (number, ..) in &pool.endpoints {
                batch.add_rule(
                    &self.table,
                    &name,
                    vec![
                        src(self.family, Reg(0)),
                        Expr::InSet {
                            set: StickyPool::clients(*number),
                            from: Reg(0),
                        },
                        Expr::goto(StickyPool::endpoint_chain(*number)),
                    ],
                );
            }
            batch.add_rule(
                &self.table,
                &name,
                vec![
                    Expr::Immediate {
                        to: Reg(0),
                        value: Key::new().number(pool.number),
                    },
                    any_of(pool.endpoints.len() as u32, Reg(1)),
                    verdict("sticky-picks"),
                ],
            );
        }
    }

    pub fn delete_sticky_chains(&self, batch: &mut Batch, number: u32) {
        let pool = StickyPool {
            number,
            time: Duration::ZERO,
            endpoints: Vec::new(),
        };
        for path in [Path::Anybody, Path::Inside] {
            batch.push(Op::FlushChain(self.table.clone(), pool.chain(path)));
            batch.push(Op::DeleteChain(self.table.clone(), pool.chain(path)));
        }
    }

    /// The node's own calls leave with an address the endpoint may not be able to answer.
    fn mark_local_callers(&self, batch: &mut Batch, chain: &str) {
        batch.add_rule(
            &self.table,
            chain,
            vec![
                Expr::Fib {
                    to: Reg(0),
                    result: FibResult::SourceType,
                },
                Expr::eq(Reg(0), LOCAL_ADDRESS.to_ne_bytes()),
                Expr::jump("mark"),
            ],
        );
    }

    fn rewrite(&self, address: Reg) -> Expr {
        let port = Some(Reg(address.0 + self.words()));
        Expr::Nat {
            kind: NatKind::Destination,
            family: self.family,
            address,
            port,
        }
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

fn any_of(endpoints: u32, to: Reg) -> Expr {
    match endpoints {
        1 => Expr::Immediate {
            to,
            value: Key::new().number(0),
        },
        modulus => Expr::Numgen {
            to,
            modulus,
            kind: NumgenKind::Random,
        },
    }
}

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
