//! Ways from an object to a node, through the pods bound to it.

use crate::Objects;
use crate::pod_references::{References, volume_secrets};
use machinery::{Value, meta};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// Ways remembered; when there are more, all are forgotten.
const MOST: usize = 16_384;

/// What a node may be related to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Secret,
    ConfigMap,
    Claim,
    Volume,
    ResourceClaim,
    Attachment,
    ServiceAccount,
    Slice,
    Pod,
}

/// Node, kind, namespace and name.
type Asked = (String, Kind, String, String);

#[derive(Default)]
pub(super) struct Ways {
    objects: OnceLock<Arc<dyn Objects>>,
    /// The pod (in the object's namespace) a way led through.
    through: Mutex<HashMap<Asked, String>>,
}

impl Ways {
    pub(super) fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }

    /// Whether a way leads from the object to the node. What cannot be read leads nowhere.
    pub(super) async fn lead(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let Some(objects) = self.objects.get() else {
            return false;
        };
        let objects = &**objects;
        match kind {
            Kind::Pod => on_node(objects, node, namespace, name).await.is_some(),
            Kind::Attachment => {
                let found = objects.get("storage.k8s.io", "volumeattachments", "", name).await;
                is_of(found.ok().flatten(), &["spec", "nodeName"], node)
            }
            Kind::Slice => {
                let found = objects.get("resource.k8s.io", "resourceslices", "", name).await;
                is_of(found.ok().flatten(), &["spec", "nodeName"], node)
            }
            Kind::Volume => {
                let found = objects.get("", "persistentvolumes", "", name).await;
                let Some(volume) = found.ok().flatten() else {
                    return false;
                };
                let text = |field| {
                    volume
                        .get_str_path(&["spec", "claimRef", field])
                        .unwrap_or_default()
                };
                self.named(objects, node, Kind::Claim, text("namespace"), text("name"))
                    .await
            }
            Kind::Secret => {
                self.named(objects, node, kind, namespace, name).await
                    || by_volume(objects, node, namespace, name).await
            }
            _ => self.named(objects, node, kind, namespace, name).await,
        }
    }

    /// Whether a pod of the node names the object.
    async fn named(
        &self,
        objects: &dyn Objects,
        node: &str,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> bool {
        if name.is_empty() {
            return false;
        }
        let asked: Asked = (node.to_owned(), kind, namespace.to_owned(), name.to_owned());
        let known = self.through.lock().get(&asked).cloned();
        if let Some(pod) = known {
            let pod = on_node(objects, node, namespace, &pod).await;
            if pod.is_some_and(|pod| names(&pod, kind, name)) {
                return true;
            }
            self.through.lock().remove(&asked);
        }
        let pods = pods_of(objects, node, namespace).await;
        let Some(pod) = pods.iter().find(|pod| names(pod, kind, name)) else {
            return false;
        };
        let mut through = self.through.lock();
        if through.len() >= MOST {
            through.clear();
        }
        through.insert(asked, meta::name(pod).to_owned());
        true
    }
}

async fn pods_of(objects: &dyn Objects, node: &str, namespace: &str) -> Vec<Arc<Value>> {
    let found = objects
        .select("", "pods", namespace, ("spec.nodeName", node))
        .await;
    found.unwrap_or_else(|error| {
        tracing::warn!(%error, "the pods of a node cannot be read; it is allowed nothing of theirs");
        Vec::new()
    })
}

async fn on_node(objects: &dyn Objects, node: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
    let pod = objects.get("", "pods", namespace, name).await.ok().flatten()?;
    (pod.get_str_path(&["spec", "nodeName"]) == Some(node)).then_some(pod)
}

fn is_of(object: Option<Arc<Value>>, path: &[&str], node: &str) -> bool {
    object.is_some_and(|object| object.get_str_path(path) == Some(node))
}

fn names(pod: &Value, kind: Kind, name: &str) -> bool {
    // A static pod runs whatever the API says, so its mirror opens nothing.
    if meta::annotation(pod, "kubernetes.io/config.mirror").is_some() {
        return false;
    }
    let references = References::of(pod);
    match kind {
        Kind::Secret => references.secrets.contains(name),
        Kind::ConfigMap => references.config_maps.contains(name),
        Kind::Claim => references.claims.contains(name),
        Kind::ResourceClaim => references.resource_claims.contains(name),
        Kind::ServiceAccount => references.service_account == name,
        Kind::Volume | Kind::Attachment | Kind::Slice | Kind::Pod => false,
    }
}

/// Whether a volume that a pod of the node claims needs the secret.
async fn by_volume(objects: &dyn Objects, node: &str, namespace: &str, name: &str) -> bool {
    for pod in pods_of(objects, node, "").await {
        for claim in References::of(&pod).claims {
            let claim = objects
                .get("", "persistentvolumeclaims", meta::namespace(&pod), &claim)
                .await;
            let Some(claim) = claim.ok().flatten() else {
                continue;
            };
            let Some(volume) = claim.get_str_path(&["spec", "volumeName"]) else {
                continue;
            };
            let volume = objects.get("", "persistentvolumes", "", volume).await;
            let Some(volume) = volume.ok().flatten() else {
                continue;
            };
            // The volume must agree that it is this claim's.
            let owner = |field| {
                volume
                    .get_str_path(&["spec", "claimRef", field])
                    .unwrap_or_default()
            };
            if owner("namespace") == meta::namespace(&claim)
                && owner("name") == meta::name(&claim)
                && volume_secrets(&volume)
                    .iter()
                    .any(|(ns, n)| ns == namespace && n == name)
            {
                return true;
            }
        }
    }
    false
}
