//! What becomes of a claim.

use super::{SAY_AGAIN, Shell};
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::storage::{
    BETA_PROVISIONER, BIND_COMPLETED, BOUND_BY_CONTROLLER, NO_PROVISIONER, PROVISIONER, SELECTED_NODE,
    annotation, best_match, bound_volume, claim_class, claim_ref, default_class, is_bound_to, mismatch,
    says_class, volume_name, waits_for_consumer,
};
use client::{ObjectKey, Outcome};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::sync::Arc;

const PRE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

/// What to do with a claim.
#[derive(Debug, PartialEq)]
enum Verdict {
    Bind(Arc<PersistentVolume>),
    /// It stays pending, and why.
    Wait(Option<Word>),
    /// It is of this class from now on.
    Classify(String),
    /// An external provisioner of this name is to make a volume.
    Provision(String),
    /// Its volume is gone or another's.
    Lost(Word),
}

#[derive(Debug, PartialEq)]
struct Word {
    warning: bool,
    reason: &'static str,
    message: String,
}

impl Word {
    fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason,
            message: message.into(),
        }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            reason,
            message: message.into(),
        }
    }
}

impl Shell {
    pub(super) async fn reconcile_claim(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(claim) = self.claims.get(key) else {
            return Ok(Outcome::Done);
        };
        let verdict = if annotation(&claim.metadata, BIND_COMPLETED).is_some() {
            match judge_bound(&claim, |name| self.volumes.find("", name)) {
                Some(verdict) => verdict,
                None => return Ok(Outcome::Done),
            }
        } else {
            self.judge_unbound(&claim)
        };
        match verdict {
            Verdict::Bind(volume) => self.bind(&volume, &claim).await,
            Verdict::Wait(word) => {
                let again = word.is_some();
                self.say(&claim, word);
                self.write_status(&claim, status(&claim, "Pending", None)).await?;
                Ok(if again {
                    Outcome::After(SAY_AGAIN)
                } else {
                    Outcome::Done
                })
            }
            Verdict::Classify(class) => {
                self.patch(&claim, &json!({"spec": {"storageClassName": class}}))
                    .await
            }
            Verdict::Provision(name) => self.provision(&claim, &name).await,
            Verdict::Lost(word) => {
                if self.write_status(&claim, status(&claim, "Lost", None)).await? {
                    self.say(&claim, Some(word));
                }
                Ok(Outcome::Done)
            }
        }
    }

    fn say(&self, claim: &PersistentVolumeClaim, word: Option<Word>) {
        let recorder = &self.context.recorder;
        match word {
            Some(word) if word.warning => recorder.warning(&reference(claim), word.reason, word.message),
            Some(word) => recorder.normal(&reference(claim), word.reason, word.message),
            None => {}
        }
    }

    fn judge_unbound(&self, claim: &PersistentVolumeClaim) -> Verdict {
        if let Some(name) = volume_name(claim) {
            return judge_named(claim, self.volumes.find("", name));
        }
        let class = self.classes.find("", claim_class(claim));
        let waits = class.as_ref().is_some_and(|c| waits_for_consumer(c));
        let volumes = self.volumes.list();
        if let Some(volume) = best_match(claim, &volumes, None, waits, &|_| false) {
            return Verdict::Bind(Arc::clone(volume));
        }
        if !says_class(claim)
            && let Some(class) = default_class(self.classes.list())
        {
            return Verdict::Classify(class.metadata.name.clone().unwrap_or_default());
        }
        let selected = annotation(&claim.metadata, SELECTED_NODE).is_some();
        if waits && !selected {
            return Verdict::Wait(Some(self.word_of_consumers(claim)));
        }
        provisioner(claim, class.as_deref())
    }

    fn word_of_consumers(&self, claim: &PersistentVolumeClaim) -> Word {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or("");
        let waits = |pod: &Arc<Pod>| {
            let spec = pod.spec.as_ref();
            let unscheduled = spec.is_some_and(|s| s.node_name.as_deref().unwrap_or("").is_empty());
            let volumes = spec.and_then(|s| s.volumes.as_ref()).into_iter().flatten();
            let mut claims = volumes.filter_map(|v| v.persistent_volume_claim.as_ref());
            unscheduled && claims.any(|c| Some(&c.claim_name) == claim.metadata.name.as_ref())
        };
        let pods = self.pods_by_namespace.get(namespace);
        let mut names: Vec<String> = pods
            .iter()
            .filter(|p| waits(p))
            .filter_map(|p| p.metadata.name.clone())
            .collect();
        names.sort();
        match names.as_slice() {
            [] => Word::normal(
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding",
            ),
            [one] => Word::normal(
                "WaitForPodScheduled",
                format!("waiting for pod {one} to be scheduled"),
            ),
            many => Word::normal(
                "WaitForPodScheduled",
                format!("waiting for pods {} to be scheduled", many.join(",")),
            ),
        }
    }

