//! The shell around [`decide`](super::decide): follows Services and IPAddresses in the watch cache, and carries out.
//!
//! **Invariant:** an address is looked at again whenever its Services or its object change, and until what was
//! decided about it has succeeded.

use super::decide::{Action, MANAGED_BY, Owner, Standing, decide};
use super::{FIRST_WAIT, LONGEST_WAIT};
use crate::boot::Maker;
use crate::cache::{Change, Filter, WatchReceiver, WatchStart};
use crate::registry::delete::DeleteOptions;
use crate::registry::{Resource, stored_error};
use crate::server::Core;
use bytes::Bytes;
use futures::StreamExt as _;
use hashbrown::{HashMap, HashSet};
use jiff::Timestamp;
use machinery::status::{ApiError, Reason};
use machinery::{Value, meta};
use resources::core::service::addresses::held_ips;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const GROUP: &str = "networking.k8s.io";
const RESOURCE: &str = "ipaddresses";
const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
/// Addresses dealt with at once: their writes share the store's commits.
const AT_ONCE: usize = 32;

/// Until dropped. A watch that ends is begun anew, from the whole present state.
pub(super) async fn run(core: &Core) {
    let (Some(services), Some(objects)) = (
        core.routes.resource("", "services"),
        core.routes.resource(GROUP, RESOURCE),
    ) else {
        return;
    };
    let mut wait = FIRST_WAIT;
    loop {
        let mut publisher = Publisher {
            core,
            services: &services,
            objects: &objects,
            known: Known::default(),
            again: HashMap::new(),
            failures: 0,
        };
        let began = Instant::now();
        if let Err(error) = publisher.follow().await {
            tracing::warn!(error = %error.message, "watching Services and their addresses");
        }
        if began.elapsed() > LONGEST_WAIT {
            wait = FIRST_WAIT;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

struct Publisher<'a> {
    core: &'a Core,
    services: &'a Arc<Resource>,
    objects: &'a Arc<Resource>,
    known: Known,
    /// Addresses to look at again, and when.
    again: HashMap<IpAddr, Instant>,
    /// Rounds in a row in which something failed.
    failures: u32,
}

/// The present state, by address.
#[derive(Default)]
struct Known {
    held: HashMap<Bytes, Vec<IpAddr>>,
    owners: HashMap<IpAddr, Vec<Owner>>,
    standing: HashMap<IpAddr, Standing>,
    /// Given up by a Service, and no object seen removed since.
    released: HashSet<IpAddr>,
    dirty: HashSet<IpAddr>,
}

impl Publisher<'_> {
    /// Returns when a watch ends.
    async fn follow(&mut self) -> Result<(), ApiError> {
        let mut services = self.begin(self.services, Known::service).await?;
        let mut objects = self.begin(self.objects, Known::object).await?;
        loop {
            self.settle().await;
            let next = self.again.values().min().copied();
            let events = tokio::select! {
                biased;
                events = services.next() => events.map(|e| (self.services, e, Known::service as Apply)),
                events = objects.next() => events.map(|e| (self.objects, e, Known::object as Apply)),
                () = sleep_until(next) => {
                    self.due(Instant::now());
                    continue;
                }
            };
            let Some((resource, events, apply)) = events else {
                return Ok(());
            };
            for event in events {
                let value = event.entry.value(resource).map_err(stored_error)?;
                apply(
                    &mut self.known,
                    &event.entry.key,
                    &value,
                    event.change != Change::Deleted,
                );
            }
        }
    }

    async fn begin(&mut self, resource: &Arc<Resource>, apply: Apply) -> Result<WatchReceiver, ApiError> {
        let started = resource
            .watch(&self.core.registry.reflector, &Filter::all(""), WatchStart::State)
            .await?;
        for entry in started.initial {
            let value = entry.value(resource).map_err(stored_error)?;
            apply(&mut self.known, &entry.key, &value, true);
        }
        Ok(started.receiver)
    }

    fn due(&mut self, now: Instant) {
        let dirty = &mut self.known.dirty;
        self.again.retain(|ip, at| {
            let due = *at <= now;
            if due {
                dirty.insert(*ip);
            }
            !due
        });
    }

    /// Does what is to be done about every address that changed.
    async fn settle(&mut self) {
        let now = self.core.registry.clock.now();
        let dirty = std::mem::take(&mut self.known.dirty);
        let mut work = Vec::new();
        for ip in dirty {
            self.again.remove(&ip);
            match self.known.decide(ip, now) {
                Action::Nothing => {}
                Action::Wait(until) => {
                    let wait = Duration::try_from(until.duration_since(now)).unwrap_or(FIRST_WAIT);
                    self.again.insert(ip, Instant::now() + wait);
                }
                action => work.push((ip, action, self.known.standing.get(&ip).map(|s| s.uid.clone()))),
            }
        }
        if work.is_empty() {
            return;
        }
        let core = self.core;
        let done = futures::stream::iter(work.into_iter().map(|(ip, action, uid)| async move {
            let outcome = carry_out(core, ip, action, uid).await;
            (ip, outcome)
        }));
        let done: Vec<_> = done.buffer_unordered(AT_ONCE).collect().await;
        let wait = (FIRST_WAIT * 2_u32.saturating_pow(self.failures)).min(LONGEST_WAIT);
        let before = self.again.len();
        for (ip, outcome) in done {
            if let Err(error) = outcome {
                tracing::warn!(%ip, error = %error.message, "the object of a Service's address");
                self.again.insert(ip, Instant::now() + wait);
            }
        }
        self.failures = if self.again.len() > before {
            (self.failures + 1).min(6)
        } else {
            0
        };
    }
}

type Apply = fn(&mut Known, &Bytes, &Value, bool);

impl Known {
    fn decide(&mut self, ip: IpAddr, now: Timestamp) -> Action {
        let owners = self.owners.get(&ip).map_or(&[][..], Vec::as_slice);
        decide(owners, self.standing.get(&ip), self.released.contains(&ip), now)
    }

    fn service(&mut self, key: &Bytes, service: &Value, stands: bool) {
        let owner = Owner {
            namespace: meta::namespace(service).to_owned(),
            name: meta::name(service).to_owned(),
        };
        let now = if stands { held_ips(service) } else { Vec::new() };
        let before = self.held.remove(key).unwrap_or_default();
        for ip in before.iter().filter(|ip| !now.contains(ip)) {
            if let Some(owners) = self.owners.get_mut(ip) {
                owners.retain(|o| *o != owner);
                if owners.is_empty() {
                    self.owners.remove(ip);
                }
            }
            self.released.insert(*ip);
            self.dirty.insert(*ip);
        }
        for ip in now.iter().filter(|ip| !before.contains(ip)) {
            self.owners.entry(*ip).or_default().push(owner.clone());
            self.released.remove(ip);
            self.dirty.insert(*ip);
        }
        if !now.is_empty() {
            self.held.insert(key.clone(), now);
        }
    }

    fn object(&mut self, _key: &Bytes, object: &Value, stands: bool) {
        let Ok(ip) = meta::name(object).parse::<IpAddr>() else {
            return;
        };
        self.dirty.insert(ip);
        if stands {
            self.standing.insert(ip, standing(ip, object));
        } else {
            self.standing.remove(&ip);
            self.released.remove(&ip);
        }
    }
}

fn standing(ip: IpAddr, object: &Value) -> Standing {
    let label = |key| {
        meta::labels(object)
            .and_then(|l| l.get(key))
            .and_then(Value::as_str)
    };
    let parent = object.get_path(&["spec", "parentRef"]).and_then(|parent| {
        let text = |field| parent.get(field).and_then(Value::as_str).unwrap_or_default();
        (text("group").is_empty() && text("resource") == "services").then(|| Owner {
            namespace: text("namespace").to_owned(),
            name: text("name").to_owned(),
        })
    });
    Standing {
        uid: meta::uid(object).to_owned(),
        // Every stored object has one; without it, it is as old as can be.
        created: meta::creation_timestamp(object)
            .parse()
            .unwrap_or(Timestamp::UNIX_EPOCH),
        managed: label(MANAGED_BY_LABEL) == Some(MANAGED_BY) && label(FAMILY_LABEL) == Some(family(ip)),
        parent,
    }
}

async fn carry_out(core: &Core, ip: IpAddr, action: Action, uid: Option<String>) -> Result<(), ApiError> {
    match action {
        Action::Nothing | Action::Wait(_) => Ok(()),
        Action::Create(owner) => create(core, ip, &owner).await,
        Action::Remove => remove(core, ip, uid).await,
        Action::Replace(owner) => {
            remove(core, ip, uid).await?;
            create(core, ip, &owner).await
        }
    }
}

/// One that is there already is looked at when its event comes.
async fn create(core: &Core, ip: IpAddr, owner: &Owner) -> Result<(), ApiError> {
    let object = serde_json::json!({
        "metadata": {
            "name": ip.to_string(),
            "labels": {MANAGED_BY_LABEL: MANAGED_BY, FAMILY_LABEL: family(ip)},
        },
        "spec": {"parentRef": {
            "group": "", "resource": "services", "namespace": owner.namespace, "name": owner.name,
        }},
    });
    Maker::new(core)
        .make(GROUP, RESOURCE, "", &object.to_string())
        .await
}

/// Removes the very object that was judged.
async fn remove(core: &Core, ip: IpAddr, uid: Option<String>) -> Result<(), ApiError> {
    let Some(resource) = core.routes.resource(GROUP, RESOURCE) else {
        return Ok(());
    };
    let (maker, options, name) = (Maker::new(core), Value::object(), ip.to_string());
    let delete = DeleteOptions {
        uid,
        ..DeleteOptions::default()
    };
    match core
        .registry
        .delete(&maker.write(&resource, "", &name, &options), &delete)
        .await
    {
        // Gone, or another one: its event tells.
        Err(error) if !matches!(error.reason, Reason::NotFound | Reason::Conflict) => Err(error),
        _ => Ok(()),
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
