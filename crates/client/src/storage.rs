//! Which volume suits which claim: asked by the controller that binds them and by the scheduler.
//!
//! Plain functions of the objects, as upstream's `component-helpers/storage/volume`.

use crate::labels::Matcher;
use crate::node_selector::{Subject, selector_matches};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use machinery::quantity::Quantity;
use std::cmp::Ordering;
use std::sync::Arc;

pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
pub const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The node the scheduler chose, on a claim that waits for its first consumer.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
/// The provisioner of classes whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The class a claim asks for; empty for none.
pub fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    annotation(&claim.metadata, BETA_CLASS)
        .or_else(|| spec.and_then(|s| s.storage_class_name.as_deref()))
        .unwrap_or("")
}

/// Whether a claim says anything about its class, be it that it wants none.
pub fn says_class(claim: &PersistentVolumeClaim) -> bool {
    let spec = claim.spec.as_ref();
    annotation(&claim.metadata, BETA_CLASS).is_some() || spec.is_some_and(|s| s.storage_class_name.is_some())
}

/// The class a volume is of; empty for none.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    annotation(&volume.metadata, BETA_CLASS)
        .or_else(|| spec.and_then(|s| s.storage_class_name.as_deref()))
        .unwrap_or("")
}

/// Whether volumes of the class are bound only when a pod that uses them is scheduled.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// The class of claims that name none: of several the newest, then the first by name.
pub fn default_class(classes: Vec<Arc<StorageClass>>) -> Option<Arc<StorageClass>> {
    let is_default = |c: &Arc<StorageClass>| {
        DEFAULT_CLASS
            .iter()
            .any(|key| annotation(&c.metadata, key) == Some("true"))
    };
    let created = |c: &StorageClass| c.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let newest_first = |a: &Arc<StorageClass>, b: &Arc<StorageClass>| {
        created(b)
            .cmp(&created(a))
            .then_with(|| a.metadata.name.cmp(&b.metadata.name))
    };
    classes.into_iter().filter(is_default).min_by(newest_first)
}

/// What a volume's claim reference names: a claim of this name, and of this uid if it says one.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = claim_ref(volume) else {
        return false;
    };
    let uid = reference.uid.as_deref().unwrap_or("");
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// The volume a claim names.
pub fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    let spec = claim.spec.as_ref()?;
    spec.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether binding is complete from the claim's side.
pub fn is_fully_bound(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_some() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

fn size(text: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>) -> Quantity {
    text.and_then(|q| q.0.parse().ok()).unwrap_or(Quantity::ZERO)
}

pub fn capacity(volume: &PersistentVolume) -> Quantity {
    let spec = volume.spec.as_ref();
    size(
        spec.and_then(|s| s.capacity.as_ref())
            .and_then(|c| c.get("storage")),
    )
}

pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
    size(
        resources
            .and_then(|r| r.requests.as_ref())
            .and_then(|r| r.get("storage")),
    )
}

/// Whether one is a block device and the other a filesystem.
pub fn modes_differ(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_claim = claim.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
    let of_volume = volume.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
    of_claim.unwrap_or("Filesystem") != of_volume.unwrap_or("Filesystem")
}

fn access_modes(volume: &PersistentVolume) -> &[String] {
    let spec = volume.spec.as_ref();
    spec.and_then(|s| s.access_modes.as_deref()).unwrap_or(&[])
}

/// Whether the volume can be accessed in every way the claim asks for.
pub fn access_suffices(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let wanted = claim.spec.as_ref().and_then(|s| s.access_modes.as_deref());
    wanted
        .unwrap_or(&[])
        .iter()
        .all(|mode| access_modes(volume).contains(mode))
}

fn attributes_class(name: Option<&String>) -> &str {
    name.map_or("", String::as_str)
}

fn attributes_differ(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume
        .spec
        .as_ref()
        .and_then(|s| s.volume_attributes_class_name.as_ref());
    let of_claim = claim
        .spec
        .as_ref()
        .and_then(|s| s.volume_attributes_class_name.as_ref());
    attributes_class(of_volume) != attributes_class(of_claim)
}

/// Whether the volume can be reached from a node.
pub fn reachable(volume: &PersistentVolume, node: Subject<'_>) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required.as_ref());
    required.is_none_or(|selector| selector_matches(selector, node))
}

/// Why a claim cannot have the volume it names.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    if volume.metadata.deletion_timestamp.is_some() {
        let name = volume.metadata.name.as_deref().unwrap_or("");
        return Some(format!("the volume is marked for deletion {name:?}"));
    }
    let reason = if capacity(volume).value() < requested(claim).value() {
        "requested PV is too small"
    } else if volume_class(volume) != claim_class(claim) {
        "storageClassName does not match"
    } else if attributes_differ(volume, claim) {
        "volumeAttributesClassName does not match"
    } else if modes_differ(volume, claim) {
        "incompatible volumeMode"
    } else if !access_suffices(volume, claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(reason.to_owned())
}

