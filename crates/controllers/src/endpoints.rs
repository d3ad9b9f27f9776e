//! The Endpoints controller: writes down, in the older form, the pods behind a Service.
//!
//! An Endpoints object holds at most 1,000 addresses; more are left out and an annotation says so.

use crate::context::Context;
use crate::pods::{is_ready, message_of};
use crate::service_pods::{
    HEADLESS_LABEL, TRIGGER_TIME, addresses, belongs, enqueue_services, find_port, has_ip, has_selector,
    hostname, publishes_not_ready, selected, trigger_time,
};
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::informer::{Index, by_namespace};
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, PostParams};
use std::collections::BTreeMap;
use std::sync::Arc;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const NAME: &str = "endpoint-controller";
const CAPACITY: usize = 1000;
const WORKERS: usize = 5;

struct Shell {
    context: Context,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    pods: Informer<Pod>,
    pods_by_namespace: Index<Pod>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let services = context.informer::<Service>();
    let endpoints = context.informer::<Endpoints>();
    let pods = context.informer::<Pod>();
    let queue = context.queue::<ObjectKey>("endpoint");
    let adds = queue.clone();
    services.subscribe(move |event| adds.add(ObjectKey::of(&**event.object())));
    let of_namespace = services.index("namespace", by_namespace);
    let adds = queue.clone();
    pods.subscribe(move |event| enqueue_services(event, &of_namespace, &adds));
    let adds = queue.clone();
    endpoints.subscribe(move |event| {
        if let Event::Deleted(gone) = event {
            adds.add(ObjectKey::of(&**gone));
        }
    });
    let shell = Arc::new(Shell {
        pods_by_namespace: pods.index("namespace", by_namespace),
        services,
        endpoints,
        pods,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.services.synced().await;
        ready.endpoints.synced().await;
        ready.pods.synced().await;
        // Endpoints of Services that went while nobody looked.
        for endpoints in ready.endpoints.list() {
            let labels = endpoints.metadata.labels.as_ref();
            if labels.and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == NAME) {
                let key = ObjectKey::of(&*endpoints);
                if ready.services.get(&key).is_none()
                    && let Err(error) = ready.remove(&key).await
                {
                    tracing::debug!(%key, %error, "left-over endpoints not deleted");
                }
            }
        }
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

impl Shell {
    async fn remove(&self, key: &ObjectKey) -> Result<(), kube::Error> {
        if self.endpoints.get(key).is_none() {
            return Ok(());
        }
        let api = Api::<Endpoints>::namespaced(self.context.client.clone(), &key.namespace);
        match api.delete(&key.name, &DeleteParams::default()).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(service) = self.services.get(key) else {
            self.remove(key).await?;
            return Ok(Outcome::Done);
        };
        if !has_selector(&service) {
            return Ok(Outcome::Done);
        }
        let pods = selected(&service, &self.pods_by_namespace);
        let current = self.endpoints.get(key);
        let Some(wanted) = desired(&service, &pods, current.as_deref()) else {
            return Ok(Outcome::Done);
        };
        let api = Api::<Endpoints>::namespaced(self.context.client.clone(), &key.namespace);
        let written = if current.is_some() {
            api.replace(&key.name, &PostParams::default(), &wanted).await
        } else {
            api.create(&PostParams::default(), &wanted).await
        };
        match written {
            Ok(written) => {
                self.endpoints.written(written);
                Ok(Outcome::Done)
            }
            Err(error) if error.is_namespace_terminating() => Ok(Outcome::Done),
            Err(error) => {
                let (reason, verb) = if current.is_some() {
                    (
                        "FailedToUpdateEndpoint",
                        format!("Failed to update endpoint {key}"),
                    )
                } else {
                    (
                        "FailedToCreateEndpoint",
                        format!("Failed to create endpoint for service {key}"),
                    )
                };
                if !error.is_conflict() {
                    let message = format!("{verb}: {}", message_of(&error));
                    self.context
                        .recorder
                        .warning(&reference(&wanted), reason, message);
                }
                Err(error)
            }
        }
    }
}

/// What the Endpoints object should be; `None` when it is so already.
fn desired(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Option<Endpoints> {
    let mut subsets = subsets(service, pods);
    let truncated = truncate(&mut subsets);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if !has_ip(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), NAME.to_owned());
    let mut metadata = match current {
        Some(current) => current.metadata.clone(),
        None => ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
    };
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    let over = annotations.get(OVER_CAPACITY).is_some_and(|v| v == "truncated");
    if let Some(current) = current {
        let same = current.subsets.as_deref().unwrap_or(&[]) == subsets && over == truncated;
        if same && current.metadata.labels.as_ref() == Some(&labels) {
            return None;
        }
    }
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    let noted = annotations.get(TRIGGER_TIME).cloned();
    if let Some(time) = trigger_time(service, pods, noted.as_deref()) {
        annotations.insert(TRIGGER_TIME.to_owned(), time);
    }
    metadata.labels = Some(labels);
    metadata.annotations = Some(annotations);
    Some(Endpoints {
        metadata,
        subsets: Some(subsets).filter(|s| !s.is_empty()),
    })
}

/// A port with what makes it another one.
type PortKey = (String, i32, String, Option<String>);

/// The addresses by the ports they share, in a fixed order.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let v6 = match spec.ip_families.as_ref().and_then(|f| f.first()) {
        Some(family) => family == "IPv6",
        None => spec.cluster_ip.as_deref().is_some_and(|ip| ip.contains(':')),
    };
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let publish = publishes_not_ready(service);
    let mut by_port: BTreeMap<Option<PortKey>, Vec<(usize, bool)>> = BTreeMap::new();
    let mut offered = Vec::new();
    for pod in pods.iter().filter(|p| belongs(p, publish)) {
        let Some(address) = address(pod, service, v6) else {
            continue;
        };
        let at = offered.len();
        offered.push(address);
        let ready = publish || is_ready(pod);
        if ports.is_empty() && headless {
            by_port.entry(None).or_default().push((at, ready));
        }
        for port in &ports {
            if let Some(number) = find_port(pod, port) {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                let key = (
                    port.name.clone().unwrap_or_default(),
                    number,
                    protocol,
                    port.app_protocol.clone(),
                );
                by_port.entry(Some(key)).or_default().push((at, ready));
            }
        }
    }
    // Ports that lead to the same addresses make one subset.
    let mut grouped: BTreeMap<Vec<(usize, bool)>, Vec<PortKey>> = BTreeMap::new();
    for (port, addresses) in by_port {
        grouped.entry(addresses).or_default().extend(port);
    }
    let mut subsets: Vec<EndpointSubset> = grouped
        .into_iter()
        .map(|(addresses, ports)| {
            let of = |wanted: bool| {
                let mut list: Vec<EndpointAddress> = addresses
                    .iter()
                    .filter(|(_, ready)| *ready == wanted)
                    .map(|(at, _)| offered[*at].clone())
                    .collect();
                list.sort_by(|a, b| a.ip.cmp(&b.ip));
                Some(list).filter(|l| !l.is_empty())
            };
            EndpointSubset {
                addresses: of(true),
                not_ready_addresses: of(false),
                ports: Some(ports.into_iter().map(port).collect()).filter(|p: &Vec<_>| !p.is_empty()),
            }
        })
        .collect();
    subsets.sort_by_key(|s| {
        let first = s.ports.as_ref().and_then(|p| p.first());
        first.map(|p| (p.name.clone(), p.port, p.protocol.clone()))
    });
    subsets
}

