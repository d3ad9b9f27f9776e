//! DynamicResources: a pod that uses ResourceClaims goes where their devices are, or can be had (KEP-4381).
//!
//! Claims that are not allocated are allocated here, for each node by itself ([`crate::devices`]); what is decided for
//! the chosen node is written before the pod is bound. A claim that was allocated where its pod does not fit is taken
//! back, as long as nobody else uses it.
//!
//! Not here: extended resources that are served by devices, claims of pod groups, and resources of a node that devices
//! account for; the last two are off by default upstream.

use crate::devices::{Binding, Failure, Pending, Search, Selectors, Taken, Writer, claims};
use crate::framework::{
    ClusterEvent, Filter, Plugin, PostFilter, PreBind, PreFilter, Rejection, Score, Verdict,
    default_normalize,
};
use crate::node_info::NodeInfo;
use crate::plugins::Context;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use client::node_selector::selector_matches;
use client::{Event, Informer, ObjectKey};
use hashbrown::HashMap;
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim, ResourceSlice};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Notify;

pub const NAME: &str = "DynamicResources";

/// The most alternatives a request may have: the first of them scores so much.
const ALTERNATIVES_MOST: usize = 8;

#[derive(Clone)]
pub struct DynamicResources {
    claims: Informer<ResourceClaim>,
    classes: Informer<DeviceClass>,
    slices: Informer<ResourceSlice>,
    selectors: Arc<Selectors>,
    writer: Writer,
}

impl DynamicResources {
    pub fn new(context: &Context) -> Self {
        let changed = Arc::new(Notify::new());
        let claims = context.informers.get::<ResourceClaim>();
        let tells = Arc::clone(&changed);
        claims.subscribe(move |_: &Event<ResourceClaim>| tells.notify_waiters());
        let writer = Writer {
            client: context.client.clone(),
            claims: claims.clone(),
            changed,
            pending: Arc::<Pending>::default(),
            recorder: context.recorder.clone(),
            clock: Arc::clone(&context.clock),
        };
        Self {
            claims,
            classes: context.informers.get(),
            slices: context.informers.get(),
            selectors: Arc::default(),
            writer,
        }
    }

    /// What there is to know for a pod's claims; the error is for all nodes.
    fn state(&self, pod: &PodInfo) -> Result<State, String> {
        let claims = claims::of(&pod.pod, &self.claims)?;
        let open: Vec<Arc<ResourceClaim>> = claims
            .iter()
            .filter(|c| !claims::is_allocated(c))
            .cloned()
            .collect();
        let mut search = None;
        if !open.is_empty() {
            let pending = self.writer.pending.lock().clone();
            if let Some(claim) = open.iter().find(|c| pending.contains_key(claims::uid(c))) {
                let key = ObjectKey::of(&**claim);
                return Err(format!(
                    "resource claim {key} is in the process of being allocated"
                ));
            }
            let classes = self.classes_of(&open)?;
            search = Some(self.search(open, classes, &pending));
        }
        Ok(State {
            writer: self.writer.clone(),
            pod: pod.uid().to_owned(),
            claims,
            search,
            unavailable: Arc::default(),
        })
    }

    /// The classes that the claims' requests are of.
    fn classes_of(&self, open: &[Arc<ResourceClaim>]) -> Result<HashMap<String, Arc<DeviceClass>>, String> {
        let mut classes = HashMap::new();
        let mut add = |class: &str, request: String| match self.classes.find("", class) {
            Some(found) => {
                classes.insert(class.to_owned(), found);
                Ok(())
            }
            None => Err(format!("request {request}: device class {class} does not exist")),
        };
        for claim in open {
            let requests = claim
                .spec
                .devices
                .iter()
                .flat_map(|d| d.requests.iter().flatten());
            for request in requests {
                let alternatives = request.first_available.as_deref().unwrap_or(&[]);
                if let Some(exact) = &request.exactly {
                    add(&exact.device_class_name, request.name.clone())?;
                } else if alternatives.is_empty() {
                    let key = ObjectKey::of(&**claim);
                    let name = &request.name;
                    return Err(format!(
                        "resource claim {key}, request {name}: unknown request type"
                    ));
                }
                for one in alternatives {
                    add(&one.device_class_name, format!("{}/{}", request.name, one.name))?;
                }
            }
        }
        Ok(classes)
    }

