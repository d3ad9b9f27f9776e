//! `CertificateApproval`: only who may approve for a signer approves requests to it.
//!
//! The signer asked about is that of the stored request: an update must not choose its own judge.

use super::signers::{GROUP, Signers};
use crate::admission::{Attributes, Operation, Plugin, Target};
use crate::authorization::Authorizer;
use async_trait::async_trait;
use machinery::Value;
use machinery::status::ApiError;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct CertificateApproval {
    signers: Signers,
}

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        operation == Operation::Update
            && target.group == GROUP
            && target.resource == "certificatesigningrequests"
            && target.subresource == "approval"
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let signer = attributes
            .old
            .and_then(|of| of.get_str_path(&["spec", "signerName"]))
            .unwrap_or_default();

        if self.signers.allow(attributes.user, "approve", signer).await {
            return Ok(());
        }
        Err(attributes.forbidden(
            object,
            format!("user not permitted to approve requests with signerName {signer:?}"),
        ))
    }

    fn bind_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.signers.bind(authorizer);
    }
}
