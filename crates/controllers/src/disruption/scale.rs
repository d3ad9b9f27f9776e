//! How many pods there should be: the sum of the scales of all that control them.

use crate::context::Context;
use crate::owner::controller_of;
use client::Informer;
use client::error::ApiErrorExt as _;
use client::informer::metadata::discover;
use hashbrown::HashMap;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use std::sync::Arc;

pub(super) struct Scales {
    client: kube::Client,
    controllers: Informer<ReplicationController>,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
}

/// How many pods are expected.
pub(super) struct Expected {
    pub(super) count: i32,
    /// Some pods have no controller.
    pub(super) unmanaged: bool,
}

impl Scales {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            controllers: context.informer(),
            sets: context.informer(),
            deployments: context.informer(),
            stateful: context.informer(),
        }
    }

    pub(super) async fn synced(&self) {
        self.controllers.synced().await;
        self.sets.synced().await;
        self.deployments.synced().await;
        self.stateful.synced().await;
    }

    /// The inner error says which pod's controller is not known.
    pub(super) async fn expected(
        &self,
        namespace: &str,
        pods: &[Arc<Pod>],
    ) -> Result<Result<Expected, String>, kube::Error> {
        // By the uid of each pod's controller: the uid of what scales it, and to how many.
        let mut known: HashMap<&str, (String, i32)> = HashMap::new();
        let mut unmanaged = false;
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else {
                unmanaged = true;
                continue;
            };
            if known.contains_key(owner.uid.as_str()) {
                continue;
            }
            let found = match self.find(namespace, owner) {
                Some(found) => Some(found),
                None => match self.ask(namespace, owner).await? {
                    Ok(found) => found,
                    Err(reason) => return Ok(Err(reason)),
                },
            };
            let Some(found) = found else {
                let name = pod.metadata.name.as_deref().unwrap_or("");
                return Ok(Err(format!("found no controllers for pod {name:?}")));
            };
            known.insert(&owner.uid, found);
        }
        let scales: HashMap<String, i32> = known.into_values().collect();
        Ok(Ok(Expected {
            count: scales.into_values().sum(),
            unmanaged,
        }))
    }

    fn find(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let (group, _) = owner.api_version.split_once('/').unwrap_or(("", "v1"));
        match (group, owner.kind.as_str()) {
            ("", "ReplicationController") => {
                let found = self.controllers.find(namespace, &owner.name)?;
                matching(&found.metadata.uid, owner, found.spec.as_ref()?.replicas)
            }
            ("apps", "StatefulSet") => {
                let found = self.stateful.find(namespace, &owner.name)?;
                matching(&found.metadata.uid, owner, found.spec.as_ref()?.replicas)
            }
            ("apps", "ReplicaSet") => {
                let set = self.sets.find(namespace, &owner.name)?;
                let of_set = matching(&set.metadata.uid, owner, set.spec.as_ref()?.replicas)?;
                let Some(above) = controller_of(&set.metadata).filter(|o| o.kind == "Deployment") else {
                    return Some(of_set);
                };
                let deployment = self.deployments.find(namespace, &above.name)?;
                matching(
                    &deployment.metadata.uid,
                    above,
                    deployment.spec.as_ref()?.replicas,
                )
            }
            _ => None,
        }
    }

    /// Asks the scale subresource of a kind not known here.
    async fn ask(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<Result<Option<(String, i32)>, String>, kube::Error> {
        if matches!(
            owner.kind.as_str(),
            "ReplicationController" | "StatefulSet" | "ReplicaSet"
        ) {
            return Ok(Ok(None));
        }
        let found = discover(&self.client)
            .await
            .map_err(|error| kube::Error::Service(Box::new(error)))?;
        let served = found
            .resources
            .into_iter()
            .find(|s| s.resource.api_version() == owner.api_version && s.resource.kind == owner.kind);
        let Some(served) = served else {
            return Ok(Ok(None));
        };
        let path = format!(
            "{}/scale",
            served.resource.object_path(Some(namespace), &owner.name)
        );
        let request = http::Request::get(path)
            .body(Vec::new())
            .map_err(|error| kube::Error::Service(Box::new(error)))?;
        match self.client.request::<Scale>(request).await {
            Ok(scale) => Ok(Ok(matching(
                &scale.metadata.uid,
                owner,
                scale.spec.as_ref().and_then(|s| s.replicas),
            ))),
            Err(error) if error.is_not_found() => {
                let group = &served.resource.group;
                let dot = if group.is_empty() { "" } else { "." };
                let name = format!("{}{dot}{group}", served.resource.plural);
                Ok(Err(format!("{name} does not implement the scale subresource")))
            }
            Err(error) => Err(error),
        }
    }
}

fn matching(uid: &Option<String>, owner: &OwnerReference, replicas: Option<i32>) -> Option<(String, i32)> {
    let uid = uid.as_ref().filter(|uid| **uid == owner.uid)?;
    Some((uid.clone(), replicas.unwrap_or(0)))
}
