//! `PersistentVolumeClaimResize`: only bound claims whose storage class allows it grow.

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::quantity::Quantity;
use machinery::status::ApiError;
use machinery::{Value, meta};
use std::sync::{Arc, OnceLock};

#[derive(Default)]
pub(super) struct PersistentVolumeClaimResize {
    objects: OnceLock<Arc<dyn Objects>>,
}

impl PersistentVolumeClaimResize {
    async fn may_grow(&self, new: &Value, old: &Value) -> Result<bool, ApiError> {
        let class = class(new);
        let Some(objects) = self.objects.get() else {
            return Ok(false);
        };
        if class.is_empty() || class != self::class(old) {
            return Ok(false);
        }
        let found = objects.get("storage.k8s.io", "storageclasses", "", class).await?;
        Ok(found
            .as_deref()
            .and_then(|class| class.get("allowVolumeExpansion")?.as_bool())
            .unwrap_or(false))
    }
}

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        operation == Operation::Update && target.is("", "persistentvolumeclaims")
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let (Some(new), Some(old)) = (object, attributes.old) else {
            return Ok(());
        };
        if size(new) <= size(old) {
            return Ok(());
        }
        if old.get_str_path(&["status", "phase"]) != Some("Bound") {
            return Err(attributes.forbidden(object, "Only bound persistent volume claims can be expanded"));
        }
        if !self.may_grow(new, old).await? {
            return Err(attributes.forbidden(
                object,
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
                 support resize",
            ));
        }
        Ok(())
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }
}

fn size(claim: &Value) -> Quantity {
    claim
        .get_str_path(&["spec", "resources", "requests", "storage"])
        .and_then(|text| text.parse().ok())
        .unwrap_or(Quantity::ZERO)
}

fn class(claim: &Value) -> &str {
    meta::annotation(claim, "volume.beta.kubernetes.io/storage-class")
        .or_else(|| claim.get_str_path(&["spec", "storageClassName"]))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Ask, object};
    use super::*;

    #[test]
    fn only_bound_claims_of_a_willing_class_grow() {
        let check = |phase: &str, class: &str, size: &str| {
            let claim = |size: &str| {
                format!(
                    r#"{{"metadata":{{"name":"c"}},"spec":{{"storageClassName":"{class}","resources":{{"requests":{{"storage":"{size}"}}}}}},"status":{{"phase":"{phase}"}}}}"#
                )
            };
            let fast = object(r#"{"metadata":{"name":"fast"},"allowVolumeExpansion":true}"#);
            Ask::update(("", "persistentvolumeclaims", ""), &claim("1Gi"))
                .of(
                    &PersistentVolumeClaimResize::default(),
                    vec![("storageclasses", fast)],
                    &mut object(&claim(size)),
                )
                .is_ok()
        };
        assert!(check("Bound", "fast", "2Gi"));
        assert!(check("Pending", "slow", "1Gi"));
        assert!(!check("Pending", "fast", "2Gi"));
        assert!(!check("Bound", "slow", "2Gi"));
    }
}
