//! What becomes of a volume.

use super::Shell;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::storage::{
    BOUND_BY_CONTROLLER, PROVISIONED_BY, annotation, claim_ref, modes_differ, volume_name,
};
use client::{ObjectKey, Outcome};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, PostParams};
use std::sync::Arc;

/// How a volume stands with the claim it is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nobody's, or promised to a claim that does not exist yet.
    Free,
    /// Its claim has not been told.
    Claiming,
    /// Its claim cannot take it.
    Unfit,
    Bound,
    /// Its claim is gone.
    Released,
    /// Its claim has another volume, and this one can be given back.
    Refused,
}

fn standing(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Standing {
    let uid = claim_ref(volume).and_then(|r| r.uid.as_deref()).unwrap_or("");
    if uid.is_empty() {
        return Standing::Free;
    }
    let Some(claim) = claim.filter(|c| c.metadata.uid.as_deref() == Some(uid)) else {
        return Standing::Released;
    };
    match volume_name(claim) {
        None if modes_differ(volume, claim) => Standing::Unfit,
        None => Standing::Claiming,
        Some(name) if Some(name) == volume.metadata.name.as_deref() => Standing::Bound,
        Some(_) => {
            let made = annotation(&volume.metadata, PROVISIONED_BY).is_some();
            if made && policy(volume) == "Delete" {
                Standing::Released
            } else {
                Standing::Refused
            }
        }
    }
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|s| s.persistent_volume_reclaim_policy.as_deref())
        .unwrap_or("Retain")
}

