//! `StorageObjectInUseProtection`: volumes and claims are made with the finalizer that keeps them while they are used.

use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::status::ApiError;
use machinery::{Value, meta};

pub(super) struct StorageObjectInUseProtection;

fn finalizer(target: &Target<'_>) -> Option<&'static str> {
    if target.is("", "persistentvolumes") {
        Some("kubernetes.io/pv-protection")
    } else if target.is("", "persistentvolumeclaims") {
        Some("kubernetes.io/pvc-protection")
    } else if target.is("storage.k8s.io", "volumeattributesclasses") {
        Some("kubernetes.io/vac-protection")
    } else {
        None
    }
}

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        operation == Operation::Create && finalizer(target).is_some()
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        let (Some(object), Some(added)) = (object, finalizer(&attributes.target)) else {
            return Ok(());
        };
        let mut finalizers: Vec<String> = meta::finalizers(object).map(str::to_owned).collect();
        if !finalizers.iter().any(|finalizer| finalizer == added) {
            finalizers.push(added.to_owned());
            meta::set_finalizers(object, finalizers.iter().map(String::as_str));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{create, object};
    use super::*;

    #[test]
    fn claims_are_kept_while_used() {
        let mut claim = object(r#"{"metadata":{"finalizers":["a"]}}"#);
        let target = ("", "persistentvolumeclaims", "ns");
        for _ in 0..2 {
            create(&StorageObjectInUseProtection, Vec::new(), target, &mut claim).unwrap();
        }
        let finalizers: Vec<&str> = meta::finalizers(&claim).collect();
        assert_eq!(finalizers, ["a", "kubernetes.io/pvc-protection"]);
    }
}
