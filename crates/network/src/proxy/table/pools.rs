//! Chains that choose an endpoint.

use std::net::IpAddr;
use std::time::Duration;

use linux::nftables::{
    Batch, Chain, DynsetOp, Expr, FibResult, Key, NatKind, NumgenKind, Op, Reg, Set, SetKind, src,
};

use super::{LOCAL_ADDRESS, SetId, Shape, concat, port, verdict};

/// Bounds the kernel memory that strangers can make us use.
const MOST_CLIENTS: u32 = 65_536;

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

impl Shape {
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
}

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
