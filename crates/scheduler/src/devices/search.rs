//! The search for devices: claim after claim, request after request, one candidate after the other, back where it leads
//! nowhere. The first solution is taken.
//!
//! It tries all orders of equal requests only as far as candidates before the last one chosen for a request are not looked
//! at again for it.

use super::capacity;
use super::constraint::Constraint;
use super::counters::Counters;
use super::pool::{self, Pool, State};
use super::request::{Mode, Request};
use super::selector::{self, Selectors};
use super::taken::{Amounts, Taken};
use super::{DeviceId, result};
use client::node_selector::Subject;
use client::taints::tolerates_device;
use hashbrown::HashMap;
use k8s_openapi::api::resource::v1::{
    AllocationResult, Device, DeviceClass, DeviceSelector, ResourceClaim, ResourceSlice,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A claim may get so many devices.
const DEVICES_MOST: usize = 32;
/// So long one node may take, as upstream's `filterTimeout`.
const LONGEST: Duration = Duration::from_secs(10);

/// What a search starts from; the same for all nodes.
#[derive(Clone)]
pub(crate) struct Search {
    pub(crate) slices: Arc<Vec<Arc<ResourceSlice>>>,
    pub(crate) classes: Arc<HashMap<String, Arc<DeviceClass>>>,
    pub(crate) taken: Arc<Taken>,
    pub(crate) claims: Vec<Arc<ResourceClaim>>,
    pub(crate) selectors: Arc<Selectors>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// This node will not do; others may.
    Node(String),
    /// The question is wrong: there is no answer for any node.
    Question(String),
}

/// A device that can be had on the node.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub(super) pool: usize,
    pub(super) id: DeviceId,
    pub(super) slice: &'a ResourceSlice,
    pub(super) device: &'a Device,
}

/// One alternative of a request, and how many devices it takes.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) request: Request<'a>,
    pub(super) class: &'a DeviceClass,
    count: usize,
    /// All it can have, where it wants all.
    all: Option<Vec<usize>>,
}

/// A device for a claim.
#[derive(Debug)]
pub(super) struct Picked {
    pub(super) candidate: usize,
    pub(super) request: usize,
    pub(super) alternative: usize,
    /// What it takes of a device that is shared.
    pub(super) share: Option<Amounts>,
    counted: bool,
}

/// Where the search is.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    claim: usize,
    request: usize,
    alternative: Option<usize>,
    device: usize,
}

/// Why the search goes no further this way.
enum Stop {
    /// The claim would get too many devices.
    TooMany,
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

struct Run<'a> {
    of: &'a Search,
    node: Subject<'a>,
    candidates: Vec<Candidate<'a>>,
    /// By claim, request and alternative.
    wanted: Vec<Vec<Vec<Wanted<'a>>>>,
    constraints: Vec<Vec<Constraint<'a>>>,
    counters: Counters<'a>,
    /// Whether an alternative can have a candidate, as far as that is known.
    matches: HashMap<(usize, usize, usize, usize), bool>,
    /// Which claims a candidate was picked for, whole.
    whole: HashMap<usize, Vec<usize>>,
    shares: HashMap<usize, Vec<Amounts>>,
    picked: Vec<Vec<Picked>>,
    /// The alternative that was chosen, by claim and request.
    chosen: Vec<Vec<usize>>,
    until: Instant,
}

impl Search {
    /// Allocations for all claims on a node, in their order; `None` if the node has not what they ask for.
    pub(crate) fn allocate(&self, node: Subject<'_>) -> Result<Option<Vec<AllocationResult>>, Failure> {
        let pools = pool::gather(&self.slices, node);
        let mut run = Run::new(self, node, &pools);
        run.prepare(&pools)?;
        match run.one(Place::default(), 0) {
            Err(Stop::Failed(failure)) => Err(failure),
            Ok(true) => run.results().map(Some),
            Ok(false) | Err(Stop::TooMany) if pools.iter().any(|p| matches!(p.state, State::Invalid)) => Err(
                Failure::Node("invalid resource pools were encountered".to_owned()),
            ),
            Ok(false) | Err(Stop::TooMany) => Ok(None),
        }
    }
}

