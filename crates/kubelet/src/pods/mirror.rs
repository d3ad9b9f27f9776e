//! Mirror pods: what the API server shows of static pods.
//!
//! **Invariant:** level-triggered, by name: whatever static pods and mirrors there are, a look makes what is
//! missing, deletes what is other than the static pod, and deletes mirrors of pods that are no more.
//! Follows upstream's `pod/mirror_client.go`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::node::context::NodeContext;
use crate::pod::{HASH_ANNOTATION, MIRROR_ANNOTATION, PodExt};

/// Namespace and name.
type Name = (String, String);

const RETRY: Duration = Duration::from_secs(2);

#[derive(Default)]
pub struct Mirrors {
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Default)]
struct Known {
    statics: HashMap<Name, Arc<Pod>>,
    mirrors: HashMap<Name, Arc<Pod>>,
}

#[derive(Debug, PartialEq)]
enum Deed {
    Create(Arc<Pod>),
    Delete(Arc<Pod>),
}

fn name(pod: &Pod) -> Name {
    (pod.namespace().to_owned(), pod.name().to_owned())
}

impl Mirrors {
    pub fn set_static(&self, pod: &Arc<Pod>) {
        self.known.lock().statics.insert(name(pod), pod.clone());
        self.changed.notify_one();
    }

    pub fn remove_static(&self, pod: &Pod) {
        let mut known = self.known.lock();
        // A changed manifest may have put its successor here already.
        if known
            .statics
            .get(&name(pod))
            .is_some_and(|p| p.uid() == pod.uid())
        {
            known.statics.remove(&name(pod));
        }
        self.changed.notify_one();
    }

    pub fn set_mirror(&self, pod: &Arc<Pod>) {
        self.known.lock().mirrors.insert(name(pod), pod.clone());
        self.changed.notify_one();
    }

    pub fn remove_mirror(&self, pod: &Pod) {
        let mut known = self.known.lock();
        if known
            .mirrors
            .get(&name(pod))
            .is_some_and(|p| p.uid() == pod.uid())
        {
            known.mirrors.remove(&name(pod));
        }
        self.changed.notify_one();
    }

    /// The mirror of a static pod, where its status is written.
    pub fn of(&self, pod: &Pod) -> Option<Arc<Pod>> {
        let known = self.known.lock();
        known
            .mirrors
            .get(&name(pod))
            .filter(|m| reflects(m, pod))
            .cloned()
    }

    /// Runs for ever.
    pub async fn keep(&self, node: &NodeContext) {
        loop {
            let mut failed = false;
            for deed in self.due() {
                if let Err(error) = carry_out(node, &deed).await {
                    tracing::warn!(%error, "cannot bring a mirror pod in line, will retry");
                    failed = true;
                }
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(RETRY), if failed => {}
            }
        }
    }

    fn due(&self) -> Vec<Deed> {
        let known = self.known.lock();
        let stale = known
            .mirrors
            .iter()
            .filter(|(name, mirror)| {
                mirror.is_deleting() || known.statics.get(*name).is_none_or(|pod| !reflects(mirror, pod))
            })
            .map(|(_, mirror)| Deed::Delete(mirror.clone()));
        let missing = known
            .statics
            .iter()
            .filter(|(name, _)| !known.mirrors.contains_key(*name))
            .map(|(_, pod)| Deed::Create(pod.clone()));
        stale.chain(missing).collect()
    }
}

/// Whether the mirror was made of this very manifest.
fn reflects(mirror: &Pod, pod: &Pod) -> bool {
    mirror.annotation(MIRROR_ANNOTATION) == pod.annotation(HASH_ANNOTATION)
}

async fn carry_out(node: &NodeContext, deed: &Deed) -> Result<(), kube::Error> {
    match deed {
        Deed::Delete(mirror) => {
            let api: Api<Pod> = Api::namespaced(node.client.clone(), mirror.namespace());
            let parameters = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions {
                    uid: mirror.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match api.delete(mirror.name(), &parameters).await {
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
                other => other.map(drop),
            }
        }
        Deed::Create(pod) => {
            let Some(owner) = node.state.read().node.clone() else {
                // Registering tells again, through the node's own event.
                return Ok(());
            };
            let api: Api<Pod> = Api::namespaced(node.client.clone(), pod.namespace());
            let mirror = mirror_of(pod, owner.metadata.name.as_deref(), owner.metadata.uid.as_deref());
            match api.create(&PostParams::default(), &mirror).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                other => other.map(drop),
            }
        }
    }
}

fn mirror_of(pod: &Pod, node: Option<&str>, node_uid: Option<&str>) -> Pod {
    let mut mirror = pod.clone();
    let hash = pod.annotation(HASH_ANNOTATION).unwrap_or_default().to_owned();
    let meta = &mut mirror.metadata;
    meta.uid = None;
    meta.annotations
        .get_or_insert_default()
        .insert(MIRROR_ANNOTATION.to_owned(), hash);
    meta.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.unwrap_or_default().to_owned(),
        uid: node_uid.unwrap_or_default().to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror.status = None;
    mirror
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, annotations: serde_json::Value) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": "web-n", "namespace": "default", "uid": uid,
                "annotations": annotations}, "spec": {"containers": []}}),
            )
            .unwrap(),
        )
    }

    #[test]
    fn mirrors_follow_their_pods() {
        let mirrors = Mirrors::default();
        let old = pod("1", json!({HASH_ANNOTATION: "1"}));
        mirrors.set_static(&old);
        assert_eq!(mirrors.due(), [Deed::Create(old.clone())]);
        let made = mirror_of(&old, Some("n"), Some("u"));
        assert_eq!(made.annotation(MIRROR_ANNOTATION), Some("1"));
        let mirror = pod("m", json!({MIRROR_ANNOTATION: "1"}));
        mirrors.set_mirror(&mirror);
        assert!(mirrors.due().is_empty());
        assert_eq!(mirrors.of(&old), Some(mirror.clone()));
        let new = pod("2", json!({HASH_ANNOTATION: "2"}));
        mirrors.set_static(&new);
        mirrors.remove_static(&old);
        assert_eq!(mirrors.due(), [Deed::Delete(mirror.clone())]);
        mirrors.remove_mirror(&mirror);
        assert_eq!(mirrors.due(), [Deed::Create(new.clone())]);
        mirrors.set_mirror(&pod("m2", json!({MIRROR_ANNOTATION: "2"})));
        mirrors.remove_static(&new);
        assert_eq!(mirrors.due().len(), 1);
    }
}
