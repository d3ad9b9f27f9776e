//! The resource quota controller: counts what is used of each ResourceQuota and writes it into its status.
//!
//! What an object uses is said by `resources::quota`, which admission asks too. Admission raises the counts before objects
//! come; what goes, and whatever else is not as it says, is found here. Only resources that some quota speaks of are watched.
//!
//! **Invariant:** what was charged a moment ago ([`SETTLE`]) is not taken back: the object it was charged for is on its way
//! into the store, and counting cannot see it yet.

mod decide;
mod monitors;

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::informer::metadata::discover;
use client::informer::{Index, by_namespace};
use client::{Event, Informer, ObjectKey, Outcome, Queue};
use decide::{Used, Wanted};
use futures::future::BoxFuture;
use hashbrown::HashMap;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::{Api, PostParams};
use machinery::Value;
use machinery::typed::to_value;
use monitors::Monitors;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const WORKERS: usize = 5;
/// Several objects that go together are counted once.
const GATHER: Duration = Duration::from_millis(50);
/// How long an object may take from being charged to being counted.
const SETTLE: Duration = Duration::from_secs(1);
/// Pods that are overdue stop counting without an event.
const OVERDUE: Duration = Duration::from_secs(30);

struct Shell {
    context: Context,
    quotas: Informer<ResourceQuota>,
    objects: Objects,
    monitors: Monitors,
    writes: Arc<Mutex<HashMap<ObjectKey, Writes>>>,
}

/// Who wrote a quota's use.
#[derive(Default)]
struct Writes {
    /// The version we wrote last.
    own: Option<String>,
    /// When somebody else charged it last.
    charged: Option<Instant>,
}

/// The kinds that use more than their number.
struct Objects {
    pods: Kind<Pod>,
    services: Kind<Service>,
    claims: Kind<PersistentVolumeClaim>,
    devices: Kind<ResourceClaim>,
}