    /// Writes the volume, its phase, the claim, its phase: each only where it is not so already.
    async fn bind(
        &self,
        volume: &Arc<PersistentVolume>,
        claim: &Arc<PersistentVolumeClaim>,
    ) -> Result<Outcome, kube::Error> {
        let mut volume = Arc::clone(volume);
        if let Some(bound) = bound_volume(&volume, claim) {
            let name = bound.metadata.name.clone().unwrap_or_default();
            let api = Api::<PersistentVolume>::all(self.context.client.clone());
            let written = api.replace(&name, &PostParams::default(), &bound).await?;
            self.volumes.written(written.clone());
            volume = Arc::new(written);
        }
        let volume = self.write_phase(&volume, "Bound", "").await?;
        let mut claim = Arc::clone(claim);
        let mut bound = (*claim).clone();
        let annotations = bound.metadata.annotations.get_or_insert_default();
        if volume_name(&claim) != volume.metadata.name.as_deref() {
            annotations
                .entry(BOUND_BY_CONTROLLER.to_owned())
                .or_insert_with(|| "yes".to_owned());
            bound.spec.get_or_insert_default().volume_name = volume.metadata.name.clone();
        }
        bound
            .metadata
            .annotations
            .get_or_insert_default()
            .entry(BIND_COMPLETED.to_owned())
            .or_insert_with(|| "yes".to_owned());
        if bound != *claim {
            let key = ObjectKey::of(&bound);
            let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), &key.namespace);
            let written = api.replace(&key.name, &PostParams::default(), &bound).await?;
            self.claims.written(written.clone());
            claim = Arc::new(written);
        }
        self.write_status(&claim, status(&claim, "Bound", Some(&volume)))
            .await?;
        Ok(Outcome::Done)
    }

    async fn provision(&self, claim: &PersistentVolumeClaim, name: &str) -> Result<Outcome, kube::Error> {
        if annotation(&claim.metadata, PROVISIONER) != Some(name) {
            self.patch(
                claim,
                &json!({"metadata": {"annotations": {PROVISIONER: name, BETA_PROVISIONER: name}}}),
            )
            .await?;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{name}' or manually by the system \
             administrator. If volume creation is delayed, please verify that the provisioner is running and \
             correctly registered."
        );
        self.say(claim, Some(Word::normal("ExternalProvisioning", message)));
        Ok(Outcome::After(SAY_AGAIN))
    }

    async fn patch(
        &self,
        claim: &PersistentVolumeClaim,
        patch: &serde_json::Value,
    ) -> Result<Outcome, kube::Error> {
        let key = ObjectKey::of(claim);
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), &key.namespace);
        let mut patch = patch.clone();
        patch["metadata"]["uid"] = json!(claim.metadata.uid);
        match api
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Ok(written) => self.claims.written(written),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(Outcome::Done)
    }

    /// Whether the phase changed.
    async fn write_status(
        &self,
        claim: &PersistentVolumeClaim,
        status: PersistentVolumeClaimStatus,
    ) -> Result<bool, kube::Error> {
        let old = claim.status.clone().unwrap_or_default();
        if old == status {
            return Ok(false);
        }
        let turned = old.phase != status.phase;
        let key = ObjectKey::of(claim);
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), &key.namespace);
        let mut written = claim.clone();
        written.status = Some(status);
        match api
            .replace_status(&key.name, &PostParams::default(), &written)
            .await
        {
            Ok(written) => self.claims.written(written),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(turned)
    }
}

