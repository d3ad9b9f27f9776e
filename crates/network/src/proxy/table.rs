//! The fixed part of the proxy's table: sets, maps, chains, and the rules that look things up in them.
//!
//! ```text
//! pre-dnat     : to a firewalled address from a source not allowed → drop
//! nat prerouting, output → services:
//!                to a cluster IP from outside the pods' ranges → mark
//!                front in `masquerade`  → mark
//!                from this node or its pods, front in `inside-fronts` → inside-<n>
//!                front in `fronts` → pool-<n>          (node ports: to a local address, likewise)
//! pool-<n>     : front → pool number; pool number . random below n → endpoint; rewrite
//! pool-<n>-<t> : the same, asking `affinity` first, and noting the choice there for t seconds
//! filter       : front without endpoints → reject or drop; other ports of cluster IPs → reject
//! postrouting  : mark → masquerade; an endpoint calling itself → masquerade
//! ```
//!
//! There is one chain per *number of endpoints* and affinity time, not per Service or endpoint; Services
//! live in maps alone, so a change of one costs a few elements whatever the number of the others.
//!
//! **Invariant:** an affinity entry is used only while its endpoint is in `live`; a stale one is dropped by
//! the packet that finds it.

use std::time::Duration;

use ipnet::IpNet;
use linux::nftables::{
    Batch, Chain, ChainKind, CtKey, DynsetOp, Element, Expr, Family, FibResult, Field, Hook, Key, MetaKey,
    NatKind, NumgenKind, Reg, RejectKind, Set, SetKind, Table, Verdict, dport, dst, l4proto, priority, src,
};

use super::service::IpFamily;
use crate::Names;

/// Which set or map an element belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetId {
    ClusterIps,
    /// Fronts by address, to chains; and their pools.
    Fronts,
    FrontPools,
    /// Node ports likewise.
    Ports,
    PortPools,
    InsideFronts,
    InsideFrontPools,
    InsidePorts,
    InsidePortPools,
    Masquerade,
    MasqueradePorts,
    DeadFronts,
    DeadPorts,
    Endpoints,
    StickyEndpoints,
    Live,
    Hairpin,
    Firewalled,
    Allowed,
}

/// A chain that shares traffic among so many endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolChain {
    pub path: Path,
    pub endpoints: u32,
    pub affinity: Option<Duration>,
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
        let path = match self.path {
            Path::Anybody => "pool",
            Path::Inside => "inside",
        };
        match self.affinity {
            None => format!("{path}-{}", self.endpoints),
            Some(time) => format!("{path}-{}-{}", self.endpoints, time.as_secs()),
        }
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

