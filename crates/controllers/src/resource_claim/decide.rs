//! What has to be done for a pod's claims, and for a claim whose users come and go.

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

/// The entry of its pod that a generated claim is for.
pub(super) const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// Keeps an allocated claim until it is deallocated.
pub(super) const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Users a claim may have at most.
const USERS_MOST: usize = 256;
/// Leaves room for the end the server makes.
const PREFIX_MOST: usize = 57;

/// Which claim an entry of a pod means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// By name in the specification: the user's own.
    Own(String),
    /// Generated, and remembered in the status.
    Generated(String),
    /// Nothing was needed.
    None,
    /// To be generated.
    NotYet,
}

pub(super) fn named(pod: &Pod, entry: &PodResourceClaim) -> Named {
    if let Some(name) = &entry.resource_claim_name {
        return Named::Own(name.clone());
    }
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.resource_claim_statuses.as_ref());
    let status = statuses.into_iter().flatten().find(|s| s.name == entry.name);
    match status.map(|s| s.resource_claim_name.clone()) {
        Some(Some(name)) => Named::Generated(name),
        Some(None) => Named::None,
        None => Named::NotYet,
    }
}

pub(super) fn entries(pod: &Pod) -> &[PodResourceClaim] {
    let entries = pod.spec.as_ref().and_then(|s| s.resource_claims.as_deref());
    entries.unwrap_or(&[])
}

/// Every claim a pod uses, also the one the scheduler made for its extended resources.
pub(super) fn claims_of(pod: &Pod) -> impl Iterator<Item = String> {
    let named = entries(pod).iter().filter_map(|entry| match named(pod, entry) {
        Named::Own(name) | Named::Generated(name) => Some(name),
        Named::None | Named::NotYet => None,
    });
    let extended = pod
        .status
        .as_ref()
        .and_then(|s| s.extended_resource_claim_status.as_ref());
    named.chain(extended.map(|e| e.resource_claim_name.clone()))
}

pub(super) fn is_for(claim: &ResourceClaim, pod: &Pod) -> bool {
    crate::owner::is_controlled_by(&claim.metadata, pod.metadata.uid.as_deref())
}

/// The claim of an entry, made of its template, and the pod's.
pub(super) fn generate(
    pod: &Pod,
    entry: &PodResourceClaim,
    template: &ResourceClaimTemplate,
) -> ResourceClaim {
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), entry.name.clone());
    let name = pod.metadata.name.clone().unwrap_or_default();
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(prefix(&name, &entry.name)),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name,
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// Both names, each shortened in proportion if they are too long together.
fn prefix(pod: &str, entry: &str) -> String {
    let whole = format!("{pod}-{entry}-");
    if whole.len() <= PREFIX_MOST {
        return whole;
    }
    // Names are ASCII.
    let part = |name: &str| {
        name.get(..name.len() * PREFIX_MOST / whole.len())
            .unwrap_or(name)
            .to_owned()
    };
    format!("{}-{}", part(pod), part(entry))
}

/// The claim that was generated for an entry although the status does not say so yet.
pub(super) fn orphan<'a>(
    mut owned: impl Iterator<Item = &'a ResourceClaim>,
    entry: &PodResourceClaim,
) -> Option<&'a ResourceClaim> {
    let is_for_entry = |claim: &ResourceClaim| {
        let annotations: Option<&BTreeMap<_, _>> = claim.metadata.annotations.as_ref();
        annotations.and_then(|a| a.get(POD_CLAIM)) == Some(&entry.name)
    };
    owned.find(|claim| is_for_entry(claim))
}

/// The claim with the pod among its users; `None` if it is, or cannot be.
pub(super) fn reserved(claim: &ResourceClaim, pod: &Pod) -> Option<ResourceClaim> {
    let status = claim.status.as_ref()?;
    status.allocation.as_ref()?;
    let users = status.reserved_for.as_deref().unwrap_or(&[]);
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    if users.len() >= USERS_MOST || users.iter().any(|user| user.uid == uid) {
        return None;
    }
    let mut claim = claim.clone();
    let user = ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".to_owned(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid,
    };
    claim
        .status
        .as_mut()?
        .reserved_for
        .get_or_insert_default()
        .push(user);
    Some(claim)
}

/// Whether a pod never uses its claims (again).
pub(super) fn is_done(pod: &Pod) -> bool {
    let unplaced = crate::pods::node_name(pod).is_empty();
    crate::pods::is_finished(pod) || crate::pods::is_terminating(pod) && unplaced
}

/// What to do with a claim, given which of its users remain.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Release {
    /// Its status, without the users that are gone; without the allocation, if it was used and is not any more.
    pub(super) status: Option<ResourceClaim>,
    /// It may go as far as the allocation is concerned.
    pub(super) unprotect: bool,
    pub(super) unused: bool,
}

