//! The EndpointSlice controller: writes down the pods behind a Service, a hundred to a slice.

mod decide;
mod topology;

use crate::context::Context;
use crate::pods::message_of;
use crate::service_pods::{enqueue_services, has_selector, selected};
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::informer::{Index, by_namespace};
use client::{Event, Informer, ObjectKey, Outcome};
use compact_str::{CompactString, format_compact};
use decide::{MANAGED_BY, MANAGER, Notice, SERVICE_LABEL};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, PostParams};
use std::sync::Arc;
use topology::ZONE;

const WORKERS: usize = 5;

struct Shell {
    context: Context,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    slices_by_service: Index<EndpointSlice>,
    pods: Informer<Pod>,
    pods_by_namespace: Index<Pod>,
    nodes: Informer<Node>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY).is_some_and(|m| m == MANAGER);
    let name = labels.get(SERVICE_LABEL).filter(|_| ours)?;
    Some(ObjectKey::new(
        slice.metadata.namespace.as_deref().unwrap_or(""),
        name,
    ))
}

fn by_service(slice: &EndpointSlice, values: &mut Vec<CompactString>) {
    values.extend(service_of(slice).map(|key| format_compact!("{key}")));
}

async fn run(context: Context) {
    let services = context.informer::<Service>();
    let slices = context.informer::<EndpointSlice>();
    let pods = context.informer::<Pod>();
    let nodes = context.informer::<Node>();
    let queue = context.queue::<ObjectKey>("endpoint_slice");
    let adds = queue.clone();
    services.subscribe(move |event| adds.add(ObjectKey::of(&**event.object())));
    let of_namespace = services.index("namespace", by_namespace);
    let adds = queue.clone();
    pods.subscribe(move |event| enqueue_services(event, &of_namespace, &adds));
    let adds = queue.clone();
    slices.subscribe(move |event| {
        if let Event::Updated { old, .. } = event {
            service_of(old).into_iter().for_each(|key| adds.add(key));
        }
        service_of(event.object())
            .into_iter()
            .for_each(|key| adds.add(key));
    });
    let (adds, all) = (queue.clone(), services.clone());
    nodes.subscribe(move |event| {
        let zone = |node: &Node| node.metadata.labels.as_ref().and_then(|l| l.get(ZONE)).cloned();
        let moved = matches!(event, Event::Updated { old, new } if zone(old) != zone(new));
        let weighs = |node: &Node| (zone(node).is_some(), topology::weight(node));
        let counts = match event {
            Event::Updated { old, new } => weighs(old) != weighs(new),
            Event::Added(_) | Event::Deleted(_) => true,
        };
        let concerned = |s: &Service| moved || counts && topology::is_wanted(s);
        let services = all.list();
        let concerned = services.iter().filter(|s| concerned(s));
        concerned.for_each(|s| adds.add(ObjectKey::of(&**s)));
    });
    let shell = Arc::new(Shell {
        slices_by_service: slices.index("service", by_service),
        pods_by_namespace: pods.index("namespace", by_namespace),
        services,
        slices,
        pods,
        nodes,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.services.synced().await;
        ready.slices.synced().await;
        ready.pods.synced().await;
        ready.nodes.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        // The slices of a Service that is gone go with it, by ownership.
        let Some(service) = self.services.get(key) else {
            return Ok(Outcome::Done);
        };
        if !has_selector(&service) {
            return Ok(Outcome::Done);
        }
        let pods = selected(&service, &self.pods_by_namespace);
        let mut slices = self.slices_by_service.get(&format_compact!("{key}"));
        slices.retain(|s| s.metadata.deletion_timestamp.is_none());
        slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let zone_of = |name: &str| {
            let node = self.nodes.find("", name)?;
            Some(node.metadata.labels.as_ref().and_then(|l| l.get(ZONE)).cloned())
        };
        let shares = topology::is_wanted(&service).then(|| topology::shares(&self.nodes.list()));
        let plan = decide::plan(&service, &pods, &slices, &zone_of, shares.as_ref());
        for notice in &plan.hints {
            let about = reference(&*service);
            let recorder = &self.context.recorder;
            match notice {
                Notice::Enabled(message) => {
                    recorder.normal(&about, "TopologyAwareHintsEnabled", message.clone());
                }
                Notice::Disabled(message) => {
                    recorder.warning(&about, "TopologyAwareHintsDisabled", message.clone());
                }
            }
        }
        let retry = !plan.nodeless.is_empty();
        if let Err(error) = self.carry_out(key, &service, plan).await {
            if error.is_namespace_terminating() {
                return Ok(Outcome::Done);
            }
            if !error.is_conflict() {
                let message = format!(
                    "Error updating Endpoint Slices for Service {key}: {}",
                    message_of(&error)
                );
                let about = reference(&*service);
                self.context
                    .recorder
                    .warning(&about, "FailedToUpdateEndpointSlices", message);
            }
            return Err(error);
        }
        Ok(if retry { Outcome::Retry } else { Outcome::Done })
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        service: &Service,
        plan: decide::Plan,
    ) -> Result<(), kube::Error> {
        let api = Api::<EndpointSlice>::namespaced(self.context.client.clone(), &key.namespace);
        if service.metadata.deletion_timestamp.is_none() {
            for slice in plan.create {
                self.slices
                    .written(api.create(&PostParams::default(), &slice).await?);
            }
        }
        for slice in plan.update {
            let name = slice.metadata.name.clone().unwrap_or_default();
            self.slices
                .written(api.replace(&name, &PostParams::default(), &slice).await?);
        }
        for slice in plan.delete {
            let key = ObjectKey::of(&*slice);
            match api.delete(&key.name, &DeleteParams::default()).await {
                Ok(_) => {
                    let uid = slice.metadata.uid.clone().unwrap_or_default();
                    self.slices.deleting(&key, &uid, self.context.now());
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