fn phase(volume: &PersistentVolume) -> &str {
    let status = volume.status.as_ref();
    status.and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// Why a released volume fails to be reclaimed; `None` when it is left or somebody else's to delete.
fn failure(volume: &PersistentVolume) -> Option<(&'static str, String)> {
    let name = volume.metadata.name.as_deref().unwrap_or("");
    match policy(volume) {
        "Retain" => None,
        "Recycle" => Some((
            "VolumeFailedRecycle",
            "No recycler plugin found for the volume!".to_owned(),
        )),
        "Delete" if annotation(&volume.metadata, PROVISIONED_BY).is_some() => None,
        "Delete" => Some((
            "VolumeFailedDelete",
            format!(
                "error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched"
            ),
        )),
        _ => Some((
            "VolumeUnknownReclaimPolicy",
            "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned(),
        )),
    }
}

impl Shell {
    pub(super) async fn reconcile_volume(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(volume) = self.volumes.get(key) else {
            return Ok(Outcome::Done);
        };
        let claim = self.claim_of(&volume).await?;
        match standing(&volume, claim.as_deref()) {
            Standing::Free => {
                self.write_phase(&volume, "Available", "").await?;
            }
            Standing::Bound => {
                self.write_phase(&volume, "Bound", "").await?;
            }
            Standing::Claiming => {
                if let Some(claim) = claim {
                    self.claim_queue.add(ObjectKey::of(&*claim));
                }
            }
            Standing::Unfit => self.report_unfit(&volume, claim.as_deref()),
            Standing::Released => self.reclaim(volume).await?,
            Standing::Refused => self.give_back(&volume).await?,
        }
        Ok(Outcome::Done)
    }

    /// The claim a volume is bound to, asked of the server before its absence is believed.
    async fn claim_of(
        &self,
        volume: &PersistentVolume,
    ) -> Result<Option<Arc<PersistentVolumeClaim>>, kube::Error> {
        let Some(reference) = claim_ref(volume).filter(|r| r.uid.is_some()) else {
            return Ok(None);
        };
        let namespace = reference.namespace.as_deref().unwrap_or("");
        let name = reference.name.as_deref().unwrap_or("");
        let known = self.claims.find(namespace, name);
        let is_it = known.as_ref().is_some_and(|c| c.metadata.uid == reference.uid);
        if is_it || matches!(phase(volume), "Released" | "Failed") {
            return Ok(known);
        }
        let api = Api::<PersistentVolumeClaim>::namespaced(self.context.client.clone(), namespace);
        Ok(api.get_opt(name).await?.map(Arc::new))
    }

    fn report_unfit(&self, volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) {
        let Some(claim) = claim else { return };
        let claim_name = claim.metadata.name.as_deref().unwrap_or("");
        let message = format!(
            "Cannot bind PersistentVolume to requested PersistentVolumeClaim {claim_name:?} due to incompatible \
             volumeMode."
        );
        self.context
            .recorder
            .warning(&reference(volume), "VolumeMismatch", message);
        let name = volume.metadata.name.as_deref().unwrap_or("");
        let message = format!(
            "Cannot bind PersistentVolume {name:?} to requested PersistentVolumeClaim due to incompatible volumeMode."
        );
        self.context
            .recorder
            .warning(&reference(claim), "VolumeMismatch", message);
    }

    async fn reclaim(&self, volume: Arc<PersistentVolume>) -> Result<(), kube::Error> {
        let mut volume = volume;
        if !matches!(phase(&volume), "Released" | "Failed") {
            volume = self.write_phase(&volume, "Released", "").await?;
        }
        let Some((reason, message)) = failure(&volume) else {
            return Ok(());
        };
        let known = volume.status.as_ref().and_then(|s| s.message.as_deref());
        if phase(&volume) != "Failed" || known != Some(message.as_str()) {
            let failed = self.write_phase(&volume, "Failed", &message).await?;
            self.context
                .recorder
                .warning(&reference(&*failed), reason, message);
        }
        Ok(())
    }

    /// Takes back what binding wrote: the claim has another volume.
    async fn give_back(&self, volume: &PersistentVolume) -> Result<(), kube::Error> {
        let mut free = volume.clone();
        let spec = free.spec.get_or_insert_default();
        if annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some() {
            spec.claim_ref = None;
            if let Some(annotations) = &mut free.metadata.annotations {
                annotations.remove(BOUND_BY_CONTROLLER);
            }
        } else if let Some(reference) = &mut spec.claim_ref {
            reference.uid = None;
        }
        let name = free.metadata.name.clone().unwrap_or_default();
        let api = Api::<PersistentVolume>::all(self.context.client.clone());
        let written = api.replace(&name, &PostParams::default(), &free).await?;
        self.volumes.written(written.clone());
        self.write_phase(&Arc::new(written), "Available", "").await?;
        Ok(())
    }

    /// The volume with this phase.
    pub(super) async fn write_phase(
        &self,
        volume: &Arc<PersistentVolume>,
        phase: &str,
        message: &str,
    ) -> Result<Arc<PersistentVolume>, kube::Error> {
        let mut status = volume.status.clone().unwrap_or_default();
        let message = Some(message.to_owned()).filter(|m| !m.is_empty());
        if status.phase.as_deref() == Some(phase) && status.message == message {
            return Ok(Arc::clone(volume));
        }
        if status.phase.as_deref() != Some(phase) {
            status.last_phase_transition_time = Some(Time(self.context.now()));
        }
        status.phase = Some(phase.to_owned());
        status.message = message;
        let mut written = (**volume).clone();
        written.status = Some(status);
        let name = written.metadata.name.clone().unwrap_or_default();
        let api = Api::<PersistentVolume>::all(self.context.client.clone());
        match api.replace_status(&name, &PostParams::default(), &written).await {
            Ok(written) => {
                self.volumes.written(written.clone());
                Ok(Arc::new(written))
            }
            Err(error) if error.is_not_found() => Ok(Arc::clone(volume)),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn standings() {
        let check = |reference: Value, claim: Option<Value>, made: bool, expected: Standing| {
            let annotations = if made {
                json!({PROVISIONED_BY: "x"})
            } else {
                json!({})
            };
            let policy = if made { "Delete" } else { "Retain" };
            let volume: PersistentVolume = serde_json::from_value(json!({
                "metadata": {"name": "v", "annotations": annotations},
                "spec": {"claimRef": reference, "persistentVolumeReclaimPolicy": policy}}))
            .expect("volume");
            let claim: Option<PersistentVolumeClaim> = claim.map(|spec| {
                serde_json::from_value(json!({"metadata": {"name": "c", "uid": "u"}, "spec": spec}))
                    .expect("claim")
            });
            assert_eq!(standing(&volume, claim.as_ref()), expected);
        };
        let mine = json!({"name": "c", "namespace": "d", "uid": "u"});
        check(Value::Null, None, false, Standing::Free);
        check(
            json!({"name": "c", "namespace": "d"}),
            None,
            false,
            Standing::Free,
        );
        check(mine.clone(), None, false, Standing::Released);
        check(mine.clone(), Some(json!({})), false, Standing::Claiming);
        check(
            mine.clone(),
            Some(json!({"volumeMode": "Block"})),
            false,
            Standing::Unfit,
        );
        check(
            mine.clone(),
            Some(json!({"volumeName": "v"})),
            false,
            Standing::Bound,
        );
        check(
            mine.clone(),
            Some(json!({"volumeName": "w"})),
            false,
            Standing::Refused,
        );
        check(mine, Some(json!({"volumeName": "w"})), true, Standing::Released);
    }
}
