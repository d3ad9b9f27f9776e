//! `CertificateSubjectRestriction`: no client certificate of the group `system:masters` can be asked for.

use super::signers::{GROUP, parse_request};
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::Value;
use machinery::status::ApiError;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub(super) struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        operation == Operation::Create && target.is(GROUP, "certificatesigningrequests")
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let text = |name: &str| {
            object
                .and_then(|of| of.get_str_path(&["spec", name]))
                .unwrap_or_default()
        };
        if text("signerName") != SIGNER {
            return Ok(());
        }
        let subject = parse_request(text("request"))
            .map_err(|why| attributes.forbidden(object, format!("failed to parse CSR: {why}")))?;
        if subject
            .organizations
            .iter()
            .any(|group| group == "system:masters")
        {
            let why = format!("use of {SIGNER} signer with system:masters group is not allowed");
            return Err(attributes.forbidden(object, why));
        }
        Ok(())
    }
}
