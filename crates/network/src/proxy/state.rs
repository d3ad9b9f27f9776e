//! What is in one family's table now, and the batch that leads to what should be.
//!
//! Several Services may want the same element (one endpoint behind two of them; two that claim one
//! external address): each element has its claimants in the order they came, and the first one's value
//! counts until it lets go.
//!
//! **Invariant:** after a batch of [`State::take_changes`] has been committed, the kernel holds exactly the
//! elements in `claims`. If a commit fails the caller throws the state's picture away with
//! [`State::rebuild`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use client::ObjectKey;
use linux::nftables::{Batch, Element, ElementData, Key};

use super::elements::{Pools, Wanted, elements};
use super::plan::{Pool, PortPlan};
use super::service::Policy;
use super::table::{PoolChain, SetId, Shape};

pub struct State {
    shape: Shape,
    services: HashMap<ObjectKey, Installed>,
    claims: HashMap<Place, Vec<Claim>>,
    chains: BTreeSet<PoolChain>,
    /// Chains and places changed since the last batch; a place with the value the kernel has.
    new_chains: BTreeSet<PoolChain>,
    touched: BTreeMap<Place, Option<ElementData>>,
    next_service: u32,
    next_pool: u32,
}

/// A slot in a set: at most one element is there.
type Place = (SetId, Key, Option<Key>);

#[derive(Debug)]
struct Claim {
    service: u32,
    data: ElementData,
}

#[derive(Debug)]
struct Installed {
    number: u32,
    pools: Vec<Known>,
    elements: Vec<(Place, ElementData)>,
}

#[derive(Debug)]
struct Known {
    key: PoolKey,
    number: u32,
    /// The endpoint at each place.
    places: Vec<(IpAddr, u16)>,
}

/// A pool of a Service by port name, protocol and policy.
type PoolKey = (compact_str::CompactString, u8, Policy);

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub services: usize,
    pub elements: usize,
    pub chains: usize,
}

impl State {
    pub fn new(shape: Shape) -> Self {
        State {
            shape,
            services: HashMap::new(),
            claims: HashMap::new(),
            chains: BTreeSet::new(),
            new_chains: BTreeSet::new(),
            touched: BTreeMap::new(),
            next_service: 0,
            next_pool: 0,
        }
    }

    pub fn size(&self) -> Size {
        Size {
            services: self.services.len(),
            elements: self.claims.len(),
            chains: self.chains.len(),
        }
    }

    /// The names of all Services with something in the table.
    pub fn services(&self) -> impl Iterator<Item = &ObjectKey> {
        self.services.keys()
    }

    /// Makes a Service be as planned; no ports at all take it away.
    pub fn set(&mut self, service: &ObjectKey, ports: &[PortPlan]) {
        if ports.is_empty() {
            if let Some(old) = self.services.remove(service) {
                self.replace(old.number, old.elements, Vec::new());
            }
            return;
        }
        let mut installed = self.services.remove(service).unwrap_or_else(|| {
            self.next_service += 1;
            Installed {
                number: self.next_service,
                pools: Vec::new(),
                elements: Vec::new(),
            }
        });
        let mut pools = Remembered {
            known: &mut installed.pools,
            next: &mut self.next_pool,
            used: Vec::new(),
        };
        let mut wanted = Wanted::default();
        for port in ports {
            elements(port, &mut pools, &mut wanted);
        }
        let used = pools.used;
        installed.pools.retain(|known| used.contains(&known.key));
        for chain in wanted.chains {
            if self.chains.insert(chain) {
                self.new_chains.insert(chain);
            }
        }
        let mut new: Vec<(Place, ElementData)> = wanted
            .elements
            .into_iter()
            .map(|(set, e)| ((set, e.key, e.end), e.data))
            .collect();
        // Ports of one Service share its cluster IP and may share endpoints.
        new.sort_by(|(a, _), (b, _)| a.cmp(b));
        new.dedup_by(|(a, _), (b, _)| a == b);
        self.replace(
            installed.number,
            std::mem::take(&mut installed.elements),
            new.clone(),
        );
        installed.elements = new;
        self.services.insert(service.clone(), installed);
    }