    fn search(
        &self,
        open: Vec<Arc<ResourceClaim>>,
        classes: HashMap<String, Arc<DeviceClass>>,
        pending: &HashMap<String, AllocationResult>,
    ) -> Search {
        let mut taken = Taken::default();
        for claim in self.claims.list() {
            let written = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
            if let Some(allocation) = written.or_else(|| pending.get(claims::uid(&claim))) {
                taken.add(allocation);
            }
        }
        Search {
            slices: Arc::new(self.slices.list()),
            classes: Arc::new(classes),
            taken: Arc::new(taken),
            claims: open,
            selectors: Arc::clone(&self.selectors),
        }
    }
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight(&self) -> i64 {
        2
    }

    fn may_enqueue(&self, pod: &PodInfo) -> bool {
        claims::entries(&pod.pod).is_empty() || claims::of(&pod.pod, &self.claims).is_ok()
    }

    fn pre_filter(&self, pod: &Arc<PodInfo>, _: &Snapshot) -> PreFilter {
        if claims::entries(&pod.pod).is_empty() {
            return PreFilter::Skip;
        }
        match self.state(pod) {
            Ok(state) if state.claims.is_empty() => PreFilter::Skip,
            Ok(state) => PreFilter::Ask(Box::new(state)),
            Err(reason) => PreFilter::Reject(Rejection::unresolvable(reason)),
        }
    }

    fn pre_score(&self, pod: &Arc<PodInfo>, _: &Snapshot, _: &[Arc<NodeInfo>]) -> Option<Box<dyn Score>> {
        if claims::entries(&pod.pod).is_empty() {
            return None;
        }
        let state = self.state(pod).ok()?;
        let requests = state.claims.iter().flat_map(|c| c.spec.devices.iter());
        let mut requests = requests.flat_map(|d| d.requests.iter().flatten());
        let chooses = requests.any(|r| r.exactly.is_none());
        chooses.then(|| Box::new(state) as Box<dyn Score>)
    }

    fn post_filter(&self) -> Option<&'static str> {
        Some("no new claims to deallocate")
    }

    fn reserve(&self, pod: &Arc<PodInfo>, node: &NodeInfo) -> Result<Option<Box<dyn PreBind>>, Rejection> {
        if claims::entries(&pod.pod).is_empty() {
            return Ok(None);
        }
        let state = self.state(pod).map_err(Rejection::unresolvable)?;
        if state.claims.is_empty() {
            return Ok(None);
        }
        let mut decided = HashMap::new();
        if let Some(search) = &state.search {
            let uids = search.claims.iter().map(|c| claims::uid(c).to_owned());
            decided.extend(uids.zip(state.allocate(search, node)?));
        }
        let pod = Arc::clone(&pod.pod);
        let binding = Binding::new(self.writer.clone(), pod, &node.name, state.claims, decided);
        Ok(Some(Box::new(binding)))
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        matches!(
            event,
            ClusterEvent::Devices
                | ClusterEvent::NodeAdded
                | ClusterEvent::NodeLabels
                | ClusterEvent::NodeAllocatable
                | ClusterEvent::PodItself
        )
    }
}

/// A pod's claims, looked at once for all nodes.
#[derive(Clone)]
struct State {
    writer: Writer,
    pod: String,
    claims: Vec<Arc<ResourceClaim>>,
    /// For the claims that are not allocated.
    search: Option<Search>,
    /// Positions of allocated claims that some node was refused for.
    unavailable: Arc<Mutex<BTreeSet<usize>>>,
}