const AFFINITY: &str = "affinity";
/// Bounds the kernel memory that strangers can make us use.
const AFFINITY_SIZE: u32 = 262_144;
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
            SetId::FrontPools => Set::map("front-pools", front, [Number]),
            SetId::Ports => Set::verdicts("ports", port),
            SetId::PortPools => Set::map("port-pools", port, [Number]),
            SetId::InsideFronts => Set::verdicts("inside-fronts", front),
            SetId::InsideFrontPools => Set::map("inside-front-pools", front, [Number]),
            SetId::InsidePorts => Set::verdicts("inside-ports", port),
            SetId::InsidePortPools => Set::map("inside-port-pools", port, [Number]),
            SetId::Masquerade => Set::plain("masquerade", front),
            SetId::MasqueradePorts => Set::plain("masquerade-ports", port),
            SetId::DeadFronts => Set::verdicts("dead-fronts", front),
            SetId::DeadPorts => Set::verdicts("dead-ports", port),
            SetId::Endpoints => Set::map("endpoints", [Number, Number], [a, Port]),
            SetId::StickyEndpoints => Set::map("sticky-endpoints", [Number, Number], [Number, a, Port]),
            SetId::Live => Set::plain("live", [Number, a, Port]),
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
        let affinity = Set::map(
            AFFINITY,
            [Field::Number, self.address],
            [Field::Number, self.address, Field::Port],
        )
        .with_kind(SetKind::Dynamic { size: AFFINITY_SIZE });
        batch.add_set(&self.table, &affinity);
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
        let (by_front, by_port) = match chain.path {
            Path::Anybody => ("front-pools", "port-pools"),
            Path::Inside => {
                // The node's own calls leave with an address the endpoint may not be able to answer.
                batch.add_rule(
                    &self.table,
                    &name,
                    vec![
                        Expr::Fib {
                            to: Reg(0),
                            result: FibResult::SourceType,
                        },
                        Expr::eq(Reg(0), LOCAL_ADDRESS.to_ne_bytes()),
                        Expr::jump("mark"),
                    ],
                );
                ("inside-front-pools", "inside-port-pools")
            }
        };
        let map = |map: &str| Expr::Map {
            map: map.into(),
            from: Reg(0),
            to: Reg(0),
        };
        for find in [
            concat([self.front(), vec![map(by_front)]]),
            concat([port(), vec![map(by_port)]]),
        ] {
            for rule in self.choose(find, chain) {
                batch.add_rule(&self.table, &name, rule);
            }
        }
    }

    /// The rules that follow once `find` has put the pool's number into the first register.
    fn choose(&self, find: Vec<Expr>, chain: &PoolChain) -> Vec<Vec<Expr>> {
        let w = self.words();
        let any = match chain.endpoints {
            1 => Expr::Immediate {
                to: Reg(1),
                value: Key::new().number(0),
            },
            n => Expr::Numgen {
                to: Reg(1),
                modulus: n,
                kind: NumgenKind::Random,
            },
        };
        let rewrite = |address: Reg| Expr::Nat {
            kind: NatKind::Destination,
            family: self.family,
            address,
            port: Some(Reg(address.0 + w)),
        };
        let Some(time) = chain.affinity else {
            let pick = Expr::Map {
                map: "endpoints".into(),
                from: Reg(0),
                to: Reg(2),
            };
            return vec![concat([find, vec![any, pick, rewrite(Reg(2))]])];
        };
        // pool . caller in front, pool . address . port behind it.
        let chosen = Reg(1 + w);
        let caller = src(self.family, Reg(1));
        let note = |op| Expr::Dynset {
            set: AFFINITY.into(),
            op,
            key: Reg(0),
            data: (op != DynsetOp::Delete).then_some(chosen),
            timeout: time,
        };
        let known = vec![
            caller.clone(),
            Expr::Map {
                map: AFFINITY.into(),
                from: Reg(0),
                to: chosen,
            },
        ];
        let stick = vec![
            Expr::InSet {
                set: "live".into(),
                from: chosen,
            },
            note(DynsetOp::Update),
            rewrite(Reg(2 + w)),
        ];
        let forget = vec![
            Expr::NotInSet {
                set: "live".into(),
                from: chosen,
            },
            note(DynsetOp::Delete),
        ];
        let pick = vec![
            any,
            Expr::Map {
                map: "sticky-endpoints".into(),
                from: Reg(0),
                to: chosen,
            },
            caller,
            note(DynsetOp::Update),
            rewrite(Reg(2 + w)),
        ];
        vec![
            concat([find.clone(), known.clone(), stick]),
            concat([find.clone(), known, forget]),
            concat([find, pick]),
        ]
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

const ALL_SETS: [SetId; 19] = [
    SetId::ClusterIps,
    SetId::Fronts,
    SetId::FrontPools,
    SetId::Ports,
    SetId::PortPools,
    SetId::InsideFronts,
    SetId::InsideFrontPools,
    SetId::InsidePorts,
    SetId::InsidePortPools,
    SetId::Masquerade,
    SetId::MasqueradePorts,
    SetId::DeadFronts,
    SetId::DeadPorts,
    SetId::Endpoints,
    SetId::StickyEndpoints,
    SetId::Live,
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
