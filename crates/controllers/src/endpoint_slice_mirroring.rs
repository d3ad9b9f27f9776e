//! The EndpointSlice mirroring controller: what somebody writes by hand as the Endpoints of a Service without a
//! selector is also written as EndpointSlices, for readers who know only those.
//!
//! One slice for each subset and address family, at most a thousand addresses each, as upstream.

use crate::context::Context;
use crate::owner::controller_ref;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::informer::Index;
use client::{Event, Informer, ObjectKey, Outcome};
use compact_str::{CompactString, format_compact};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, PostParams};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations about the Endpoints alone.
const PRIVATE: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];
const MAX_PER_SUBSET: usize = 1000;
const WORKERS: usize = 5;

struct Shell {
    context: Context,
    endpoints: Informer<Endpoints>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    slices_by_service: Index<EndpointSlice>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

fn mirrored(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY).is_some_and(|m| m == MANAGER);
    let name = labels.get(SERVICE_LABEL).filter(|_| ours)?;
    Some(ObjectKey::new(
        slice.metadata.namespace.as_deref().unwrap_or(""),
        name,
    ))
}

fn by_mirrored(slice: &EndpointSlice, values: &mut Vec<CompactString>) {
    values.extend(mirrored(slice).map(|key| format_compact!("{key}")));
}

