//! The garbage collector: what nobody owns any more goes; what is to go with its owner goes first; what is to be
//! left behind is let go.
//!
//! The graph ([`graph`]) says whom to look at; what is done is decided on the object as the server has it now, and
//! carried out only if it has not changed since (preconditions on uid and resource version).

mod decide;
mod graph;
mod monitors;

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::informer::metadata::{PartialObject, delete, discover, get_metadata, patch};
use client::{ObjectKey, Outcome, Queue, Resource};
use decide::{OwnerState, Verdict, judge};
use futures::future::BoxFuture;
use graph::{FOREGROUND, Graph, Leaving, Node, ORPHAN, Uid};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use monitors::{Look, Monitors};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 20;
/// A resource whose watch does not come up holds up the others no longer than this.
const SYNC_WITHIN: Duration = Duration::from_secs(30);

struct Shell {
    context: Context,
    graph: Arc<Mutex<Graph>>,
    monitors: Monitors,
    queue: Queue<Look>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let queue = context.queue::<Look>("garbage_collector_attempt_to_delete");
    let graph = Arc::new(Mutex::new(Graph::default()));
    let shell = Arc::new(Shell {
        monitors: Monitors::new(
            context.options.informers.clone(),
            Arc::clone(&graph),
            queue.clone(),
        ),
        graph,
        queue: queue.clone(),
        context: context.clone(),
    });
    queue.add(Look::Around);
    let worker = Arc::clone(&shell);
    context
        .work(&queue, WORKERS, async {}, move |look| {
            let shell = Arc::clone(&worker);
            async move {
                match look {
                    Look::Around => shell.look_around().await,
                    Look::At(uid) => shell.look_at(&uid).await,
                }
            }
        })
        .await;
}

/// An error of the typed client as the collector's others are.
fn flat(error: client::Error) -> kube::Error {
    kube::Error::Service(Box::new(error))
}

impl Shell {
    async fn look_around(&self) -> Result<Outcome, kube::Error> {
        let found = discover(&self.context.client).await.map_err(flat)?;
        self.monitors.follow(&found);
        Ok(if found.stale.is_empty() {
            Outcome::Done
        } else {
            Outcome::After(Duration::from_secs(30))
        })
    }

    async fn look_at(&self, uid: &Uid) -> Result<Outcome, kube::Error> {
        if tokio::time::timeout(SYNC_WITHIN, self.monitors.synced())
            .await
            .is_err()
        {
            tracing::warn!("garbage collection goes on although some resources cannot be watched");
        }
        let Some(node) = self.graph.lock().node(uid).cloned() else {
            return Ok(Outcome::Done);
        };
        match node.leaving {
            Leaving::Orphaning => self.orphan_dependents(uid, &node).await,
            Leaving::Foreground => self.await_dependents(uid, &node).await,
            Leaving::Background => Ok(Outcome::Done),
            Leaving::No => self.collect(uid, &node).await,
        }
    }

    /// Looks whether the object's owners still want it.
    async fn collect(&self, uid: &Uid, node: &Node) -> Result<Outcome, kube::Error> {
        if node.owners.is_empty() || self.all_owners_stand(node) {
            return Ok(Outcome::Done);
        }
        let Some(live) = self.live(&node.resource, &node.key, uid).await? else {
            return Ok(Outcome::Done);
        };
        let references = live.metadata.owner_references.clone().unwrap_or_default();
        let mut owners = Vec::with_capacity(references.len());
        for reference in &references {
            match self.owner_state(reference, &node.key).await? {
                Some(state) => owners.push((reference, state)),
                None => {
                    // A kind nobody serves: it may come yet.
                    self.queue.add_after(Look::Around, Duration::from_secs(1));
                    return Ok(Outcome::Retry);
                }
            }
        }
        let has_dependents = self.graph.lock().has_dependents(uid);
        let finalizers = live.metadata.finalizers.clone().unwrap_or_default();
        match judge(&owners, has_dependents, &finalizers) {
            Verdict::Keep => Ok(Outcome::Done),
            Verdict::Disown(gone) => {
                self.disown(&node.resource, &live.metadata, &gone).await?;
                Ok(Outcome::Done)
            }
            Verdict::Delete { propagation } => {
                if propagation == "Foreground" {
                    self.break_circle(uid).await?;
                }
                let options = json!({
                    "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation,
                    "preconditions": {"uid": &**uid, "resourceVersion": live.metadata.resource_version},
                });
                tracing::debug!(object = %node.key, kind = %node.resource.kind, propagation, "collecting");
                let deleted = delete(
                    &self.context.client,
                    &node.resource,
                    namespace(&node.key),
                    &node.key.name,
                    &options,
                );
                match deleted.await {
                    Err(error) if !error.is_not_found() => Err(error),
                    _ => Ok(Outcome::Done),
                }
            }
        }
    }

    /// Whether the graph alone says that nothing is to be done.
    fn all_owners_stand(&self, node: &Node) -> bool {
        let graph = self.graph.lock();
        node.owners.iter().all(|owner| {
            let known = graph.node(&owner.uid);
            known.is_some_and(|o| {
                o.leaving != Leaving::Foreground
                    && (o.key.namespace.is_empty() || o.key.namespace == node.key.namespace)
            })
        })
    }

