//! The namespace controller: empties a namespace that is being deleted, then lets it go.
//!
//! All resources that discovery finds are emptied: pods first, and nothing else until they are gone (upstream's
//! ordered namespace deletion). The finalizer `kubernetes` is removed when nothing is left.
//! Upstream looks again after half the pods' grace period; so does this, and also at once when the last pod goes.

mod conditions;

use crate::context::Context;
use crate::pods::message_of;
use client::error::ApiErrorExt as _;
use client::informer::metadata::{Discovered, Served, delete, delete_collection, discover, list_metadata};
use client::informer::{Index, by_namespace};
use client::{Event, Informer, ObjectKey, Outcome};
use conditions::Findings;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus, Pod};
use kube::api::{Api, PostParams};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const FINALIZER: &str = "kubernetes";
const WORKERS: usize = 10;
/// So long upstream expects finalizers of objects to take.
const FINALIZERS_TAKE: i64 = 15;

struct Shell {
    context: Context,
    namespaces: Informer<Namespace>,
    pods: Informer<Pod>,
    pods_by_namespace: Index<Pod>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let namespaces = context.informer::<Namespace>();
    let pods = context.informer::<Pod>();
    let queue = context.queue::<ObjectKey>("namespace");
    let adds = queue.clone();
    namespaces.subscribe(move |event| {
        if !matches!(event, Event::Deleted(_)) && event.object().metadata.deletion_timestamp.is_some() {
            adds.add(ObjectKey::of(&**event.object()));
        }
    });
    let pods_by_namespace = pods.index("namespace", by_namespace);
    let (adds, all, left) = (queue.clone(), namespaces.clone(), pods_by_namespace.clone());
    pods.subscribe(move |event| {
        if let Event::Deleted(pod) = event {
            let name = pod.metadata.namespace.as_deref().unwrap_or("");
            let going = all
                .find("", name)
                .is_some_and(|n| n.metadata.deletion_timestamp.is_some());
            if going && left.count(name) == 0 {
                adds.add(ObjectKey::cluster(name));
            }
        }
    });
    let shell = Arc::new(Shell {
        namespaces,
        pods_by_namespace,
        pods,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.namespaces.synced().await;
        ready.pods.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

impl Shell {
    fn api(&self) -> Api<Namespace> {
        Api::all(self.context.client.clone())
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let known = self.namespaces.get(key);
        let Some(known) = known.filter(|n| n.metadata.deletion_timestamp.is_some()) else {
            return Ok(Outcome::Done);
        };
        let mut namespace = (*known).clone();
        let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
        if phase != Some("Terminating") {
            namespace.status.get_or_insert_default().phase = Some("Terminating".to_owned());
            namespace = match self
                .api()
                .replace_status(&key.name, &PostParams::default(), &namespace)
                .await
            {
                Ok(written) => written,
                Err(error) if error.is_not_found() => return Ok(Outcome::Done),
                Err(error) => return Err(error),
            };
        }
        let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref());
        if finalizers.is_none_or(|f| f.is_empty()) {
            return Ok(Outcome::Done);
        }
        let (findings, estimate) = self.empty(&namespace).await;
        let old = namespace
            .status
            .as_ref()
            .and_then(|s| s.conditions.clone())
            .unwrap_or_default();
        if let Some(conditions) = findings.conditions(&old, self.context.now()) {
            namespace.status = Some(NamespaceStatus {
                phase: Some("Terminating".to_owned()),
                conditions: Some(conditions),
            });
            // Only a report; the deletion does not depend on it.
            match self
                .api()
                .replace_status(&key.name, &PostParams::default(), &namespace)
                .await
            {
                Ok(written) => namespace = written,
                Err(error) if error.is_not_found() => return Ok(Outcome::Done),
                Err(error) => tracing::debug!(namespace = %key, %error, "conditions not written"),
            }
        }
        let failed = !findings.content_failures.is_empty() || !findings.discovery_failures.is_empty();
        match (estimate, findings.remaining.is_empty()) {
            (Some(seconds), _) if seconds > 0 => {
                let wait = u64::try_from(seconds / 2 + 1).unwrap_or(1);
                Ok(Outcome::After(Duration::from_secs(wait)))
            }
            (_, false) => Ok(Outcome::Retry),
            _ if failed => Ok(Outcome::Retry),
            _ => self.finalize(namespace).await,
        }
    }

    /// Deletes what is in the namespace; what is left, and how many seconds that may take.
    async fn empty(&self, namespace: &Namespace) -> (Findings, Option<i64>) {
        let mut findings = Findings::default();
        let mut estimate = None;
        let name = namespace.metadata.name.as_deref().unwrap_or("");
        let found = match discover(&self.context.client).await {
            Ok(found) => found,
            Err(error) => {
                findings.discovery_failures.push(error.to_string());
                Discovered::default()
            }
        };
        findings.discovery_failures.extend(found.stale);
        let relevant = |s: &&Served| s.preferred && s.resource.namespaced && s.can("delete");
        let all: Vec<&Served> = found.resources.iter().filter(relevant).collect();
        let (pods, others): (Vec<&Served>, Vec<&Served>) = all
            .into_iter()
            .partition(|s| s.resource.group.is_empty() && s.resource.plural == "pods");
        for served in pods {
            self.empty_of(served, name, &mut findings, &mut estimate).await;
            if !findings.remaining.is_empty() {
                let grace = self.grace_of_pods(namespace);
                estimate = estimate.max(Some(grace));
                return (findings, estimate);
            }
        }
        for served in others {
            self.empty_of(served, name, &mut findings, &mut estimate).await;
        }
        (findings, estimate)
    }

    async fn empty_of(
        &self,
        served: &Served,
        namespace: &str,
        findings: &mut Findings,
        estimate: &mut Option<i64>,
    ) {
        let resource = &served.resource;
        let client = &self.context.client;
        // Most namespaces hold few kinds: looking is cheaper than deleting nothing.
        let listed = async {
            let list = list_metadata(client, resource, Some(namespace)).await;
            list.map_err(|e| e.to_string())
        };
        let before = match listed.await {
            Ok(list) => list,
            Err(error) => return findings.content_failures.push(error),
        };
        if before.items.is_empty() {
            return;
        }
        let deleted = if served.can("deletecollection") {
            delete_collection(client, resource, Some(namespace)).await
        } else {
            let options =
                json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
            let mut outcome = Ok(());
            for item in &before.items {
                let name = item.metadata.name.as_deref().unwrap_or("");
                match delete(client, resource, Some(namespace), name, &options).await {
                    Err(error) if !error.is_not_found() => outcome = Err(error),
                    _ => {}
                }
            }
            outcome
        };
        match deleted {
            Err(error) if !error.is_not_found() => findings.content_failures.push(message_of(&error)),
            _ => {}
        }
        let after = match list_metadata(client, resource, Some(namespace)).await {
            Ok(list) => list,
            Err(error) => return findings.content_failures.push(error.to_string()),
        };
        if after.items.is_empty() {
            return;
        }
        findings.remaining.insert(
            format!("{}.{}", resource.plural, resource.group),
            after.items.len(),
        );
        for finalizer in after
            .items
            .iter()
            .flat_map(|i| i.metadata.finalizers.iter().flatten())
        {
            *findings.finalizers.entry(finalizer.clone()).or_default() += 1;
            *estimate = (*estimate).max(Some(FINALIZERS_TAKE));
        }
    }

    /// How long the longest grace period of the namespace's pods may still last.
    fn grace_of_pods(&self, namespace: &Namespace) -> i64 {
        let name = namespace.metadata.name.as_deref().unwrap_or("");
        let pods = self.pods_by_namespace.get(name);
        let running = pods.iter().filter(|p| !crate::pods::is_finished(p));
        let grace = running
            .filter_map(|p| p.spec.as_ref()?.termination_grace_period_seconds)
            .max()
            .unwrap_or(0);
        let since = namespace.metadata.deletion_timestamp.as_ref().map(|t| t.0);
        let gone = since.map_or(0, |t| self.context.now().duration_since(t).as_secs());
        if gone >= grace { 0 } else { grace }
    }

    async fn finalize(&self, mut namespace: Namespace) -> Result<Outcome, kube::Error> {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != FINALIZER);
        }
        let written = self
            .api()
            .replace_subresource("finalize", &name, &PostParams::default(), &namespace)
            .await;
        match written {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}