impl State {
    fn allocate(&self, search: &Search, node: &NodeInfo) -> Result<Vec<AllocationResult>, Rejection> {
        match search.allocate(node.subject()) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(Rejection::unresolvable("cannot allocate all claims")),
            Err(Failure::Node(reason)) => Err(Rejection::unresolvable(reason)),
            Err(Failure::Question(reason)) => Err(Rejection::error(reason)),
        }
    }

    /// Whether an allocated claim can be used on a node.
    fn is_available(&self, claim: &ResourceClaim, node: &NodeInfo) -> bool {
        let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
        let reach = allocation.and_then(|a| a.node_selector.as_ref());
        if reach.is_some_and(|selector| !selector_matches(selector, node.subject())) {
            return false;
        }
        match claims::is_ready(claim) {
            Err(_) => false,
            Ok(true) => true,
            Ok(false) => claims::prepared_by(claim).is_none_or(|by| by >= self.writer.clock.now()),
        }
    }
}

impl Filter for State {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        let claims = self.claims.iter().enumerate();
        let refused: Vec<usize> = claims
            .filter(|(_, claim)| claims::is_allocated(claim) && !self.is_available(claim, node))
            .map(|(at, _)| at)
            .collect();
        if let Some(search) = &self.search {
            self.allocate(search, node)?;
        }
        if refused.is_empty() {
            return Ok(());
        }
        self.unavailable.lock().extend(refused);
        Err(Rejection::unresolvable("resourceclaim not available on the node"))
    }

    /// Takes back one claim that keeps the pod from every node it was tried on.
    fn post_filter(&self) -> Option<PostFilter> {
        let unavailable = self.unavailable.lock().clone();
        let claims = unavailable.iter().map(|at| &self.claims[*at]);
        let Some(claim) = claims.into_iter().find(|c| claims::is_free_but_for(c, &self.pod)) else {
            return Some(PostFilter::said("still not schedulable"));
        };
        let (mut claim, writer) = (ResourceClaim::clone(claim), self.writer.clone());
        claim.status = None;
        Some(PostFilter {
            message: "deallocation of ResourceClaim completed",
            act: Some(Box::pin(async move {
                let key = ObjectKey::of(&claim);
                let api = Api::<ResourceClaim>::namespaced(writer.client.clone(), &key.namespace);
                match api
                    .replace_status(&key.name, &PostParams::default(), &claim)
                    .await
                {
                    Ok(written) => writer.claims.written(written),
                    // The claim changed, or is gone: that wakes the pod.
                    Err(error) => tracing::debug!(claim = %key, %error, "claim not deallocated"),
                }
            })),
        })
    }

    fn boxed_clone(&self) -> Box<dyn Filter> {
        Box::new(self.clone())
    }
}

impl Score for State {
    /// The sooner the alternatives that were chosen stand in their requests, the better.
    fn score(&self, node: &NodeInfo) -> i64 {
        let found = self
            .search
            .as_ref()
            .and_then(|search| self.allocate(search, node).ok());
        let mut decided = found.into_iter().flatten();
        let mut score = 0;
        for claim in &self.claims {
            let written = claim.status.as_ref().and_then(|s| s.allocation.clone());
            let Some(allocation) = written.or_else(|| decided.next()) else {
                return 0;
            };
            let results = allocation.devices.and_then(|d| d.results).unwrap_or_default();
            let requests = claim
                .spec
                .devices
                .iter()
                .flat_map(|d| d.requests.iter().flatten());
            for request in requests {
                for (at, one) in request.first_available.iter().flatten().enumerate() {
                    let name = format!("{}/{}", request.name, one.name);
                    if results.iter().any(|r| r.request == name) {
                        // There are few of them.
                        score += ALTERNATIVES_MOST.saturating_sub(at) as i64;
                    }
                }
            }
        }
        score
    }

    fn normalize(&self, scores: &mut [i64]) {
        default_normalize(scores, false);
    }
}
