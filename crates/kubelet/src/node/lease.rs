//! The node's lease: renewed every quarter of its duration, so that the cluster knows the node is alive without
//! its whole status being written.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{Api, ObjectMeta, PostParams};

use super::context::NodeContext;

const NAMESPACE: &str = "kube-node-lease";
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(7);

/// Runs for ever.
pub async fn renew(node: Arc<NodeContext>) {
    let api: Api<Lease> = Api::namespaced(node.client.clone(), NAMESPACE);
    let period = node.settings.lease_duration / 4;
    let mut known: Option<Lease> = None;
    let mut delay = RETRY_FIRST;
    loop {
        match once(&node, &api, known.take()).await {
            Ok(lease) => {
                known = Some(lease);
                delay = RETRY_FIRST;
                tokio::time::sleep(period).await;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot renew the node's lease, will retry");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_MOST);
            }
        }
    }
}

/// Renews what is known; without it, reads or makes the lease first.
async fn once(node: &NodeContext, api: &Api<Lease>, known: Option<Lease>) -> Result<Lease, kube::Error> {
    let name = &node.settings.node_name;
    let current = match known {
        Some(lease) => Some(lease),
        None => api.get_opt(name).await?,
    };
    let owner = node.state.read().node.as_ref().and_then(|n| owner(n));
    let mut lease = current.clone().unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    if lease.metadata.owner_references.is_none() {
        lease.metadata.owner_references = owner.map(|o| vec![o]);
    }
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(name.clone());
    spec.lease_duration_seconds = i32::try_from(node.settings.lease_duration.as_secs()).ok();
    spec.renew_time = Some(MicroTime(node.clock.now()));
    match current {
        Some(_) => api.replace(name, &PostParams::default(), &lease).await,
        None => api.create(&PostParams::default(), &lease).await,
    }
}

fn owner(node: &Node) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone()?,
        uid: node.metadata.uid.clone()?,
        ..OwnerReference::default()
    })
}
