//! The claims of a pod, and how they stand.

use client::Informer;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{DeviceRequestAllocationResult, ResourceClaim};
use std::sync::Arc;

/// So long devices may take until they can be bound to, as upstream's `bindingTimeout`.
const BIND_WITHIN: SignedDuration = SignedDuration::from_secs(600);

pub(crate) fn entries(pod: &Pod) -> &[PodResourceClaim] {
    let spec = pod.spec.as_ref();
    spec.and_then(|s| s.resource_claims.as_deref()).unwrap_or(&[])
}

/// Every claim of the pod, in the pod's order; the error says what is missing.
pub(crate) fn of(pod: &Pod, claims: &Informer<ResourceClaim>) -> Result<Vec<Arc<ResourceClaim>>, String> {
    let (namespace, name) = (
        pod.metadata.namespace.as_deref().unwrap_or(""),
        pod.metadata.name.as_deref().unwrap_or(""),
    );
    let mut out = Vec::new();
    for entry in entries(pod) {
        let (wanted, generated) = match (&entry.resource_claim_name, &entry.resource_claim_template_name) {
            (Some(wanted), _) => (wanted, false),
            (None, Some(_)) => {
                let statuses = pod
                    .status
                    .as_ref()
                    .and_then(|s| s.resource_claim_statuses.as_ref());
                let status = statuses.into_iter().flatten().find(|s| s.name == entry.name);
                match status.map(|s| &s.resource_claim_name) {
                    Some(Some(wanted)) => (wanted, true),
                    // The template's owner decided that nothing is needed.
                    Some(None) => continue,
                    None => {
                        return Err(format!(
                            "pod \"{namespace}/{name}\": ResourceClaim not created yet"
                        ));
                    }
                }
            }
            (None, None) => {
                return Err(format!(
                    "pod \"{namespace}/{name}\", spec.resourceClaim {:?}: none of the supported fields are set",
                    entry.name
                ));
            }
        };
        let Some(claim) = claims.find(namespace, wanted) else {
            return Err(format!("could not find ResourceClaim \"{namespace}/{wanted}\""));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("resourceclaim {wanted:?} is being deleted"));
        }
        let mut owners = claim.metadata.owner_references.iter().flatten();
        let owned = owners.any(|o| o.controller == Some(true) && Some(&o.uid) == pod.metadata.uid.as_ref());
        if generated && !owned {
            return Err(format!(
                "ResourceClaim {namespace}/{wanted} was not created for Pod {namespace}/{name} (Pod is not owner)"
            ));
        }
        out.push(claim);
    }
    Ok(out)
}

pub(crate) fn uid(claim: &ResourceClaim) -> &str {
    claim.metadata.uid.as_deref().unwrap_or("")
}

pub(crate) fn is_allocated(claim: &ResourceClaim) -> bool {
    claim.status.as_ref().is_some_and(|s| s.allocation.is_some())
}

pub(crate) fn is_reserved(claim: &ResourceClaim, pod: &str) -> bool {
    let mut users = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
    users.any(|user| user.uid == pod)
}

/// Whether nobody but the pod uses the claim.
pub(crate) fn is_free_but_for(claim: &ResourceClaim, pod: &str) -> bool {
    let mut users = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
    users.all(|user| user.uid == pod)
}

/// The devices of a claim that have to be prepared before a pod is bound.
pub(crate) fn conditional(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
    let results = allocation.and_then(|a| a.devices.as_ref()?.results.as_ref());
    let results = results.into_iter().flatten();
    results.filter(|r| r.binding_conditions.as_ref().is_some_and(|c| !c.is_empty()))
}

/// Whether all devices of an allocated claim are prepared; the error says which failed.
pub(crate) fn is_ready(claim: &ResourceClaim) -> Result<bool, String> {
    let statuses = claim
        .status
        .as_ref()
        .and_then(|s| s.devices.as_deref())
        .unwrap_or(&[]);
    for result in conditional(claim) {
        let status = statuses
            .iter()
            .find(|s| s.device == result.device && s.driver == result.driver && s.pool == result.pool);
        let Some(status) = status else {
            return Ok(false);
        };
        let conditions = status.conditions.as_deref().unwrap_or(&[]);
        let holding = |kind: &str| conditions.iter().find(|c| c.type_ == kind && c.status == "True");
        let failures = result.binding_failure_conditions.iter().flatten();
        if let Some(failed) = failures.filter_map(|kind| holding(kind)).next() {
            return Err(format!(
                "device binding failed: claim={}, reason={}, message={:?}",
                claim.metadata.name.as_deref().unwrap_or(""),
                failed.reason,
                failed.message
            ));
        }
        let mut wanted = result.binding_conditions.iter().flatten();
        if !wanted.all(|kind| holding(kind).is_some()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When devices that are not prepared by then count as failed; `None` if there is nothing to wait for.
pub(crate) fn prepared_by(claim: &ResourceClaim) -> Option<Timestamp> {
    conditional(claim).next()?;
    let allocation = claim.status.as_ref()?.allocation.as_ref()?;
    let since = allocation.allocation_timestamp.as_ref()?;
    since.0.checked_add(BIND_WITHIN).ok()
}
