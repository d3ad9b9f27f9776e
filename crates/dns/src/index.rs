//! What the answers are made from.

use std::net::IpAddr;
use std::sync::Arc;

use client::informer::Index as InformerBy;
use client::{Informer, Informers, ObjectKey};
use compact_str::{CompactString, ToCompactString as _, format_compact};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The cluster's state as far as names go.
pub trait Index: Send + Sync + 'static {
    /// Whether the first lists are complete; until then nothing can be said not to exist.
    fn is_ready(&self) -> bool;
    fn namespace_exists(&self, name: &str) -> bool;
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The slices of a Service.
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>>;
    /// The Services with this cluster IP.
    fn services_at(&self, ip: IpAddr) -> Vec<Arc<Service>>;
    /// The slices that hold this address.
    fn slices_at(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>>;
}

/// The index over shared informers.
pub struct InformerIndex {
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    services_by_ip: InformerBy<Service>,
    slices: Informer<EndpointSlice>,
    slices_by_service: InformerBy<EndpointSlice>,
    slices_by_address: InformerBy<EndpointSlice>,
}

impl InformerIndex {
    pub fn new(informers: &Informers) -> Self {
        Self::of(informers.get(), informers.get(), informers.get())
    }

    pub fn of(
        namespaces: Informer<Namespace>,
        services: Informer<Service>,
        slices: Informer<EndpointSlice>,
    ) -> Self {
        InformerIndex {
            namespaces,
            services_by_ip: services.index("cluster-ip", by_cluster_ip),
            services,
            // The service proxy asks for the index of this name too, with the same values.
            slices_by_service: slices.index("service", by_service),
            slices_by_address: slices.index("address", by_address),
            slices,
        }
    }
}

impl Index for InformerIndex {
    fn is_ready(&self) -> bool {
        self.namespaces.has_synced() && self.services.has_synced() && self.slices.has_synced()
    }

    fn namespace_exists(&self, name: &str) -> bool {
        self.namespaces.get(&ObjectKey::cluster(name)).is_some()
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&ObjectKey::new(namespace, name))
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices_by_service
            .get(&format_compact!("{namespace}/{service}"))
    }

    fn services_at(&self, ip: IpAddr) -> Vec<Arc<Service>> {
        self.services_by_ip.get(&ip.to_compact_string())
    }

    fn slices_at(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.slices_by_address.get(&ip.to_compact_string())
    }
}

/// The name of the Service a slice belongs to.
pub(crate) fn service_name(slice: &EndpointSlice) -> Option<&str> {
    let name = slice
        .metadata
        .labels
        .as_ref()?
        .get("kubernetes.io/service-name")?;
    (!name.is_empty()).then_some(name.as_str())
}

fn by_cluster_ip(service: &Service, values: &mut Vec<CompactString>) {
    let Some(spec) = &service.spec else { return };
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    for ip in all.filter_map(|ip| ip.parse::<IpAddr>().ok()) {
        let value = ip.to_compact_string();
        if !values.contains(&value) {
            values.push(value);
        }
    }
}

fn by_service(slice: &EndpointSlice, values: &mut Vec<CompactString>) {
    if let (Some(name), Some(namespace)) = (service_name(slice), slice.metadata.namespace.as_deref()) {
        values.push(format_compact!("{namespace}/{name}"));
    }
}

fn by_address(slice: &EndpointSlice, values: &mut Vec<CompactString>) {
    if service_name(slice).is_none() {
        return;
    }
    let addresses = slice
        .endpoints
        .iter()
        .flatten()
        .flat_map(|endpoint| &endpoint.addresses);
    values.extend(addresses.filter_map(|ip| Some(ip.parse::<IpAddr>().ok()?.to_compact_string())));
}