    /// Both lists are sorted by place; what is in both costs nothing further.
    fn replace(&mut self, service: u32, old: Vec<(Place, ElementData)>, new: Vec<(Place, ElementData)>) {
        let mut old = old.into_iter().peekable();
        let mut new = new.into_iter().peekable();
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            match order {
                std::cmp::Ordering::Less => {
                    if let Some((place, _)) = old.next() {
                        self.release(service, place);
                    }
                }
                std::cmp::Ordering::Greater => {
                    if let Some((place, data)) = new.next() {
                        self.claim(service, place, data);
                    }
                }
                std::cmp::Ordering::Equal => {
                    if let (Some((_, before)), Some((place, after))) = (old.next(), new.next())
                        && before != after
                    {
                        self.claim(service, place, after);
                    }
                }
            }
        }
    }

    fn claim(&mut self, service: u32, place: Place, data: ElementData) {
        self.touch(&place);
        let claims = self.claims.entry(place).or_default();
        match claims.iter_mut().find(|claim| claim.service == service) {
            Some(claim) => claim.data = data,
            None => claims.push(Claim { service, data }),
        }
    }

    fn release(&mut self, service: u32, place: Place) {
        self.touch(&place);
        if let Some(claims) = self.claims.get_mut(&place) {
            claims.retain(|claim| claim.service != service);
            if claims.is_empty() {
                self.claims.remove(&place);
            }
        }
    }

    /// Notes what the kernel has at a place before the first change to it.
    fn touch(&mut self, place: &Place) {
        if !self.touched.contains_key(place) {
            let now = self
                .claims
                .get(place)
                .and_then(|claims| claims.first())
                .map(|c| c.data.clone());
            self.touched.insert(place.clone(), now);
        }
    }

    /// The changes since the last call, to be committed as one batch.
    pub fn take_changes(&mut self) -> Batch {
        let mut batch = Batch::new();
        for chain in std::mem::take(&mut self.new_chains) {
            self.shape.add_pool_chain(&mut batch, &chain);
        }
        let mut gone: BTreeMap<SetId, Vec<Element>> = BTreeMap::new();
        let mut come: BTreeMap<SetId, Vec<Element>> = BTreeMap::new();
        for (place, before) in std::mem::take(&mut self.touched) {
            let after = self
                .claims
                .get(&place)
                .and_then(|claims| claims.first())
                .map(|c| c.data.clone());
            if before == after {
                continue;
            }
            let (set, key, end) = place;
            if before.is_some() {
                let element = Element {
                    key: key.clone(),
                    end: end.clone(),
                    data: ElementData::None,
                };
                gone.entry(set).or_default().push(element);
            }
            if let Some(data) = after {
                come.entry(set).or_default().push(Element { key, end, data });
            }
        }
        for (set, list) in gone {
            batch.delete_elements(&self.shape.table, &self.shape.set(set), list);
        }
        for (set, list) in come {
            batch.add_elements(&self.shape.table, &self.shape.set(set), list);
        }
        batch
    }

    /// The whole table anew, whatever the kernel has.
    pub fn rebuild(&mut self) -> Batch {
        self.new_chains.clear();
        self.touched.clear();
        let mut batch = Batch::new();
        self.shape.create(&mut batch);
        for chain in &self.chains {
            self.shape.add_pool_chain(&mut batch, chain);
        }
        let mut all: BTreeMap<SetId, Vec<Element>> = BTreeMap::new();
        for ((set, key, end), claims) in &self.claims {
            if let Some(claim) = claims.first() {
                let element = Element {
                    key: key.clone(),
                    end: end.clone(),
                    data: claim.data.clone(),
                };
                all.entry(*set).or_default().push(element);
            }
        }
        for (set, list) in all {
            batch.add_elements(&self.shape.table, &self.shape.set(set), list);
        }
        batch
    }
}

struct Remembered<'a> {
    known: &'a mut Vec<Known>,
    next: &'a mut u32,
    used: Vec<PoolKey>,
}

impl Remembered<'_> {
    fn get(&mut self, port: &PortPlan, policy: Policy) -> &mut Known {
        let key = (port.name.clone(), port.proto, policy);
        if !self.used.contains(&key) {
            self.used.push(key.clone());
        }
        let at = self
            .known
            .iter()
            .position(|known| known.key == key)
            .unwrap_or_else(|| {
                // Never used twice: an affinity entry of an old pool must not speak for a new one.
                *self.next = self.next.wrapping_add(1);
                self.known.push(Known {
                    key,
                    number: *self.next,
                    places: Vec::new(),
                });
                self.known.len() - 1
            });
        &mut self.known[at]
    }
}

impl Pools for Remembered<'_> {
    fn number(&mut self, port: &PortPlan, policy: Policy) -> u32 {
        self.get(port, policy).number
    }

    fn arrange(&mut self, port: &PortPlan, pool: &Pool) -> Vec<(IpAddr, u16)> {
        let known = self.get(port, pool.policy);
        known.places = arrange(&known.places, &pool.endpoints);
        known.places.clone()
    }
}

/// Keeps places, so that one endpoint more or less changes one element and not all behind it.
fn arrange(old: &[(IpAddr, u16)], new: &[(IpAddr, u16)]) -> Vec<(IpAddr, u16)> {
    let wanted: HashSet<_> = new.iter().collect();
    let kept = old
        .iter()
        .take(new.len())
        .map(|e| wanted.contains(e).then_some(*e));
    let mut places: Vec<Option<(IpAddr, u16)>> = kept.collect();
    places.resize(new.len(), None);
    let settled: HashSet<_> = places.iter().flatten().copied().collect();
    let mut others = new.iter().filter(|e| !settled.contains(*e)).copied();
    // As many others as there are holes: both lists hold each endpoint once.
    places
        .into_iter()
        .filter_map(|place| place.or_else(|| others.next()))
        .collect()
}
