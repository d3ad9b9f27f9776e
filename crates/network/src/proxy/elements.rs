//! Plans to elements of sets and maps. Pure but for the places pools remember.

use std::net::IpAddr;

use linux::nftables::{Element, Key, Verdict};

use super::plan::{At, Front, Pool, PortPlan, Source, Target};
use super::service::Policy;
use super::table::{FrontKind, Path, PoolChain, SetId, Shape, StickyPool};

/// What is remembered about a port's pools from one plan to the next.
pub(super) trait Pools {
    /// The endpoints in the order of their places: whoever stays keeps the place it had, if it still exists.
    fn arrange(&mut self, port: &PortPlan, pool: &Pool) -> Vec<(IpAddr, u16)>;
    /// Likewise with numbers, for a pool with affinity.
    fn sticky(&mut self, port: &PortPlan, pool: &Pool) -> StickyPool;
}

/// What a Service puts into the table.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) elements: Vec<(SetId, Element)>,
    pub(super) chains: Vec<PoolChain>,
    pub(super) sticky: Vec<StickyPool>,
}

/// A pool with its endpoints in place.
enum Placed {
    Plain(Policy, Vec<(IpAddr, u16)>),
    Sticky(Policy, StickyPool),
}

pub(super) fn elements(port: &PortPlan, pools: &mut dyn Pools, wanted: &mut Wanted) {
    wanted.add(SetId::ClusterIps, Element::key(Key::new().ip(port.cluster_ip)));
    let placed: Vec<Placed> = port
        .pools
        .iter()
        .map(|pool| match pool.affinity {
            None => Placed::Plain(pool.policy, pools.arrange(port, pool)),
            Some(_) => Placed::Sticky(pool.policy, pools.sticky(port, pool)),
        })
        .collect();
    for front in &port.fronts {
        wanted.front(port, front, &placed);
    }
    for (ip, number) in &port.hairpin {
        let key = Key::new().ip(*ip).ip(*ip).proto(port.proto).port(*number);
        wanted.add(SetId::Hairpin, Element::key(key));
    }
    for (ip, allowed) in &port.firewall {
        let front = Key::new().ip(*ip).proto(port.proto).port(port.port);
        for net in allowed {
            let (first, last) = (front.clone().ip(net.network()), front.clone().ip(net.broadcast()));
            wanted.add(SetId::Allowed, Element::range(first, last));
        }
        wanted.add(SetId::Firewalled, Element::key(front));
    }
    for pool in placed {
        if let Placed::Sticky(_, pool) = pool {
            for (place, (number, ..)) in (0u32..).zip(&pool.endpoints) {
                let key = Key::new().number(pool.number).number(place);
                let goto = Verdict::Goto(StickyPool::endpoint_chain(*number));
                wanted.add(SetId::StickyPicks, Element::verdict(key, goto));
            }
            wanted.sticky.push(pool);
        }
    }
}

impl Wanted {
    fn add(&mut self, set: SetId, element: Element) {
        self.elements.push((set, element));
    }

    fn front(&mut self, port: &PortPlan, front: &Front, placed: &[Placed]) {
        let (kind, key) = match front.at {
            At::Address(ip, number) => (
                FrontKind::Address,
                Key::new().ip(ip).proto(port.proto).port(number),
            ),
            At::NodePort(number) => (FrontKind::NodePort, Key::new().proto(port.proto).port(number)),
        };
        let (masquerade, dead) = match kind {
            FrontKind::Address => (SetId::Masquerade, SetId::DeadFronts),
            FrontKind::NodePort => (SetId::MasqueradePorts, SetId::DeadPorts),
        };
        if front.source == Source::Masqueraded {
            self.add(masquerade, Element::key(key.clone()));
        }
        if let Some(policy) = front.from_inside {
            self.dispatch(kind, Path::Inside, policy, &key, placed);
        }
        match front.to {
            Target::Pool(policy) => self.dispatch(kind, Path::Anybody, policy, &key, placed),
            Target::Reject => self.add(dead, Element::verdict(key, Shape::reject())),
            Target::Drop => self.add(dead, Element::verdict(key, Verdict::Drop)),
        }
    }

    fn dispatch(&mut self, kind: FrontKind, path: Path, policy: Policy, key: &Key, placed: &[Placed]) {
        let verdicts = match (path, kind) {
            (Path::Anybody, FrontKind::Address) => SetId::Fronts,
            (Path::Anybody, FrontKind::NodePort) => SetId::Ports,
            (Path::Inside, FrontKind::Address) => SetId::InsideFronts,
            (Path::Inside, FrontKind::NodePort) => SetId::InsidePorts,
        };
        for pool in placed {
            match pool {
                Placed::Plain(of, endpoints) if *of == policy => {
                    let chain = PoolChain {
                        kind,
                        path,
                        endpoints: endpoints.len() as u32,
                    };
                    self.add(
                        verdicts,
                        Element::verdict(key.clone(), Verdict::Goto(chain.name())),
                    );
                    for (place, (ip, port)) in (0u32..).zip(endpoints) {
                        let to = Key::new().ip(*ip).port(*port);
                        self.add(chain.endpoints(), Element::value(key.clone().number(place), to));
                    }
                    self.chains.push(chain);
                }
                Placed::Sticky(of, pool) if *of == policy => {
                    self.add(
                        verdicts,
                        Element::verdict(key.clone(), Verdict::Goto(pool.chain(path))),
                    );
                }
                _ => {}
            }
        }
    }
}
