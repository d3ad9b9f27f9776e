//! `CertificateSubjectRestriction`: no client certificate of the group `system:masters` can be asked for.

use super::signers::GROUP;
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::Value;
use machinery::status::ApiError;
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

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
        let groups = organizations(text("request"))
            .map_err(|why| attributes.forbidden(object, format!("failed to parse CSR: {why}")))?;
        if groups.iter().any(|group| group == "system:masters") {
            let why = format!("use of {SIGNER} signer with system:masters group is not allowed");
            return Err(attributes.forbidden(object, why));
        }
        Ok(())
    }
}

/// The organizations in the subject of a request, as it stands in the object: PEM, in base64.
fn organizations(request: &str) -> Result<Vec<String>, String> {
    let pem = STANDARD.decode(request).map_err(|error| error.to_string())?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).map_err(|error| error.to_string())?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    }
    let (_, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|error| error.to_string())?;
    let subject = &request.certification_request_info.subject;
    Ok(subject
        .iter_organization()
        .filter_map(|name| name.as_str().ok())
        .map(str::to_owned)
        .collect())
}
