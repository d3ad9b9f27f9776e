//! Whether a user may act for a signer, and what a signing request asks for: what the certificate plugins share.

use crate::authorization::{Attributes, Authorizer, Decision};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::user::UserInfo;
use std::sync::{Arc, OnceLock};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

pub(super) const GROUP: &str = "certificates.k8s.io";

/// The server's authorizer, once it has started.
#[derive(Default)]
pub(super) struct Signers(OnceLock<Arc<dyn Authorizer>>);

impl Signers {
    pub(super) fn bind(&self, authorizer: Arc<dyn Authorizer>) {
        self.0.get_or_init(|| authorizer);
    }

    /// Whether the user may `verb` for the signer, by its name or by its domain.
    pub(super) async fn allow(&self, user: &UserInfo, verb: &str, signer: &str) -> bool {
        let Some(authorizer) = self.0.get() else {
            return false;
        };
        let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
        for name in [signer, &domain] {
            let attributes = Attributes {
                name,
                ..Attributes::resource(user, verb, GROUP, "signers")
            };
            if authorizer.authorize(&attributes).await == Decision::Allow {
                return true;
            }
        }
        false
    }
}

/// Whom a certificate is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
}

/// Reads a signing request as it stands in the object: PEM, in base64.
pub(super) fn parse_request(request: &str) -> Result<Subject, String> {
    let pem = STANDARD.decode(request).map_err(|error| error.to_string())?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).map_err(|error| error.to_string())?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    }
    let (_, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|error| error.to_string())?;
    let subject = &request.certification_request_info.subject;
    let texts = |names: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| {
        names
            .filter_map(|name| name.as_str().ok())
            .map(str::to_owned)
            .collect::<Vec<String>>()
    };
    Ok(Subject {
        common_name: texts(&mut subject.iter_common_name()).pop().unwrap_or_default(),
        organizations: texts(&mut subject.iter_organization()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Ask, object};
    use machinery::user::UserInfo;

    #[test]
    fn only_who_may_act_for_a_signer_does() {
        let old = r#"{"metadata":{"name":"c"},"spec":{"signerName":"a.b/c"}}"#;
        let check = |plugin: &dyn super::super::Plugin, subresource: &str, group: &str| {
            let ask = Ask {
                subresource,
                user: UserInfo::authenticated("jane", &[group]),
                ..Ask::update((super::GROUP, "certificatesigningrequests", ""), old)
            };
            let mut new = object(old);
            new.set_path(&["status", "certificate"], "x");
            ask.of(plugin, Vec::new(), &mut new)
                .map_err(|error| error.message)
        };
        let approval = super::super::certificate_approval::CertificateApproval::default;
        let signing = super::super::certificate_signing::CertificateSigning::default;
        assert_eq!(check(&approval(), "approval", "system:masters"), Ok(()));
        assert_eq!(check(&approval(), "status", "x"), Ok(()));
        assert_eq!(
            check(&approval(), "approval", "x").unwrap_err(),
            r#"certificatesigningrequests.certificates.k8s.io "c" is forbidden: user not permitted to approve requests with signerName "a.b/c""#
        );
        assert_eq!(check(&signing(), "status", "system:masters"), Ok(()));
        assert!(
            check(&signing(), "status", "x")
                .unwrap_err()
                .contains("not permitted to sign")
        );
    }
}
