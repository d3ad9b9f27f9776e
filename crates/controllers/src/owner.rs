//! Ownership, in the one place it exists: who controls an object, and how a controller takes up orphans that its
//! selector matches and lets go of what it no longer matches.
//!
//! **Invariant:** owners are matched by uid, never by name.
//! **Invariant:** before adopting, the owner is read afresh; one that is being deleted adopts nothing.

use client::error::ApiErrorExt as _;
use client::informer::Object;
use client::labels::Matcher;
use client::{Informer, ObjectKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;

/// The owner that controls an object.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|o| o.controller == Some(true))
}

/// Whether the object of this uid controls `meta`'s.
pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: Option<&str>) -> bool {
    controller_of(meta).is_some_and(|o| Some(o.uid.as_str()) == uid)
}

/// The reference that makes `owner` the controller of something.
pub(crate) fn controller_ref<K: kube::Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The key of the controller of an object, if it is of this kind.
pub(crate) fn controller_key(meta: &ObjectMeta, kind: &str) -> Option<ObjectKey> {
    let owner = controller_of(meta).filter(|o| o.kind == kind)?;
    Some(ObjectKey::new(
        meta.namespace.as_deref().unwrap_or(""),
        &owner.name,
    ))
}

/// What belongs to an owner, and what has to be done about it.
#[derive(Debug)]
pub(crate) struct Claims<K> {
    pub(crate) mine: Vec<Arc<K>>,
    pub(crate) adopt: Vec<Arc<K>>,
    pub(crate) release: Vec<Arc<K>>,
}

/// Judges the objects an owner controls and the orphans of its namespace.
pub(crate) fn claim<K: Object>(
    owner: &ObjectMeta,
    selector: &Matcher,
    owned: impl IntoIterator<Item = Arc<K>>,
    orphans: impl IntoIterator<Item = Arc<K>>,
) -> Claims<K> {
    let matches = |object: &Arc<K>| selector.matches(object.meta().labels.as_ref());
    let leaving = owner.deletion_timestamp.is_some();
    let (mine, strangers): (Vec<_>, Vec<_>) = owned.into_iter().partition(matches);
    let adoptable =
        |object: &Arc<K>| !leaving && object.meta().deletion_timestamp.is_none() && matches(object);
    Claims {
        mine,
        adopt: orphans.into_iter().filter(adoptable).collect(),
        release: if leaving { Vec::new() } else { strangers },
    }
}

/// Adopts and releases; what is the owner's afterwards. `finalizers` are put on what is adopted.
pub(crate) async fn settle<O, K>(
    client: &kube::Client,
    owner: &O,
    informer: &Informer<K>,
    claims: Claims<K>,
    finalizers: &[&str],
) -> Result<Vec<Arc<K>>, kube::Error>
where
    O: Object + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K: Object + Serialize + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    let Claims {
        mut mine,
        adopt,
        release,
    } = claims;
    let namespace = owner.meta().namespace.clone().unwrap_or_default();
    let api = Api::<K>::namespaced(client.clone(), &namespace);
    if !adopt.is_empty() {
        let name = owner.meta().name.clone().unwrap_or_default();
        let fresh = Api::<O>::namespaced(client.clone(), &namespace)
            .get(&name)
            .await?;
        let still = fresh.meta().uid == owner.meta().uid && fresh.meta().deletion_timestamp.is_none();
        if still {
            for orphan in adopt {
                let reference = controller_ref(owner);
                let mut patch =
                    json!({"metadata": {"ownerReferences": [reference], "uid": orphan.meta().uid}});
                if !finalizers.is_empty() {
                    patch["metadata"]["finalizers"] = json!(finalizers);
                }
                if let Some(adopted) = patch_owned(&api, &*orphan, &patch).await? {
                    informer.written(adopted.clone());
                    mine.push(Arc::new(adopted));
                }
            }
        }
    }
    for stranger in release {
        let reference = json!([{"$patch": "delete", "uid": owner.meta().uid}]);
        let mut patch = json!({"metadata": {"ownerReferences": reference, "uid": stranger.meta().uid}});
        if !finalizers.is_empty() {
            patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!(finalizers);
        }
        if let Some(released) = patch_owned(&api, &*stranger, &patch).await? {
            informer.written(released);
        }
    }
    Ok(mine)
}

/// `None` when the object is gone, or another one has its name.
async fn patch_owned<K: Object + Serialize>(
    api: &Api<K>,
    object: &K,
    patch: &serde_json::Value,
) -> Result<Option<K>, kube::Error> {
    let name = object.meta().name.clone().unwrap_or_default();
    match api
        .patch(&name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        Ok(patched) => Ok(Some(patched)),
        Err(error) if error.is_not_found() || error.is_invalid() || error.is_conflict() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    fn pod(name: &str, app: &str, deleted: bool) -> Arc<Pod> {
        let deleted = deleted.then_some("2020-01-01T00:00:00Z");
        let meta = json!({"name": name, "labels": {"app": app}, "deletionTimestamp": deleted});
        Arc::new(serde_json::from_value(json!({ "metadata": meta })).expect("pod"))
    }

    #[test]
    fn claims() {
        let check = |leaving: bool, expected: [&str; 3]| {
            let owner = ObjectMeta {
                deletion_timestamp: leaving.then_some({
                    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH)
                }),
                ..ObjectMeta::default()
            };
            let selector = Matcher::all_of(Some(&[("app".to_owned(), "a".to_owned())].into()));
            let owned = [
                pod("kept", "a", false),
                pod("changed", "b", false),
                pod("going", "a", true),
            ];
            let orphans = [
                pod("orphan", "a", false),
                pod("other", "b", false),
                pod("dying", "a", true),
            ];
            let claims = claim(&owner, &selector, owned, orphans);
            let names = |list: &[Arc<Pod>]| {
                let names: Vec<_> = list
                    .iter()
                    .map(|p| p.metadata.name.clone().unwrap_or_default())
                    .collect();
                names.join(" ")
            };
            assert_eq!(
                [names(&claims.mine), names(&claims.adopt), names(&claims.release)],
                expected
            );
        };
        check(false, ["kept going", "orphan", "changed"]);
        check(true, ["kept going", "", ""]);
    }
}
