//! What makes a stateful pod itself: its number, its name, its labels, its claims.

use crate::history::REVISION_LABEL;
use crate::owner::controller_ref;
use crate::pods::from_template;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The number at the end of a pod's name, if the rest is the set's.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, number) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
    let number: i32 = number.parse().ok()?;
    (set.metadata.name.as_deref() == Some(parent) && number >= 0).then_some(number)
}

pub(super) fn start(spec: &StatefulSetSpec) -> i32 {
    spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0)
}

/// Whether the number is one the set asks for.
pub(super) fn is_wanted(spec: &StatefulSetSpec, ordinal: i32) -> bool {
    let first = start(spec);
    (first..first + spec.replicas.unwrap_or(1)).contains(&ordinal)
}

pub(super) fn revision(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels
        .and_then(|l| l.get(REVISION_LABEL))
        .map_or("", String::as_str)
}

/// A pod of this number, of this template and revision.
pub(super) fn new_pod(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    template: &PodTemplateSpec,
    revision: &str,
    ordinal: i32,
) -> Pod {
    let name = format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or(""));
    let namespace = set.metadata.namespace.as_deref().unwrap_or("");
    let mut pod = from_template(template, namespace, "", controller_ref(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION_LABEL.to_owned(), revision.to_owned());
    let of = pod.spec.get_or_insert_default();
    of.hostname = Some(name);
    of.subdomain = spec.service_name.clone();
    give_identity(set, &mut pod, ordinal);
    give_storage(set, spec, &mut pod, ordinal);
    pod
}

fn give_identity(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let name = format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or(""));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.to_owned(), name);
    labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
}

fn give_storage(set: &StatefulSet, spec: &StatefulSetSpec, pod: &mut Pod, ordinal: i32) {
    let claims = claims(set, spec, ordinal);
    let volumes = pod.spec.get_or_insert_default().volumes.get_or_insert_default();
    volumes.retain(|v| !claims.iter().any(|(name, _)| *name == v.name));
    volumes.extend(claims.into_iter().map(|(name, claim)| Volume {
        name,
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.metadata.name.unwrap_or_default(),
            read_only: None,
        }),
        ..Volume::default()
    }));
}

/// The pod with its label back, if it lost it.
pub(super) fn repaired(set: &StatefulSet, pod: &Pod) -> Option<Pod> {
    let ordinal = ordinal(set, pod)?;
    let labels = pod.metadata.labels.as_ref();
    if labels.and_then(|l| l.get(NAME_LABEL)) == pod.metadata.name.as_ref() {
        return None;
    }
    let mut pod = pod.clone();
    give_identity(set, &mut pod, ordinal);
    Some(pod)
}

/// The claims of a pod of this number, each with the name of its template.
pub(super) fn claims(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    ordinal: i32,
) -> Vec<(String, PersistentVolumeClaim)> {
    let templates = spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let mut claim = template.clone();
            let of = template.metadata.name.clone().unwrap_or_default();
            let name = format!("{of}-{}-{ordinal}", set.metadata.name.as_deref().unwrap_or(""));
            claim.metadata.name = Some(name);
            claim.metadata.namespace.clone_from(&set.metadata.namespace);
            let labels = claim.metadata.labels.get_or_insert_default();
            labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
            claim.status = None;
            (of, claim)
        })
        .collect()
}