pub(super) fn key(claim: &ResourceClaim) -> String {
    let name = claim.metadata.name.as_deref().unwrap_or("");
    match claim.metadata.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

impl<'a> Run<'a> {
    fn new(of: &'a Search, node: Subject<'a>, pools: &[Pool<'a>]) -> Self {
        let mut candidates = Vec::new();
        let mut counters = Counters::default();
        for (at, pool) in pools.iter().enumerate() {
            let State::Ready(ready) = &pool.state else {
                continue;
            };
            counters.add_pool(at, pool.id, ready, &of.taken);
            for slice in &ready.slices {
                let devices = slice.spec.devices.iter().flatten();
                candidates.extend(devices.map(|device| Candidate {
                    pool: at,
                    id: DeviceId::new(pool.id.driver, pool.id.name, &device.name),
                    slice,
                    device,
                }));
            }
        }
        Self {
            of,
            node,
            candidates,
            wanted: Vec::new(),
            constraints: Vec::new(),
            counters,
            matches: HashMap::new(),
            whole: HashMap::new(),
            shares: HashMap::new(),
            picked: of.claims.iter().map(|_| Vec::new()).collect(),
            chosen: Vec::new(),
            until: Instant::now() + LONGEST,
        }
    }

    /// Reads the claims, and counts what they want.
    fn prepare(&mut self, pools: &[Pool<'a>]) -> Result<(), Failure> {
        let of = self.of;
        for (at, claim) in of.claims.iter().enumerate() {
            let devices = claim.spec.devices.as_ref();
            let requests = devices.and_then(|d| d.requests.as_deref()).unwrap_or(&[]);
            self.wanted.push(Vec::new());
            let mut least = 0;
            for (position, request) in requests.iter().enumerate() {
                self.wanted[at].push(Vec::new());
                for (alternative, request) in Request::alternatives(request).into_iter().enumerate() {
                    let wanted = self.wanted(claim, request, (at, position, alternative), pools)?;
                    self.wanted[at][position].push(wanted);
                }
                least += self.wanted[at][position]
                    .iter()
                    .map(|w| w.count)
                    .min()
                    .unwrap_or(0);
            }
            if least > DEVICES_MOST {
                return Err(Failure::Question(format!(
                    "claim {}: number of requested devices {least} exceeds the claim limit of {DEVICES_MOST}",
                    key(claim)
                )));
            }
            self.chosen.push(vec![0; requests.len()]);
            let constraints = devices.and_then(|d| d.constraints.as_deref()).unwrap_or(&[]);
            let mut known = Vec::with_capacity(constraints.len());
            for (number, constraint) in constraints.iter().enumerate() {
                known.push(Constraint::new(constraint).ok_or_else(|| {
                    Failure::Question(format!(
                        "claim {}, constraint #{number}: empty constraint (unsupported constraint type?)",
                        key(claim)
                    ))
                })?);
            }
            self.constraints.push(known);
        }
        Ok(())
    }

    fn wanted(
        &mut self,
        claim: &'a ResourceClaim,
        request: Request<'a>,
        place: (usize, usize, usize),
        pools: &[Pool<'a>],
    ) -> Result<Wanted<'a>, Failure> {
        let wrong = |what: String| {
            Failure::Question(format!("claim {}, request {}: {what}", key(claim), request.name))
        };
        if let Some(at) = request.selectors.iter().position(|s| s.cel.is_none()) {
            return Err(Failure::Question(format!(
                "claim {}, request {}, selector #{at}: CEL expression empty (unsupported selector type?)",
                key(claim),
                request.name
            )));
        }
        let Some(class) = self.of.classes.get(request.class) else {
            return Err(wrong(format!(
                "could not retrieve device class {}: deviceclass.resource.k8s.io {:?} not found",
                request.class, request.class
            )));
        };
        let mut wanted = Wanted {
            request,
            class,
            count: 0,
            all: None,
        };
        match request.mode() {
            Mode::Count(count) => wanted.count = usize::try_from(count).unwrap_or(0),
            Mode::All => {
                for pool in pools {
                    let what = match pool.state {
                        State::Incomplete => "being updated",
                        State::Invalid => "invalid",
                        State::Ready(_) => continue,
                    };
                    return Err(wrong(format!(
                        "asks for all devices, but resource pool {} is currently {what}",
                        pool.id
                    )));
                }
                let mut all = Vec::new();
                for candidate in 0..self.candidates.len() {
                    if self.selectable(&wanted, place, candidate)? && self.suffices(&request, candidate) {
                        all.push(candidate);
                    }
                }
                wanted.count = all.len();
                wanted.all = Some(all);
            }
            Mode::Unknown(mode) => return Err(wrong(format!("unsupported count mode {mode}"))),
        }
        Ok(wanted)
    }

    fn one(&mut self, place: Place, start: usize) -> Result<bool, Stop> {
        if Instant::now() > self.until {
            let node = self.node.name;
            let what = format!("node {node}: timed out trying to allocate devices");
            return Err(Failure::Question(what).into());
        }
        let Some(requests) = self.wanted.get(place.claim) else {
            return Ok(true);
        };
        let Some(alternatives) = requests.get(place.request) else {
            let next = Place {
                claim: place.claim + 1,
                ..Place::default()
            };
            return match self.one(next, 0) {
                // Another choice for this claim does not make the next one smaller.
                Err(Stop::TooMany) => Ok(false),
                other => other,
            };
        };
        let Some(alternative) = place.alternative else {
            return self.any_of(place, alternatives.len());
        };
        let wanted = &alternatives[alternative];
        let (request, count) = (wanted.request, wanted.count);
        if wanted.all.as_ref().is_some_and(Vec::is_empty) {
            return Ok(false);
        }
        if place.device >= count {
            let next = Place {
                claim: place.claim,
                request: place.request + 1,
                ..Place::default()
            };
            return self.one(next, 0);
        }
        if self.picked[place.claim].len() + count - place.device > DEVICES_MOST {
            return Err(Stop::TooMany);
        }
        let next = Place {
            device: place.device + 1,
            ..place
        };
        if let Some(candidate) = wanted.all.as_ref().map(|all| all[place.device]) {
            return Ok(self.pick(place, request, candidate, true)? && self.go_on(next, 0)?);
        }
        for candidate in start..self.candidates.len() {
            if self.in_use(&request, place.claim, candidate) {
                continue;
            }
            let at = (place.claim, place.request, alternative);
            let fits = self.selectable_at(at, candidate)? && self.suffices(&request, candidate);
            if fits && self.pick(place, request, candidate, false)? && self.go_on(next, candidate + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tries the alternatives of a request in the order in which they are preferred.
    fn any_of(&mut self, place: Place, alternatives: usize) -> Result<bool, Stop> {
        let mut too_many = alternatives > 1;
        for alternative in 0..alternatives {
            let with = Place {
                alternative: Some(alternative),
                ..place
            };
            match self.one(with, 0) {
                Err(Stop::TooMany) if alternatives > 1 => continue,
                Ok(true) => {
                    self.chosen[place.claim][place.request] = alternative;
                    return Ok(true);
                }
                Ok(false) => too_many = false,
                Err(stop) => return Err(stop),
            }
        }
        if too_many { Err(Stop::TooMany) } else { Ok(false) }
    }

    /// Goes on after a device was picked, and puts it back if that leads nowhere.
    fn go_on(&mut self, next: Place, start: usize) -> Result<bool, Stop> {
        let done = self.one(next, start);
        if !matches!(done, Ok(true)) {
            self.put_back(next.claim);
        }
        done
    }

    /// Whether the device is given whole to somebody already.
    fn in_use(&self, request: &Request<'_>, claim: usize, candidate: usize) -> bool {
        let own = self.whole.get(&candidate);
        if request.admin {
            return own.is_some_and(|claims| claims.contains(&claim));
        }
        own.is_some_and(|claims| !claims.is_empty()) || self.of.taken.is_whole(&self.candidates[candidate].id)
    }

    fn suffices(&self, request: &Request<'_>, candidate: usize) -> bool {
        let known = self.of.taken.share(&self.candidates[candidate].id);
        let others: Vec<&Amounts> = known
            .into_iter()
            .chain(self.shares.get(&candidate).into_iter().flatten())
            .collect();
        capacity::suffices(request.capacity, self.candidates[candidate].device, &others)
    }

    /// Picks a device for a claim. `must`: all have to be picked, so a constraint against it is an error.
    fn pick(
        &mut self,
        place: Place,
        request: Request<'a>,
        candidate: usize,
        must: bool,
    ) -> Result<bool, Failure> {
        let Candidate { pool, device, .. } = self.candidates[candidate];
        let shared = device.allow_multiple_allocations == Some(true);
        if (!shared || !request.admin) && self.in_use(&request, place.claim, candidate) {
            return Ok(false);
        }
        if tainted(device, &request) || !self.suffices(&request, candidate) {
            return Ok(false);
        }
        // Who shares a device takes nothing more from the counters.
        let first = self.of.taken.share(&self.candidates[candidate].id).is_none()
            && self.shares.get(&candidate).is_none_or(Vec::is_empty);
        let counted = (!shared || first) && device.consumes_counters.as_ref().is_some_and(|c| !c.is_empty());
        if counted && !self.counters.take(pool, device) {
            return Ok(false);
        }
        let driver = &self.candidates[candidate].slice.spec.driver;
        let constraints = &mut self.constraints[place.claim];
        let refused = constraints
            .iter_mut()
            .position(|c| !c.add(&request, driver, device));
        if let Some(refused) = refused {
            constraints[..refused].iter_mut().for_each(|c| c.remove(&request));
            if counted {
                self.counters.give_back(pool, device);
            }
            if must {
                return Err(Failure::Question(format!(
                    "claim {}, request {}: cannot add device {} because a claim constraint would not be satisfied",
                    key(&self.of.claims[place.claim]),
                    request.name,
                    self.candidates[candidate].id
                )));
            }
            return Ok(false);
        }
        let share = shared.then(|| capacity::consumed(request.capacity, device));
        match &share {
            Some(share) => self.shares.entry(candidate).or_default().push(share.clone()),
            None => self.whole.entry(candidate).or_default().push(place.claim),
        }
        self.picked[place.claim].push(Picked {
            candidate,
            request: place.request,
            alternative: place.alternative.unwrap_or(0),
            share,
            counted,
        });
        Ok(true)
    }

    /// Puts back what was picked last for a claim.
    fn put_back(&mut self, claim: usize) {
        let Some(last) = self.picked[claim].pop() else {
            return;
        };
        let request = self.wanted[claim][last.request][last.alternative].request;
        self.constraints[claim]
            .iter_mut()
            .for_each(|c| c.remove(&request));
        if last.counted {
            let Candidate { pool, device, .. } = self.candidates[last.candidate];
            self.counters.give_back(pool, device);
        }
        if last.share.is_some() {
            self.shares.entry(last.candidate).or_default().pop();
        } else {
            self.whole.entry(last.candidate).or_default().pop();
        }
    }

    fn selectable_at(&mut self, at: (usize, usize, usize), candidate: usize) -> Result<bool, Failure> {
        if let Some(known) = self.matches.get(&(at.0, at.1, at.2, candidate)) {
            return Ok(*known);
        }
        let wanted = &self.wanted[at.0][at.1][at.2];
        let selected = self.selected(wanted, at.0, candidate)?;
        self.matches.insert((at.0, at.1, at.2, candidate), selected);
        Ok(selected)
    }

    fn selectable(
        &mut self,
        wanted: &Wanted<'a>,
        at: (usize, usize, usize),
        candidate: usize,
    ) -> Result<bool, Failure> {
        let selected = self.selected(wanted, at.0, candidate)?;
        self.matches.insert((at.0, at.1, at.2, candidate), selected);
        Ok(selected)
    }

    /// Whether class and request select the device, and it can be used on the node.
    fn selected(&self, wanted: &Wanted<'a>, claim: usize, candidate: usize) -> Result<bool, Failure> {
        let class = wanted.class;
        let name = class.metadata.name.as_deref().unwrap_or("");
        let of_class = class.spec.selectors.as_deref().unwrap_or(&[]);
        let who = || format!("class {name}");
        if !self.all_match(of_class, candidate, &who)? {
            return Ok(false);
        }
        let who = || format!("claim {}", key(&self.of.claims[claim]));
        if !self.all_match(wanted.request.selectors, candidate, &who)? {
            return Ok(false);
        }
        let Candidate { slice, device, .. } = self.candidates[candidate];
        Ok(slice.spec.per_device_node_selection != Some(true) || pool::reaches(device, self.node))
    }

    fn all_match(
        &self,
        selectors: &[DeviceSelector],
        candidate: usize,
        who: &dyn Fn() -> String,
    ) -> Result<bool, Failure> {
        let Candidate { slice, device, .. } = self.candidates[candidate];
        for (at, selector) in selectors.iter().enumerate() {
            let Some(cel) = &selector.cel else { continue };
            let compiled = self.of.selectors.get(&cel.expression);
            let wrong = |what: &str, why: String| {
                Failure::Question(format!("{}: selector #{at}: CEL {what} error: {why}", who()))
            };
            let program = compiled
                .as_ref()
                .as_ref()
                .map_err(|why| wrong("compile", why.clone()))?;
            let seen = selector::device(&slice.spec.driver, device).map_err(|why| wrong("runtime", why))?;
            if !program
                .matches(&seen)
                .map_err(|error| wrong("runtime", error.to_string()))?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn results(&self) -> Result<Vec<AllocationResult>, Failure> {
        let claims = self.of.claims.iter().enumerate();
        claims
            .map(|(at, claim)| {
                let chosen: Vec<&Wanted<'a>> = self.wanted[at]
                    .iter()
                    .zip(&self.chosen[at])
                    .filter_map(|(alternatives, chosen)| alternatives.get(*chosen))
                    .collect();
                result::allocation(claim, &chosen, &self.picked[at], &self.candidates, self.node.name)
            })
            .collect()
    }
}

fn tainted(device: &Device, request: &Request<'_>) -> bool {
    let mut taints = device.taints.iter().flatten();
    taints.any(|taint| {
        let tolerated = || {
            let mut tolerations = request.tolerations.into_iter().flatten();
            tolerations.any(|t| tolerates_device(t, taint))
        };
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerated()
    })
}