async fn run(context: Context) {
    let endpoints = context.informer::<Endpoints>();
    let services = context.informer::<Service>();
    let slices = context.informer::<EndpointSlice>();
    let queue = context.queue::<ObjectKey>("endpoint_slice_mirroring");
    let adds = queue.clone();
    endpoints.subscribe(move |event| adds.add(ObjectKey::of(&**event.object())));
    let adds = queue.clone();
    services.subscribe(move |event| adds.add(ObjectKey::of(&**event.object())));
    let adds = queue.clone();
    slices.subscribe(move |event| {
        if let Event::Updated { old, .. } = event {
            mirrored(old).into_iter().for_each(|key| adds.add(key));
        }
        mirrored(event.object()).into_iter().for_each(|key| adds.add(key));
    });
    let shell = Arc::new(Shell {
        slices_by_service: slices.index("mirrored", by_mirrored),
        endpoints,
        services,
        slices,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.endpoints.synced().await;
        ready.services.synced().await;
        ready.slices.synced().await;
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
        let mut existing = self.slices_by_service.get(&format_compact!("{key}"));
        existing.retain(|s| s.metadata.deletion_timestamp.is_none());
        existing.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let service = self.services.get(key);
        let by_hand = service.is_some_and(|s| s.spec.as_ref().is_some_and(|s| s.selector.is_none()));
        let endpoints = self.endpoints.get(key).filter(|e| by_hand && is_meant(e));
        let plan = match &endpoints {
            Some(endpoints) => plan(endpoints, existing),
            None => Plan {
                delete: existing,
                ..Plan::default()
            },
        };
        if let Some(endpoints) = &endpoints {
            self.report(endpoints, &plan);
        }
        match self.carry_out(&key.namespace, plan).await {
            Err(error) if error.is_namespace_terminating() => Ok(Outcome::Done),
            other => other.map(|()| Outcome::Done),
        }
    }

    fn report(&self, endpoints: &Endpoints, plan: &Plan) {
        let about = reference(endpoints);
        if plan.invalid > 0 {
            let message = format!(
                "Skipped {} invalid IP addresses when mirroring to EndpointSlices",
                plan.invalid
            );
            self.context.recorder.warning(&about, "InvalidIPAddress", message);
        }
        if plan.skipped > plan.invalid {
            let message = format!(
                "A max of {MAX_PER_SUBSET} addresses can be mirrored to EndpointSlices per Endpoints subset. {} \
                 addresses were skipped",
                plan.skipped
            );
            self.context
                .recorder
                .warning(&about, "TooManyAddressesToMirror", message);
        }
    }

    async fn carry_out(&self, namespace: &str, plan: Plan) -> Result<(), kube::Error> {
        let api = Api::<EndpointSlice>::namespaced(self.context.client.clone(), namespace);
        for slice in plan.create {
            let written = api.create(&PostParams::default(), &slice).await?;
            self.slices.written(written);
        }
        for slice in plan.update {
            let name = slice.metadata.name.clone().unwrap_or_default();
            let written = api.replace(&name, &PostParams::default(), &slice).await?;
            self.slices.written(written);
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

fn is_meant(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skips = meta
        .labels
        .as_ref()
        .is_some_and(|l| l.get(SKIP).is_some_and(|v| v == "true"));
    let elects = meta.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER));
    !skips && !elects && meta.deletion_timestamp.is_none()
}

#[derive(Debug, Default)]
struct Plan {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
    invalid: usize,
    skipped: usize,
}

/// What slices there should be, in the order of the subsets.
struct Wanted {
    ports: Vec<EndpointPort>,
    family: &'static str,
    endpoints: Vec<Endpoint>,
}

fn plan(endpoints: &Endpoints, mut existing: Vec<Arc<EndpointSlice>>) -> Plan {
    let mut plan = Plan::default();
    let wanted = wanted(endpoints, &mut plan);
    let mut missing = Vec::new();
    for wanted in wanted {
        let is_its = |s: &Arc<EndpointSlice>| {
            s.address_type == wanted.family && s.ports.as_deref().unwrap_or(&[]) == wanted.ports
        };
        let slice = slice(endpoints, wanted.ports.clone(), wanted.family, wanted.endpoints);
        match existing.iter().position(is_its) {
            Some(at) => update(&mut plan, slice, &existing.remove(at)),
            None => missing.push(slice),
        }
    }
    // What would be deleted is written over where something has to be made.
    for slice in missing {
        match existing.iter().position(|s| s.address_type == slice.address_type) {
            Some(at) => update(&mut plan, slice, &existing.remove(at)),
            None => plan.create.push(slice),
        }
    }
    plan.delete = existing;
    plan
}

fn update(plan: &mut Plan, mut slice: EndpointSlice, old: &EndpointSlice) {
    slice.metadata = ObjectMeta {
        labels: slice.metadata.labels,
        annotations: slice.metadata.annotations,
        owner_references: slice.metadata.owner_references,
        ..old.metadata.clone()
    };
    if slice != *old {
        plan.update.push(slice);
    }
}

fn wanted(endpoints: &Endpoints, plan: &mut Plan) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let mut added = 0;
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        for (address, ready) in ready.chain(unready) {
            if added == MAX_PER_SUBSET {
                plan.skipped += 1;
                continue;
            }
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                plan.invalid += 1;
                plan.skipped += 1;
                continue;
            };
            added += 1;
            let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
            let endpoint = endpoint(address, ip, ready);
            match wanted.iter_mut().find(|w| w.family == family && w.ports == ports) {
                Some(known) => known.endpoints.push(endpoint),
                None => wanted.push(Wanted {
                    ports: ports.clone(),
                    family,
                    endpoints: vec![endpoint],
                }),
            }
        }
    }
    wanted
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten();
    ports
        .map(|p| EndpointPort {
            name: Some(p.name.clone().unwrap_or_default()),
            port: Some(p.port),
            protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: p.app_protocol.clone(),
        })
        .collect()
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice(
    endpoints: &Endpoints,
    ports: Vec<EndpointPort>,
    family: &str,
    addresses: Vec<Endpoint>,
) -> EndpointSlice {
    let meta = &endpoints.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let annotations: BTreeMap<String, String> = meta
        .annotations
        .clone()
        .unwrap_or_default()
        .into_iter()
        .filter(|(key, _)| !PRIVATE.contains(&key.as_str()))
        .collect();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations).filter(|a| !a.is_empty()),
            owner_references: Some(vec![controller_ref(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(addresses),
        ports: Some(ports).filter(|p| !p.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(subsets: &Value) -> Endpoints {
        let meta = json!({"name": "s", "namespace": "d", "uid": "u", "labels": {"a": "b"},
            "annotations": {"kept": "yes", "endpoints.kubernetes.io/last-change-trigger-time": "x"}});
        serde_json::from_value(json!({"metadata": meta, "subsets": subsets})).expect("endpoints")
    }

    #[test]
    fn subsets_become_slices_and_follow_them() {
        let ports = json!([{"port": 80, "protocol": "TCP"}]);
        let first = endpoints(
            &json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "nonsense"}], "ports": ports}]),
        );
        let made = plan(&first, Vec::new());
        assert_eq!((made.create.len(), made.invalid, made.skipped), (2, 1, 1));
        let mut slices: Vec<Arc<EndpointSlice>> = Vec::new();
        for (at, mut slice) in made.create.into_iter().enumerate() {
            slice.metadata.name = Some(format!("s-{at}"));
            slices.push(Arc::new(slice));
        }
        assert_eq!(slices[0].metadata.annotations.as_ref().expect("kept").len(), 1);
        let again = plan(&first, slices.clone());
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
        let other = json!([{"port": 81, "protocol": "TCP"}]);
        let second = endpoints(&json!([{"notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": other}]));
        let changed = plan(&second, slices);
        assert_eq!(
            (changed.create.len(), changed.update.len(), changed.delete.len()),
            (0, 1, 1)
        );
        assert_eq!(changed.update[0].metadata.name.as_deref(), Some("s-0"));
        assert_eq!(changed.delete[0].address_type, "IPv6");
    }
}