pub(super) fn release(
    claim: &ResourceClaim,
    remains: impl Fn(&ResourceClaimConsumerReference) -> bool,
) -> Release {
    let users = claim
        .status
        .as_ref()
        .and_then(|s| s.reserved_for.as_deref())
        .unwrap_or(&[]);
    let remaining: Vec<_> = users.iter().filter(|u| remains(u)).cloned().collect();
    let unused = remaining.is_empty();
    let protected = claim.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let allocated = claim.status.as_ref().is_some_and(|s| s.allocation.is_some());
    let leaving = claim.metadata.deletion_timestamp.is_some();
    let shrinks = remaining.len() < users.len();
    let deallocates = unused && protected && allocated && (shrinks || leaving);
    let status = (shrinks || deallocates).then(|| {
        let mut claim = claim.clone();
        if let Some(status) = &mut claim.status {
            status.reserved_for = (!remaining.is_empty()).then_some(remaining);
            if deallocates {
                status.allocation = None;
            }
        }
        claim
    });
    Release {
        status,
        unprotect: protected && unused && (shrinks || leaving) && (deallocates || !allocated),
        unused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value, status: Value) -> Pod {
        let pod =
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec, "status": status});
        serde_json::from_value(pod).expect("pod")
    }

    fn claim(meta: Value, status: Value) -> ResourceClaim {
        serde_json::from_value(json!({"metadata": meta, "spec": {}, "status": status})).expect("claim")
    }

    #[test]
    fn entries_have_names() {
        let spec = json!({"containers": [], "resourceClaims": [
            {"name": "own", "resourceClaimName": "mine"}, {"name": "made", "resourceClaimTemplateName": "t"},
            {"name": "needless", "resourceClaimTemplateName": "t"}, {"name": "new", "resourceClaimTemplateName": "t"}]});
        let status = json!({"resourceClaimStatuses": [{"name": "made", "resourceClaimName": "p-made-x"}, {"name": "needless"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "p-extended", "requestMappings": []}});
        let pod = pod(spec, status);
        let all: Vec<Named> = entries(&pod).iter().map(|e| named(&pod, e)).collect();
        let expected = [
            Named::Own("mine".to_owned()),
            Named::Generated("p-made-x".to_owned()),
            Named::None,
            Named::NotYet,
        ];
        assert_eq!(all, expected);
        assert_eq!(
            claims_of(&pod).collect::<Vec<_>>(),
            ["mine", "p-made-x", "p-extended"]
        );
    }

    #[test]
    fn a_claim_is_made_of_its_template() {
        let template = json!({"metadata": {"name": "t"}, "spec": {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
            "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "k"}}]}}}});
        let template: ResourceClaimTemplate = serde_json::from_value(template).expect("template");
        let pod = pod(
            json!({"containers": [], "resourceClaims": [{"name": "e"}]}),
            json!({}),
        );
        let made = generate(&pod, &entries(&pod)[0], &template);
        assert_eq!(made.metadata.generate_name.as_deref(), Some("p-e-"));
        assert!(is_for(&made, &pod));
        let annotations = made.metadata.annotations.clone().expect("annotations");
        assert_eq!(
            (annotations[POD_CLAIM].as_str(), annotations["c"].as_str()),
            ("e", "d")
        );
        assert_eq!(made.spec, template.spec.spec);
        assert_eq!(orphan([&made].into_iter(), &entries(&pod)[0]), Some(&made));
    }

    #[test]
    fn long_names_are_both_shortened() {
        let check = |pod: usize, entry: usize, expected: (usize, usize)| {
            let found = prefix(&"p".repeat(pod), &"e".repeat(entry));
            let count = |c: char| found.chars().filter(|f| *f == c).count();
            assert_eq!((count('p'), count('e')), expected);
            assert!(found.len() <= PREFIX_MOST, "{found}");
        };
        check(10, 10, (10, 10));
        check(50, 50, (27, 27));
        check(60, 5, (51, 4));
    }

    #[test]
    fn a_pod_is_added_to_the_users_of_an_allocated_claim() {
        let pod = pod(json!({"containers": []}), json!({}));
        let check = |status: Value, expected: Option<usize>| {
            let found = reserved(&claim(json!({"name": "c"}), status), &pod);
            let users = found.map(|c| c.status.expect("status").reserved_for.expect("users").len());
            assert_eq!(users, expected);
        };
        let user = |uid: &str| json!({"resource": "pods", "name": "p", "uid": uid});
        check(json!({}), None);
        check(json!({"allocation": {}}), Some(1));
        check(json!({"allocation": {}, "reservedFor": [user("other")]}), Some(2));
        check(json!({"allocation": {}, "reservedFor": [user("u")]}), None);
        let full: Vec<Value> = (0..256).map(|i| user(&i.to_string())).collect();
        check(json!({"allocation": {}, "reservedFor": full}), None);
    }

    #[test]
    fn users_that_are_gone_are_taken_away_and_with_the_last_the_allocation() {
        let user = |name: &str| json!({"resource": "pods", "name": name, "uid": name});
        let check = |meta: Value,
                     status: Value,
                     users: Option<usize>,
                     allocated: bool,
                     unprotect: bool,
                     unused: bool| {
            let claim = claim(meta, status);
            let found = release(&claim, |user| user.name == "stays");
            let after = found.status.as_ref().and_then(|c| c.status.as_ref());
            let count = after.map(|s| s.reserved_for.as_ref().map_or(0, Vec::len));
            assert_eq!(count, users, "{claim:?}");
            if let Some(after) = after {
                assert_eq!(after.allocation.is_some(), allocated, "{claim:?}");
            }
            assert_eq!((found.unprotect, found.unused), (unprotect, unused), "{claim:?}");
        };
        let plain = || json!({"name": "c", "finalizers": [FINALIZER]});
        let leaving =
            || json!({"name": "c", "finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let both = json!({"allocation": {}, "reservedFor": [user("stays"), user("goes")]});
        check(plain(), both, Some(1), true, false, false);
        let last = json!({"allocation": {}, "reservedFor": [user("goes")]});
        check(plain(), last.clone(), Some(0), false, true, true);
        check(json!({"name": "c"}), last, Some(0), true, false, true);
        // Not used yet: a driver may allocate before anybody uses it.
        check(plain(), json!({"allocation": {}}), None, true, false, true);
        check(leaving(), json!({"allocation": {}}), Some(0), false, true, true);
        check(leaving(), json!({}), None, false, true, true);
        check(
            leaving(),
            json!({"allocation": {}, "reservedFor": [user("stays")]}),
            None,
            true,
            false,
            false,
        );
    }
}
