//! `CertificateSigning`: only who may sign for a signer writes certificates into requests to it.

use super::signers::{GROUP, Signers};
use crate::admission::{Attributes, Operation, Plugin, Target};
use crate::authorization::Authorizer;
use async_trait::async_trait;
use machinery::Value;
use machinery::status::ApiError;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct CertificateSigning {
    signers: Signers,
}

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        operation == Operation::Update
            && target.group == GROUP
            && target.resource == "certificatesigningrequests"
            && target.subresource == "status"
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let signer = attributes
            .old
            .and_then(|of| of.get_str_path(&["spec", "signerName"]))
            .unwrap_or_default();
        let field =
            |of: Option<&Value>, name: &str| of.and_then(|of| of.get_path(&["status", name])).cloned();
        if ["certificate", "conditions"]
            .iter()
            .all(|name| field(object, name) == field(attributes.old, name))
        {
            return Ok(());
        }
        if self.signers.allow(attributes.user, "sign", signer).await {
            return Ok(());
        }
        Err(attributes.forbidden(
            object,
            format!("user not permitted to sign requests with signerName {signer:?}"),
        ))
    }

    fn bind_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.signers.bind(authorizer);
    }
}