/// The best volume for a claim: the one meant for it, else of those with the fewest ways of access the smallest.
///
/// `node` is where it must be reachable. Without one, a claim that is to wait for its consumer gets only what is meant
/// for it.
pub fn best_match<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'a Arc<PersistentVolume>>,
    node: Option<Subject<'_>>,
    waits: bool,
    taken: &dyn Fn(&str) -> bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let wanted = requested(claim);
    let class = claim_class(claim);
    let selector = claim.spec.as_ref().and_then(|s| s.selector.as_ref());
    let selector = selector.map(|s| Matcher::of(Some(s)));
    let mut best: Option<(usize, Quantity, &Arc<PersistentVolume>)> = None;
    for volume in volumes {
        let meta = &volume.metadata;
        let meant = is_bound_to(volume, claim);
        if taken(meta.name.as_deref().unwrap_or(""))
            || (claim_ref(volume).is_some() && !meant)
            || capacity(volume) < wanted
            || modes_differ(volume, claim)
            || attributes_differ(volume, claim)
            || meta.deletion_timestamp.is_some()
            || !access_suffices(volume, claim)
        {
            continue;
        }
        let reachable = node.is_none_or(|node| reachable(volume, node));
        if meant {
            return reachable.then_some(volume);
        }
        let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
        if (node.is_none() && waits)
            || phase != Some("Available")
            || selector
                .as_ref()
                .is_some_and(|s| !s.matches(meta.labels.as_ref()))
            || volume_class(volume) != class
            || !reachable
        {
            continue;
        }
        let candidate = (access_modes(volume).len(), capacity(volume), volume);
        let better = best.as_ref().is_none_or(|known| {
            let by_size = candidate.1.partial_cmp(&known.1).unwrap_or(Ordering::Equal);
            candidate.0.cmp(&known.0).then(by_size) == Ordering::Less
        });
        if better {
            best = Some(candidate);
        }
    }
    best.map(|(_, _, volume)| volume)
}

/// The volume as bound to the claim; `None` if it is already.
pub fn bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let mut bound = volume.clone();
    if !is_bound_to(volume, claim) {
        bound
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    let complete = claim_ref(volume).is_some_and(|r| {
        r.name == claim.metadata.name
            && r.namespace == claim.metadata.namespace
            && r.uid == claim.metadata.uid
    });
    if !complete {
        bound.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
            resource_version: claim.metadata.resource_version.clone(),
            ..crate::events::reference(claim)
        });
    }
    (bound != *volume).then_some(bound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, modes: &[&str], more: &Value) -> Arc<PersistentVolume> {
        let mut spec = json!({"capacity": {"storage": size}, "accessModes": modes, "storageClassName": "c"});
        for (key, value) in more.as_object().expect("fields") {
            spec[key] = value.clone();
        }
        let volume = json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(volume).expect("volume"))
    }

    fn claim() -> PersistentVolumeClaim {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "c", "resources": {"requests": {"storage": "5Gi"}}});
        let meta = json!({"name": "x", "namespace": "d", "uid": "u"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("claim")
    }

    #[test]
    fn the_best_match() {
        let none = json!({});
        let check = |volumes: &[Arc<PersistentVolume>], waits: bool, expected: Option<&str>| {
            let found = best_match(&claim(), volumes, None, waits, &|_| false);
            assert_eq!(found.and_then(|v| v.metadata.name.as_deref()), expected);
        };
        let once = ["ReadWriteOnce"];
        let (small, fitting, large) = (
            volume("small", "4Gi", &once, &none),
            volume("fitting", "6Gi", &once, &none),
            volume("large", "9Gi", &once, &none),
        );
        let versatile = volume("versatile", "5Gi", &["ReadWriteOnce", "ReadOnlyMany"], &none);
        let all = [small.clone(), large, versatile.clone(), fitting];
        check(&all, false, Some("fitting"));
        check(&all, true, None);
        check(&[small, versatile], false, Some("versatile"));
        let meant = volume(
            "meant",
            "8Gi",
            &once,
            &json!({"claimRef": {"name": "x", "namespace": "d"}}),
        );
        check(&[all[3].clone(), meant.clone()], true, Some("meant"));
        let other = volume(
            "other",
            "8Gi",
            &once,
            &json!({"claimRef": {"name": "y", "namespace": "d"}}),
        );
        check(&[other], false, None);
        let bound = bound_volume(&meant, &claim()).expect("not yet");
        assert_eq!(
            annotation(&bound.metadata, BOUND_BY_CONTROLLER),
            None,
            "bound by a user"
        );
        assert_eq!(bound_volume(&bound, &claim()), None);
    }
}