/// A claim whose binding is complete; `None` if all is well.
fn judge_bound(
    claim: &PersistentVolumeClaim,
    find: impl Fn(&str) -> Option<Arc<PersistentVolume>>,
) -> Option<Verdict> {
    let lost = |message: &str| Some(Verdict::Lost(Word::warning("ClaimLost", message)));
    let Some(name) = volume_name(claim) else {
        return lost("Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    };
    let Some(volume) = find(name) else {
        return lost("Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    match claim_ref(&volume) {
        Some(reference) if reference.uid != claim.metadata.uid => Some(Verdict::Lost(Word::warning(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        ))),
        _ => Some(Verdict::Bind(volume)),
    }
}

/// A claim that names its volume and is not bound to it yet.
fn judge_named(claim: &PersistentVolumeClaim, volume: Option<Arc<PersistentVolume>>) -> Verdict {
    let Some(volume) = volume else {
        return Verdict::Wait(None);
    };
    let name = volume.metadata.name.as_deref().unwrap_or("");
    if claim_ref(&volume).is_none() {
        return match mismatch(&volume, claim) {
            Some(reason) => Verdict::Wait(Some(Word::warning(
                "VolumeMismatch",
                format!("Cannot bind to requested volume {name:?}: {reason}"),
            ))),
            None => Verdict::Bind(volume),
        };
    }
    if is_bound_to(&volume, claim) {
        return Verdict::Bind(volume);
    }
    Verdict::Wait(Some(Word::warning(
        "FailedBinding",
        format!("volume {name:?} already bound to a different claim."),
    )))
}

/// Who makes a volume for a claim that nothing there suits.
fn provisioner(claim: &PersistentVolumeClaim, class: Option<&StorageClass>) -> Verdict {
    let name = claim_class(claim);
    if name.is_empty() {
        return Verdict::Wait(Some(Word::normal(
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        )));
    }
    match class {
        None => Verdict::Wait(Some(Word::warning(
            "ProvisioningFailed",
            format!("storageclass.storage.k8s.io {name:?} not found"),
        ))),
        Some(class) if class.provisioner == NO_PROVISIONER => Verdict::Wait(None),
        Some(class) => Verdict::Provision(class.provisioner.clone()),
    }
}

fn status(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> PersistentVolumeClaimStatus {
    let mut status = claim.status.clone().unwrap_or_default();
    let turns = status.phase.as_deref() != Some(phase);
    let was_pending = matches!(status.phase.as_deref(), None | Some("Pending"));
    status.phase = Some(phase.to_owned());
    let Some(volume) = volume else {
        status.access_modes = None;
        status.capacity = None;
        status.current_volume_attributes_class_name = None;
        return status;
    };
    let spec = volume.spec.clone().unwrap_or_default();
    status.access_modes = spec.access_modes;
    // Once bound, the size is the resizer's to write.
    if turns {
        let before = annotation(&volume.metadata, PRE_RESIZE);
        status.capacity = match before {
            Some(size) => Some(
                [(
                    "storage".to_owned(),
                    k8s_openapi::apimachinery::pkg::api::resource::Quantity(size.to_owned()),
                )]
                .into(),
            ),
            None => spec.capacity,
        };
        if was_pending {
            status.current_volume_attributes_class_name = spec.volume_attributes_class_name;
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn claim(spec: &Value, annotations: &Value) -> PersistentVolumeClaim {
        let meta = json!({"name": "x", "namespace": "d", "uid": "u", "annotations": annotations});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("claim")
    }

    fn volume(claim_ref: &Value) -> Arc<PersistentVolume> {
        let spec = json!({"capacity": {"storage": "1Gi"}, "claimRef": claim_ref});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).expect("volume"))
    }

    fn reason(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Wait(Some(word)) | Verdict::Lost(word) => word.reason,
            Verdict::Wait(None) => "wait",
            Verdict::Bind(_) => "bind",
            Verdict::Classify(_) => "classify",
            Verdict::Provision(_) => "provision",
        }
    }

    #[test]
    fn bound_claims() {
        let check = |spec: Value, found: Option<Arc<PersistentVolume>>, expected: &str| {
            let verdict = judge_bound(&claim(&spec, &json!({})), |_| found.clone()).expect("verdict");
            assert_eq!(reason(&verdict), expected);
        };
        let named = json!({"volumeName": "v"});
        check(json!({}), None, "ClaimLost");
        check(named.clone(), None, "ClaimLost");
        check(
            named.clone(),
            Some(volume(&json!({"name": "x", "namespace": "d", "uid": "other"}))),
            "ClaimMisbound",
        );
        check(
            named,
            Some(volume(&json!({"name": "x", "namespace": "d", "uid": "u"}))),
            "bind",
        );
    }

    #[test]
    fn named_and_unprovided_claims() {
        let named = claim(
            &json!({"volumeName": "v", "resources": {"requests": {"storage": "2Gi"}}}),
            &json!({}),
        );
        assert_eq!(reason(&judge_named(&named, None)), "wait");
        assert_eq!(
            reason(&judge_named(&named, Some(volume(&Value::Null)))),
            "VolumeMismatch"
        );
        let others = volume(&json!({"name": "y", "namespace": "d", "uid": "z"}));
        assert_eq!(reason(&judge_named(&named, Some(others))), "FailedBinding");
        let of_class = claim(&json!({"storageClassName": "c"}), &json!({}));
        let class = |provisioner: &str| {
            serde_json::from_value::<StorageClass>(
                json!({"metadata": {"name": "c"}, "provisioner": provisioner}),
            )
            .expect("class")
        };
        assert_eq!(reason(&provisioner(&named, None)), "FailedBinding");
        assert_eq!(reason(&provisioner(&of_class, None)), "ProvisioningFailed");
        assert_eq!(reason(&provisioner(&of_class, Some(&class("csi")))), "provision");
        assert_eq!(
            reason(&provisioner(&of_class, Some(&class(NO_PROVISIONER)))),
            "wait"
        );
    }
}
