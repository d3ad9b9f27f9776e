//! Plans to elements of sets and maps. Pure.

use std::net::IpAddr;

use linux::nftables::{Element, ElementData, Key, Verdict};

use super::plan::{At, Pool, PortPlan, Source, Target};
use super::service::Policy;
use super::table::{Path, PoolChain, SetId, Shape};

/// What is remembered about a port's pools from one plan to the next.
pub(super) trait Pools {
    fn number(&mut self, port: &PortPlan, policy: Policy) -> u32;
    /// The endpoints in the order of their places: whoever stays keeps the place it had, if it still exists.
    fn arrange(&mut self, port: &PortPlan, pool: &Pool) -> Vec<(IpAddr, u16)>;
}

/// What a port puts into the table.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) elements: Vec<(SetId, Element)>,
    pub(super) chains: Vec<PoolChain>,
}

pub(super) fn elements(port: &PortPlan, pools: &mut dyn Pools, wanted: &mut Wanted) {
    wanted.add(SetId::ClusterIps, Element::key(Key::new().ip(port.cluster_ip)));
    for pool in &port.pools {
        let number = pools.number(port, pool.policy);
        let endpoints = pools.arrange(port, pool);
        wanted.pool(number, pool.affinity.is_some(), &endpoints);
    }
    for front in &port.fronts {
        let sets = match front.at {
            At::Address(..) => FrontSets::ADDRESSES,
            At::NodePort(_) => FrontSets::PORTS,
        };
        let key = match front.at {
            At::Address(ip, number) => Key::new().ip(ip).proto(port.proto).port(number),
            At::NodePort(number) => Key::new().proto(port.proto).port(number),
        };
        if front.source == Source::Masqueraded {
            wanted.add(sets.masquerade, Element::key(key.clone()));
        }
        if let Some(policy) = front.from_inside {
            let number = pools.number(port, policy);
            wanted.dispatch(port, policy, number, Path::Inside, &key, sets.inside);
        }
        match front.to {
            Target::Pool(policy) => {
                let number = pools.number(port, policy);
                wanted.dispatch(port, policy, number, Path::Anybody, &key, sets.anybody);
            }
            Target::Reject => wanted.add(sets.dead, Element::verdict(key, Shape::reject())),
            Target::Drop => wanted.add(sets.dead, Element::verdict(key, Verdict::Drop)),
        }
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
}

/// The sets for fronts of one kind.
struct FrontSets {
    anybody: (SetId, SetId),
    inside: (SetId, SetId),
    masquerade: SetId,
    dead: SetId,
}

impl FrontSets {
    const ADDRESSES: FrontSets = FrontSets {
        anybody: (SetId::Fronts, SetId::FrontPools),
        inside: (SetId::InsideFronts, SetId::InsideFrontPools),
        masquerade: SetId::Masquerade,
        dead: SetId::DeadFronts,
    };
    const PORTS: FrontSets = FrontSets {
        anybody: (SetId::Ports, SetId::PortPools),
        inside: (SetId::InsidePorts, SetId::InsidePortPools),
        masquerade: SetId::MasqueradePorts,
        dead: SetId::DeadPorts,
    };
}

impl Wanted {
    fn add(&mut self, set: SetId, element: Element) {
        self.elements.push((set, element));
    }

    fn pool(&mut self, number: u32, sticky: bool, endpoints: &[(IpAddr, u16)]) {
        for (place, (ip, port)) in (0u32..).zip(endpoints) {
            let key = Key::new().number(number).number(place);
            if !sticky {
                self.add(
                    SetId::Endpoints,
                    Element::value(key, Key::new().ip(*ip).port(*port)),
                );
                continue;
            }
            let endpoint = Key::new().number(number).ip(*ip).port(*port);
            self.add(SetId::StickyEndpoints, Element::value(key, endpoint.clone()));
            self.add(SetId::Live, Element::key(endpoint));
        }
    }

    fn dispatch(
        &mut self,
        port: &PortPlan,
        policy: Policy,
        number: u32,
        path: Path,
        key: &Key,
        (verdicts, front_pools): (SetId, SetId),
    ) {
        let Some(pool) = port.pools.iter().find(|pool| pool.policy == policy) else {
            return;
        };
        let chain = PoolChain {
            path,
            endpoints: pool.endpoints.len() as u32,
            affinity: pool.affinity,
        };
        let goto = ElementData::Verdict(Verdict::Goto(chain.name()));
        self.add(
            verdicts,
            Element {
                key: key.clone(),
                end: None,
                data: goto,
            },
        );
        self.add(
            front_pools,
            Element::value(key.clone(), Key::new().number(number)),
        );
        self.chains.push(chain);
    }
}
