//! The server as clients expect to find it: the Service `kube-dns` in `kube-system`, with an
//! EndpointSlice for each node's server.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, PostParams};

/// Where one node's server is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    pub cluster_ip: IpAddr,
    pub node_name: String,
    /// Where the server listens.
    pub address: IpAddr,
    pub port: u16,
}

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
/// Upstream's names of the ports, which manifests refer to.
const PORTS: [(&str, &str); 2] = [("dns", "UDP"), ("dns-tcp", "TCP")];

pub fn service(publication: &Publication) -> Service {
    let ip = publication.cluster_ip.to_string();
    let port = |(name, protocol): &(&str, &str)| ServicePort {
        name: Some((*name).to_owned()),
        protocol: Some((*protocol).to_owned()),
        port: 53,
        target_port: Some(IntOrString::Int(publication.port.into())),
        ..ServicePort::default()
    };
    Service {
        metadata: meta(
            NAME.to_owned(),
            &[
                ("k8s-app", NAME),
                ("kubernetes.io/cluster-service", "true"),
                ("kubernetes.io/name", "CoreDNS"),
            ],
        ),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some(ip.clone()),
            cluster_ips: Some(vec![ip]),
            ports: Some(PORTS.iter().map(port).collect()),
            // Every node has a server: the nearest is the one beside the pod.
            traffic_distribution: Some("PreferSameNode".to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

pub fn endpoint_slice(publication: &Publication) -> EndpointSlice {
    let port = |(name, protocol): &(&str, &str)| EndpointPort {
        name: Some((*name).to_owned()),
        protocol: Some((*protocol).to_owned()),
        port: Some(publication.port.into()),
        app_protocol: None,
    };
    let node = ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(publication.node_name.clone()),
        ..ObjectReference::default()
    };
    EndpointSlice {
        metadata: meta(
            format!("{NAME}-{}", publication.node_name),
            &[
                ("kubernetes.io/service-name", NAME),
                ("endpointslice.kubernetes.io/managed-by", "kijabi.io/dns"),
            ],
        ),
        address_type: if publication.address.is_ipv4() {
            "IPv4"
        } else {
            "IPv6"
        }
        .to_owned(),
        endpoints: Some(vec![Endpoint {
            addresses: vec![publication.address.to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(true),
                serving: Some(true),
                terminating: Some(false),
            }),
            node_name: Some(publication.node_name.clone()),
            target_ref: Some(node),
            ..Endpoint::default()
        }]),
        ports: Some(PORTS.iter().map(port).collect()),
    }
}

/// Makes both objects, or brings them up to date.
pub async fn publish(client: &kube::Client, publication: &Publication) -> kube::Result<()> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    create_or_replace(&services, service(publication), |found, wanted| {
        // What the server filled in stays.
        if let (Some(found), Some(wanted)) = (&mut found.spec, wanted.spec) {
            found.ports = wanted.ports;
            found.traffic_distribution = wanted.traffic_distribution;
        }
        found.metadata.labels = wanted.metadata.labels;
    })
    .await?;
    create_or_replace(&slices, endpoint_slice(publication), |found, wanted| {
        found.endpoints = wanted.endpoints;
        found.ports = wanted.ports;
        found.metadata.labels = wanted.metadata.labels;
    })
    .await
}

async fn create_or_replace<K>(api: &Api<K>, wanted: K, update: impl Fn(&mut K, K)) -> kube::Result<()>
where
    K: kube::Resource
        + Clone
        + std::fmt::Debug
        + PartialEq
        + serde::Serialize
        + for<'de> serde::Deserialize<'de>,
{
    const ATTEMPTS: usize = 5;
    let name = wanted.meta().name.clone().unwrap_or_default();
    for attempt in 0.. {
        let outcome = match api.get_opt(&name).await? {
            None => api.create(&PostParams::default(), &wanted).await,
            Some(found) => {
                let mut changed = found.clone();
                update(&mut changed, wanted.clone());
                if changed == found {
                    return Ok(());
                }
                api.replace(&name, &PostParams::default(), &changed).await
            }
        };
        match outcome {
            // Somebody else wrote between the look and the write.
            Err(kube::Error::Api(status)) if status.code == 409 && attempt < ATTEMPTS => {}
            other => return other.map(drop),
        }
    }
    Ok(())
}

fn meta(name: String, labels: &[(&str, &str)]) -> ObjectMeta {
    let labels: BTreeMap<String, String> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    ObjectMeta {
        name: Some(name),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}
