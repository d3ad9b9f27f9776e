//! The group `certificates.k8s.io`.

use crate::Entry;

mod certificate_signing_request;
mod cluster_trust_bundle;
mod request_file;
mod validation;

const GROUP: &str = "certificates.k8s.io";

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[
    (
        GROUP,
        "certificatesigningrequests",
        &certificate_signing_request::CertificateSigningRequest,
    ),
    (
        GROUP,
        "clustertrustbundles",
        &cluster_trust_bundle::ClusterTrustBundle,
    ),
];
