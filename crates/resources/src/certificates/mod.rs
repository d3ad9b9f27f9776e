//! The group `certificates.k8s.io`.

use crate::Entry;

mod certificate_signing_request;
mod request_file;
mod validation;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[(
    "certificates.k8s.io",
    "certificatesigningrequests",
    &certificate_signing_request::CertificateSigningRequest,
)];