fn port((name, port, protocol, app_protocol): PortKey) -> EndpointPort {
    EndpointPort {
        name: Some(name).filter(|n| !n.is_empty()),
        port,
        protocol: Some(protocol),
        app_protocol,
    }
}

fn address(pod: &Pod, service: &Service, v6: bool) -> Option<EndpointAddress> {
    Some(EndpointAddress {
        ip: addresses(pod, v6).into_iter().next()?,
        hostname: hostname(pod, service),
        node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    })
}

/// Leaves out what is too much, those that are not ready first; whether anything was.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|s| count(&s.addresses)).sum();
    let other: usize = subsets.iter().map(|s| count(&s.not_ready_addresses)).sum();
    if ready + other <= CAPACITY {
        return false;
    }
    let cut_ready = ready > CAPACITY;
    let room = if cut_ready { CAPACITY } else { CAPACITY - ready };
    let total = if cut_ready { ready } else { other };
    let mut left = room;
    for subset in subsets {
        let list = if cut_ready {
            subset.not_ready_addresses = None;
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        let share = (count(list) * room).div_ceil(total).min(left);
        if let Some(list) = list {
            list.truncate(share);
        }
        left -= count(list);
        if list.as_ref().is_some_and(Vec::is_empty) {
            *list = None;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(ports: Value) -> Service {
        let spec = json!({"clusterIP": "10.0.0.1", "selector": {"a": "b"}, "ports": ports});
        serde_json::from_value(
            json!({"metadata": {"name": "s", "namespace": "d", "labels": {"x": "y"}}, "spec": spec}),
        )
        .expect("service")
    }

    fn pod(name: &str, ip: &str, ready: bool, ports: Value) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let containers = json!([{"name": "c", "ports": ports}]);
        let status =
            json!({"podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]});
        let pod = json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"containers": containers}, "status": status});
        Arc::new(serde_json::from_value(pod).expect("pod"))
    }

    fn check(service: &Service, pods: &[Arc<Pod>], expected: &[(&str, &str, &str)]) {
        let words: Vec<_> = subsets(service, pods)
            .into_iter()
            .map(|s| {
                let ips = |list: Option<Vec<EndpointAddress>>| {
                    let list: Vec<_> = list.into_iter().flatten().map(|a| a.ip).collect();
                    list.join(" ")
                };
                let ports: Vec<_> = s
                    .ports
                    .into_iter()
                    .flatten()
                    .map(|p| p.port.to_string())
                    .collect();
                (ips(s.addresses), ips(s.not_ready_addresses), ports.join(" "))
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(a, b, c)| ((*a).into(), (*b).into(), (*c).into()))
            .collect();
        assert_eq!(words, expected);
    }

    #[test]
    fn addresses_are_grouped_by_ports() {
        let pods = [
            pod(
                "1",
                "10.1.0.2",
                true,
                json!([{"name": "web", "containerPort": 80}]),
            ),
            pod(
                "2",
                "10.1.0.1",
                false,
                json!([{"name": "web", "containerPort": 80}]),
            ),
            pod(
                "3",
                "10.1.0.3",
                true,
                json!([{"name": "web", "containerPort": 8080}]),
            ),
        ];
        let fixed = service(json!([{"name": "a", "port": 1, "targetPort": 9}, {"name": "b", "port": 2}]));
        check(&fixed, &pods, &[("10.1.0.2 10.1.0.3", "10.1.0.1", "9 2")]);
        let named = service(json!([{"port": 1, "targetPort": "web"}]));
        check(
            &named,
            &pods,
            &[("10.1.0.2", "10.1.0.1", "80"), ("10.1.0.3", "", "8080")],
        );
        check(&service(json!([{"port": 1, "targetPort": "none"}])), &pods, &[]);
    }

    #[test]
    fn nothing_is_written_twice_and_too_many_are_cut() {
        let service = service(json!([{"port": 80}]));
        let pods: Vec<_> = (0..1200)
            .map(|i| {
                pod(
                    &i.to_string(),
                    &format!("10.1.{}.{}", i / 200, i % 200),
                    i >= 300,
                    json!([]),
                )
            })
            .collect();
        let first = desired(&service, &pods, None).expect("new");
        assert_eq!(
            first.metadata.annotations.as_ref().expect("annotations")[OVER_CAPACITY],
            "truncated"
        );
        let subset = &first.subsets.as_ref().expect("subsets")[0];
        assert_eq!(subset.addresses.as_ref().map(Vec::len), Some(900));
        assert_eq!(subset.not_ready_addresses.as_ref().map(Vec::len), Some(100));
        assert!(desired(&service, &pods, Some(&first)).is_none());
        assert!(desired(&service, &pods[..3], Some(&first)).is_some());
    }
}