/// Who owns a claim so that it goes when the set's retention policy says so; `None` when that is so already.
/// `pod` is the claim's pod, `condemned` whether the set is too small for it.
pub(super) fn claim_owners(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    pod: &Pod,
    condemned: bool,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let policy = spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |when: Option<&Option<String>>| when.is_some_and(|w| w.as_deref() == Some("Delete"));
    let when_deleted = deletes(policy.map(|p| &p.when_deleted));
    let when_scaled = deletes(policy.map(|p| &p.when_scaled));
    let by_pod = when_scaled && condemned;
    let by_set = when_deleted && !by_pod;
    let owners = claim.metadata.owner_references.clone().unwrap_or_default();
    let is_set = |o: &OwnerReference| o.kind == "StatefulSet" && Some(&o.name) == set.metadata.name.as_ref();
    let is_pod = |o: &OwnerReference| o.kind == "Pod" && Some(&o.name) == pod.metadata.name.as_ref();
    let stale = |o: &OwnerReference| {
        (is_set(o) && Some(&o.uid) != set.metadata.uid.as_ref())
            || (is_pod(o) && Some(&o.uid) != pod.metadata.uid.as_ref())
    };
    let foreign = |o: &OwnerReference| o.controller == Some(true) && !is_set(o) && !is_pod(o);
    // Owners of the same name from an earlier life, or another controller: not ours to touch.
    if owners.iter().any(stale) || ((when_deleted || when_scaled) && owners.iter().any(foreign)) {
        return None;
    }
    let mut wanted: Vec<OwnerReference> = owners
        .iter()
        .filter(|o| !is_set(o) && !is_pod(o))
        .cloned()
        .collect();
    if by_set {
        wanted.push(controller_ref(set));
    }
    if by_pod {
        wanted.push(controller_ref(pod));
    }
    let same = wanted.len() == owners.len() && wanted.iter().all(|w| owners.contains(w));
    (!same).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(scaled: &str, deleted: &str) -> StatefulSet {
        let claim = json!({"metadata": {"name": "data"}, "spec": {}});
        let policy = json!({"whenScaled": scaled, "whenDeleted": deleted});
        let spec = json!({"serviceName": "svc", "selector": {"matchLabels": {"app": "a"}}, "template": {},
            "volumeClaimTemplates": [claim], "persistentVolumeClaimRetentionPolicy": policy});
        serde_json::from_value(
            json!({"metadata": {"name": "db", "namespace": "d", "uid": "s"}, "spec": spec}),
        )
        .expect("set")
    }

    #[test]
    fn a_pod_is_itself() {
        let set = set("Retain", "Retain");
        let spec = set.spec.clone().expect("spec");
        let pod = new_pod(&set, &spec, &PodTemplateSpec::default(), "r1", 3);
        assert_eq!(pod.metadata.name.as_deref(), Some("db-3"));
        assert_eq!((ordinal(&set, &pod), revision(&pod)), (Some(3), "r1"));
        let of = pod.spec.clone().expect("spec");
        assert_eq!(
            (of.hostname.as_deref(), of.subdomain.as_deref()),
            (Some("db-3"), Some("svc"))
        );
        let volume = &of.volumes.expect("volumes")[0];
        assert_eq!(
            volume
                .persistent_volume_claim
                .as_ref()
                .map(|c| c.claim_name.as_str()),
            Some("data-db-3")
        );
        assert!(repaired(&set, &pod).is_none());
        let mut lost = pod;
        lost.metadata.labels = None;
        assert!(repaired(&set, &lost).is_some());
    }

    #[test]
    fn claims_are_owned_by_policy() {
        let check = |scaled: &str, deleted: &str, condemned: bool, expected: &[&str]| {
            let set = set(scaled, deleted);
            let spec = set.spec.clone().expect("spec");
            let mut pod = new_pod(&set, &spec, &PodTemplateSpec::default(), "r1", 0);
            pod.metadata.uid = Some("p".to_owned());
            let claim = claims(&set, &spec, 0).remove(0).1;
            let owners = claim_owners(&set, &spec, &pod, condemned, &claim).unwrap_or_default();
            let uids: Vec<_> = owners.iter().map(|o| o.uid.as_str()).collect();
            assert_eq!(uids, expected, "{scaled} {deleted} {condemned}");
        };
        check("Retain", "Retain", true, &[]);
        check("Retain", "Delete", false, &["s"]);
        check("Retain", "Delete", true, &["s"]);
        check("Delete", "Retain", false, &[]);
        check("Delete", "Retain", true, &["p"]);
        check("Delete", "Delete", false, &["s"]);
        check("Delete", "Delete", true, &["p"]);
    }
}
