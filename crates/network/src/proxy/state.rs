//! What is in one family's table now, and the batch that leads to what should be.
//!
//! Several Services may want the same element (one endpoint behind two of them; two that claim one
//! external address): each element has its claimants in the order they came, and the first one's value
//! counts until it lets go.
//!
//! **Invariant:** after a batch of [`State::take_changes`] has been committed, the kernel holds exactly the
//! elements in `claims`. If a commit fails the caller throws the kernel's picture away with
//! [`State::rebuild`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use client::ObjectKey;
use linux::nftables::{Batch, Element, ElementData, Key};

use super::elements::{Wanted, elements};
use super::places::Remembered;
use super::plan::PortPlan;
use super::table::{PoolChain, SetId, Shape, StickyPool};

pub struct State {
    shape: Shape,
    services: HashMap<ObjectKey, Installed>,
    claims: HashMap<Place, Vec<Claim>>,
    chains: BTreeSet<PoolChain>,
    changes: Changes,
    next: Numbers,
}

/// The numbers given out last. None is ever used twice, so that what an old batch left can never be taken
/// for something new.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    service: u32,
    pub(super) pool: u32,
    pub(super) endpoint: u32,
}

/// A slot in a set: at most one element is there.
type Place = (SetId, Key, Option<Key>);

#[derive(Debug)]
struct Claim {
    service: u32,
    data: ElementData,
}

#[derive(Debug, Default)]
struct Installed {
    number: u32,
    memory: Remembered,
    elements: Vec<(Place, ElementData)>,
    sticky: Vec<StickyPool>,
}

/// What the kernel has not heard of yet.
#[derive(Debug, Default)]
struct Changes {
    chains: BTreeSet<PoolChain>,
    /// Places changed, with the value the kernel has.
    touched: BTreeMap<Place, Option<ElementData>>,
    sticky: Vec<StickyPool>,
    sticky_endpoints: Vec<(StickyPool, (u32, std::net::IpAddr, u16))>,
    /// To be deleted in a batch of their own: kernels before 6.2 let go of a chain some time after the
    /// last element that points at it.
    gone: Gone,
}

/// Chains and sets nothing points at any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    pools: Vec<u32>,
    endpoints: Vec<u32>,
}

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
            changes: Changes::default(),
            next: Numbers::default(),
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
        let mut installed = self.services.remove(service).unwrap_or_default();
        if installed.number == 0 {
            self.next.service += 1;
            installed.number = self.next.service;
        }
        let mut wanted = Wanted::default();
        installed.memory.round(&mut self.next, |pools| {
            for port in ports {
                elements(port, pools, &mut wanted);
            }
        });
        for chain in wanted.chains {
            if self.chains.insert(chain) {
                self.changes.chains.insert(chain);
            }
        }
        self.changes.sticky(&installed.sticky, &wanted.sticky);
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
        if !ports.is_empty() {
            installed.elements = new;
            installed.sticky = wanted.sticky;
            self.services.insert(service.clone(), installed);
        }
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
        if !self.changes.touched.contains_key(place) {
            let now = self
                .claims
                .get(place)
                .and_then(|claims| claims.first())
                .map(|c| c.data.clone());
            self.changes.touched.insert(place.clone(), now);
        }
    }

    /// The changes since the last call, to be committed as one batch.
    pub fn take_changes(&mut self) -> Batch {
        let gone = std::mem::take(&mut self.changes.gone);
        let changes = std::mem::take(&mut self.changes);
        self.changes.gone = gone;
        let mut batch = Batch::new();
        for chain in &changes.chains {
            self.shape.add_pool_chain(&mut batch, chain);
        }
        for (pool, endpoint) in &changes.sticky_endpoints {
            self.shape.add_sticky_endpoint(&mut batch, pool, *endpoint);
        }
        for pool in &changes.sticky {
            self.shape.write_sticky_chains(&mut batch, pool);
        }
        let mut gone: BTreeMap<SetId, Vec<Element>> = BTreeMap::new();
        let mut come: BTreeMap<SetId, Vec<Element>> = BTreeMap::new();
        for (place, before) in changes.touched {
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

    /// What nothing points at any more since the last call, with the batch that deletes it.
    pub fn take_gone(&mut self) -> (Gone, Batch) {
        let gone = std::mem::take(&mut self.changes.gone);
        let mut batch = Batch::new();
        for number in &gone.pools {
            self.shape.delete_sticky_chains(&mut batch, *number);
        }
        for number in &gone.endpoints {
            self.shape.delete_sticky_endpoint(&mut batch, *number);
        }
        (gone, batch)
    }

    /// The deletion was refused: try again with the next one.
    pub fn put_back(&mut self, gone: Gone) {
        self.changes.gone.pools.extend(gone.pools);
        self.changes.gone.endpoints.extend(gone.endpoints);
    }

    /// The whole table anew, whatever the kernel has.
    pub fn rebuild(&mut self) -> Batch {
        self.changes = Changes::default();
        let mut batch = Batch::new();
        self.shape.create(&mut batch);
        for chain in &self.chains {
            self.shape.add_pool_chain(&mut batch, chain);
        }
        for pool in self.services.values().flat_map(|service| &service.sticky) {
            for endpoint in &pool.endpoints {
                self.shape.add_sticky_endpoint(&mut batch, pool, *endpoint);
            }
            self.shape.write_sticky_chains(&mut batch, pool);
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

impl Changes {
    /// From one list of pools with affinity to another. Pools and endpoints are known by their numbers.
    fn sticky(&mut self, old: &[StickyPool], new: &[StickyPool]) {
        for pool in new {
            let before = old.iter().find(|known| known.number == pool.number);
            if before == Some(pool) {
                continue;
            }
            let known = |number| before.is_some_and(|b| b.endpoints.iter().any(|(n, ..)| *n == number));
            for endpoint in pool.endpoints.iter().filter(|(number, ..)| !known(*number)) {
                self.sticky_endpoints.push((pool.clone(), *endpoint));
            }
            // A later look in the same batch replaces an earlier one.
            self.sticky.retain(|earlier| earlier.number != pool.number);
            self.sticky.push(pool.clone());
        }
        for pool in old {
            let after = new.iter().find(|other| other.number == pool.number);
            if after.is_none() {
                self.gone.pools.push(pool.number);
            }
            let stays = |number| after.is_some_and(|a| a.endpoints.iter().any(|(n, ..)| *n == number));
            let numbers = pool.endpoints.iter().map(|(number, ..)| *number);
            self.gone
                .endpoints
                .extend(numbers.filter(|number| !stays(*number)));
        }
    }
}