struct Kind<K> {
    informer: Informer<K>,
    by_namespace: Index<K>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let quotas = context.informer::<ResourceQuota>();
    let queue = context.queue::<ObjectKey>("resourcequota_primary");
    let adds = queue.clone();
    let writes: Arc<Mutex<HashMap<ObjectKey, Writes>>> = Arc::default();
    let noted = Arc::clone(&writes);
    quotas.subscribe(move |event| {
        let key = ObjectKey::of(&**event.object());
        match event {
            Event::Added(_) => adds.add(key),
            Event::Deleted(_) => {
                noted.lock().remove(&key);
            }
            Event::Updated { old, new } => match decide::change(old, new) {
                decide::Change::Limits => adds.add(key),
                decide::Change::Charge => {
                    let mut noted = noted.lock();
                    let writes = noted.entry(key.clone()).or_default();
                    if writes.own != new.metadata.resource_version {
                        writes.charged = Some(Instant::now());
                        // What was charged and then not stored is given back.
                        adds.add_after(key, SETTLE);
                    }
                }
                decide::Change::Nothing => {}
            },
        }
    });
    let shell = Arc::new(Shell {
        objects: Objects {
            pods: kind(&context, &quotas, &queue, "", "pods"),
            services: kind(&context, &quotas, &queue, "", "services"),
            claims: kind(&context, &quotas, &queue, "", "persistentvolumeclaims"),
            devices: kind(&context, &quotas, &queue, "resource.k8s.io", "resourceclaims"),
        },
        monitors: Monitors::new(
            context.options.informers.clone(),
            quotas.index("namespace", by_namespace),
            queue.clone(),
        ),
        quotas,
        writes,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.quotas.synced().await;
        ready.objects.pods.informer.synced().await;
        ready.objects.services.informer.synced().await;
        ready.objects.claims.informer.synced().await;
        ready.objects.devices.informer.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

/// An informer whose objects, where they come to use less, have the quotas of their namespace counted again.
fn kind<K: client::informer::Object + serde::Serialize>(
    context: &Context,
    quotas: &Informer<ResourceQuota>,
    queue: &Queue<ObjectKey>,
    group: &'static str,
    resource: &'static str,
) -> Kind<K> {
    let informer = context.informer::<K>();
    let of_namespace = quotas.index("namespace", by_namespace);
    let (queue, clock) = (queue.clone(), Arc::clone(&context.options.clock));
    informer.subscribe(move |event| {
        let namespace = event.object().meta().namespace.clone().unwrap_or_default();
        let quotas = of_namespace.get(&namespace);
        if quotas.is_empty() {
            return;
        }
        let changed = match event {
            // What comes admission has counted, if it is on; then counting again changes nothing.
            Event::Added(_) | Event::Deleted(_) => true,
            Event::Updated { old, new } => match (to_value(&**old), to_value(&**new)) {
                (Ok(old), Ok(new)) => decide::changes(group, resource, &old, &new, clock.now()),
                _ => false,
            },
        };
        if changed {
            let concerned = quotas.iter().filter(|q| decide::speaks_of(q, group, resource));
            concerned.for_each(|q| queue.add_after(ObjectKey::of(&**q), GATHER));
        }
    });
    Kind {
        by_namespace: informer.index("namespace", by_namespace),
        informer,
    }
}

impl<K: client::informer::Object + serde::Serialize> Kind<K> {
    /// What is no object of its kind is not in the store, so that nothing is left out.
    fn values(&self, namespace: &str) -> Vec<Value> {
        let objects = self.by_namespace.get(namespace);
        objects.iter().filter_map(|o| to_value(&**o).ok()).collect()
    }
}

impl Objects {
    fn values(&self, group: &str, resource: &str, namespace: &str) -> Option<Vec<Value>> {
        Some(match (group, resource) {
            ("", "pods") => self.pods.values(namespace),
            ("", "services") => self.services.values(namespace),
            ("", "persistentvolumeclaims") => self.claims.values(namespace),
            ("resource.k8s.io", "resourceclaims") => self.devices.values(namespace),
            _ => return None,
        })
    }
}

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(quota) = self.quotas.get(key) else {
            return Ok(Outcome::Done);
        };
        let Ok(value) = to_value(&*quota) else {
            return Ok(Outcome::Done);
        };
        let wanted = decide::wanted(&value);
        let mut used = Used::default();
        for Wanted { group, resource } in &wanted {
            match self.objects.values(group, resource, &key.namespace) {
                Some(objects) => used.charge(group, resource, &value, &objects, self.context.now()),
                None => {
                    if let Some(number) = self.number(group, resource, &key.namespace).await? {
                        used.count(group, resource, &value, number);
                    }
                }
            }
        }
        let pending = wanted.iter().any(|w| w.resource == "pods")
            && self
                .objects
                .pods
                .by_namespace
                .get(&key.namespace)
                .iter()
                .any(|p| p.metadata.deletion_timestamp.is_some());
        if let Some(status) = decide::status(&quota, &value, used) {
            let charged = self.writes.lock().get(key).and_then(|w| w.charged);
            let left = charged.map_or(Duration::ZERO, |at| SETTLE.saturating_sub(at.elapsed()));
            if !left.is_zero() && decide::lowers(&value, &status) {
                return Ok(Outcome::After(left));
            }
            let mut written = (*quota).clone();
            written.status = Some(status);
            let api = Api::<ResourceQuota>::namespaced(self.context.client.clone(), &key.namespace);
            // With the resource version: what admission counted meanwhile must not be undone.
            match api
                .replace_status(&key.name, &PostParams::default(), &written)
                .await
            {
                Ok(written) => {
                    let version = written.metadata.resource_version.clone();
                    self.writes.lock().entry(key.clone()).or_default().own = version;
                    self.quotas.written(written);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(if pending {
            Outcome::After(OVERDUE)
        } else {
            Outcome::Done
        })
    }

    /// How many objects of a resource a namespace has; `None` if nobody serves it.
    async fn number(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
    ) -> Result<Option<usize>, kube::Error> {
        if let Some(number) = self.monitors.count(group, resource, namespace).await {
            return Ok(Some(number));
        }
        let found = discover(&self.context.client)
            .await
            .map_err(|error| kube::Error::Service(Box::new(error)))?;
        let served = found.resources.into_iter().find(|s| {
            let watched = ["list", "watch"].iter().all(|v| s.can(v));
            s.preferred && watched && s.resource.group == group && s.resource.plural == resource
        });
        let Some(served) = served else {
            return Ok(None);
        };
        self.monitors.start(served.resource);
        Ok(self.monitors.count(group, resource, namespace).await)
    }
}