    /// `None` when the owner's kind is not served.
    async fn owner_state(
        &self,
        owner: &OwnerReference,
        of: &ObjectKey,
    ) -> Result<Option<OwnerState>, kube::Error> {
        let Some(resource) = self.monitors.resource(&owner.api_version, &owner.kind) else {
            return Ok(None);
        };
        if resource.namespaced && of.namespace.is_empty() {
            // A cluster-scoped object cannot be owned by a namespaced one; it is not for us to delete it.
            return Ok(Some(OwnerState::Solid));
        }
        let key = ObjectKey::new(if resource.namespaced { &of.namespace } else { "" }, &owner.name);
        {
            let graph = self.graph.lock();
            if let Some(known) = graph.node(&owner.uid).filter(|n| n.key == key) {
                return Ok(Some(match known.leaving {
                    Leaving::Foreground => OwnerState::Waiting,
                    _ => OwnerState::Solid,
                }));
            }
        }
        let live = self.live(&resource, &key, &owner.uid).await?;
        Ok(Some(match live {
            None => OwnerState::Dangling,
            Some(live) if Leaving::of(&live.metadata) == Leaving::Foreground => OwnerState::Waiting,
            Some(_) => OwnerState::Solid,
        }))
    }

    async fn live(
        &self,
        resource: &Resource,
        key: &ObjectKey,
        uid: &str,
    ) -> Result<Option<PartialObject>, kube::Error> {
        let found = get_metadata(&self.context.client, resource, namespace(key), &key.name).await;
        let found = found.map_err(flat)?;
        Ok(found.filter(|o| o.metadata.uid.as_deref() == Some(uid)))
    }

    /// A foreground deletion goes on when no dependent that blocks it is left.
    async fn await_dependents(&self, uid: &Uid, node: &Node) -> Result<Outcome, kube::Error> {
        let dependents = self.graph.lock().dependents(uid);
        let blocks = |n: &Node| n.owners.iter().any(|o| o.uid == *uid && o.blocks);
        let blocking: Vec<&(Uid, Node)> = dependents.iter().filter(|(_, n)| blocks(n)).collect();
        if blocking.is_empty() {
            self.drop_finalizer(uid, node, FOREGROUND).await?;
            return Ok(Outcome::Done);
        }
        for (dependent, node) in blocking {
            if node.leaving == Leaving::No {
                self.queue.add(Look::At(Arc::clone(dependent)));
            }
        }
        Ok(Outcome::Done)
    }

    /// Dependents lose their reference to the owner; then the owner may go.
    async fn orphan_dependents(&self, uid: &Uid, node: &Node) -> Result<Outcome, kube::Error> {
        let dependents = self.graph.lock().dependents(uid);
        for (dependent, of) in dependents {
            if let Some(live) = self.live(&of.resource, &of.key, &dependent).await? {
                self.disown(&of.resource, &live.metadata, &[uid.to_string()])
                    .await?;
            }
        }
        self.drop_finalizer(uid, node, ORPHAN).await?;
        Ok(Outcome::Done)
    }

    /// Two objects that own each other would wait for each other for ever: the object's own references no longer
    /// block when one of its dependents is itself waiting.
    async fn break_circle(&self, uid: &Uid) -> Result<(), kube::Error> {
        let (node, circular) = {
            let graph = self.graph.lock();
            let waiting = graph
                .dependents(uid)
                .iter()
                .any(|(_, n)| n.leaving == Leaving::Foreground);
            (graph.node(uid).cloned(), waiting)
        };
        let Some(node) = node.filter(|_| circular) else {
            return Ok(());
        };
        let Some(live) = self.live(&node.resource, &node.key, uid).await? else {
            return Ok(());
        };
        let mut owners = live.metadata.owner_references.clone().unwrap_or_default();
        owners
            .iter_mut()
            .for_each(|o| o.block_owner_deletion = Some(false));
        self.patch_meta(
            &node.resource,
            &live.metadata,
            json!({ "ownerReferences": owners }),
        )
        .await
    }

    async fn disown(
        &self,
        resource: &Resource,
        meta: &ObjectMeta,
        gone: &[String],
    ) -> Result<(), kube::Error> {
        let owners: Vec<&OwnerReference> = meta.owner_references.iter().flatten().collect();
        let left: Vec<&&OwnerReference> = owners.iter().filter(|o| !gone.contains(&o.uid)).collect();
        if left.len() == owners.len() {
            return Ok(());
        }
        self.patch_meta(resource, meta, json!({ "ownerReferences": left }))
            .await
    }

    async fn drop_finalizer(&self, uid: &Uid, node: &Node, finalizer: &str) -> Result<(), kube::Error> {
        let Some(live) = self.live(&node.resource, &node.key, uid).await? else {
            return Ok(());
        };
        let all: Vec<&String> = live.metadata.finalizers.iter().flatten().collect();
        let left: Vec<&&String> = all.iter().filter(|f| **f != finalizer).collect();
        if left.len() == all.len() {
            return Ok(());
        }
        self.patch_meta(&node.resource, &live.metadata, json!({ "finalizers": left }))
            .await
    }

    /// Changes metadata if nobody else has meanwhile.
    async fn patch_meta(
        &self,
        resource: &Resource,
        meta: &ObjectMeta,
        mut change: Value,
    ) -> Result<(), kube::Error> {
        change["uid"] = json!(meta.uid);
        change["resourceVersion"] = json!(meta.resource_version);
        let body = json!({ "metadata": change });
        let name = meta.name.as_deref().unwrap_or("");
        match patch(
            &self.context.client,
            resource,
            meta.namespace.as_deref(),
            name,
            &body,
        )
        .await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn namespace(key: &ObjectKey) -> Option<&str> {
    Some(key.namespace.as_str()).filter(|n| !n.is_empty())
}
