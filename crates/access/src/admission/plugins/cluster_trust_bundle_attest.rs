//! `ClusterTrustBundleAttest`: only who may attest for a signer writes bundles that speak for it.

use super::signers::{GROUP, Signers};
use crate::admission::{Attributes, Operation, Plugin, Target};
use crate::authorization::Authorizer;
use async_trait::async_trait;
use machinery::Value;
use machinery::status::ApiError;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct ClusterTrustBundleAttest {
    signers: Signers,
}

#[async_trait]
impl Plugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && target.group == GROUP
            && target.resource == "clustertrustbundles"
            && target.subresource.is_empty()
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let signer = object
            .and_then(|of| of.get_str_path(&["spec", "signerName"]))
            .unwrap_or_default();
        // Storing the same again is no attestation: garbage collection and storage migration do it.
        let same = |new: &Value, old: &Value| new.get("spec") == old.get("spec");
        if signer.is_empty()
            || object
                .zip(attributes.old)
                .is_some_and(|(new, old)| same(new, old))
        {
            return Ok(());
        }
        if self.signers.allow(attributes.user, "attest", signer).await {
            return Ok(());
        }
        Err(attributes.forbidden(
            object,
            format!("user not permitted to attest for signerName {signer:?}"),
        ))
    }

    fn bind_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.signers.bind(authorizer);
    }
}
