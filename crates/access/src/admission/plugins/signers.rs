//! Whether a user may act for a signer: the question the certificate plugins share.

use crate::authorization::{Attributes, Authorizer, Decision};
use machinery::user::UserInfo;
use std::sync::{Arc, OnceLock};

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
