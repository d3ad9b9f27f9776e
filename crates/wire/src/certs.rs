//! Certificates: authorities, what they sign, kubeconfigs, and when to renew.
//!
//! Everything is held as PEM text, the form it has on disk; parsing happens where it is used. Keys are ECDSA
//! P-256. A leaf is written as upstream's tools write it: common name is the user, organization the group.
//!
//! **Invariant:** moments come from the caller; nothing here reads a clock.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::IpAddr;
use std::time::Duration;

/// How long authorities live.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
/// How long leafs live.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Clocks of other machines may be this far behind ours.
const BACKDATE: SignedDuration = SignedDuration::from_secs(300);

/// What can go wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error("generating a key")]
    Key(#[source] rcgen::Error),
    #[error("signing the certificate of {subject}")]
    Sign {
        subject: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("reading the {what} of {subject}: {detail}")]
    Parse {
        what: &'static str,
        subject: String,
        detail: String,
    },
}

/// A certificate chain and its private key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// A certificate authority: signs leafs.
pub struct Authority {
    identity: Identity,
    issuer: Issuer<'static, KeyPair>,
}

/// What a leaf certificate says.
#[derive(Debug, Clone, Default)]
pub struct Leaf {
    pub common_name: String,
    /// A client's group; upstream's built-in clients have at most one.
    pub organization: Option<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub server: bool,
    pub client: bool,
}

impl Leaf {
    /// A client certificate for a user in a group.
    pub fn client(user: impl Into<String>, group: Option<&str>) -> Self {
        Self {
            common_name: user.into(),
            organization: group.map(str::to_owned),
            client: true,
            ..Self::default()
        }
    }

    /// A serving certificate.
    pub fn server(name: impl Into<String>, dns_names: Vec<String>, addresses: Vec<IpAddr>) -> Self {
        Self {
            common_name: name.into(),
            dns_names,
            addresses,
            server: true,
            ..Self::default()
        }
    }
}

impl Authority {
    /// A new self-signed authority.
    pub fn generate(common_name: &str, now: Timestamp) -> Result<Self, CertError> {
        let key = KeyPair::generate().map_err(CertError::Key)?;
        let mut params = params(common_name, None, now, AUTHORITY_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        let sign = |source| CertError::Sign {
            subject: common_name.to_owned(),
            source,
        };
        let certificate = params.self_signed(&key).map_err(sign)?;
        let identity = Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        };
        Ok(Self {
            identity,
            issuer: Issuer::new(params, key),
        })
    }

    /// An authority read back from its PEM.
    pub fn load(identity: Identity) -> Result<Self, CertError> {
        let bad = |what, e: rcgen::Error| CertError::Parse {
            what,
            subject: "authority".into(),
            detail: e.to_string(),
        };
        let key = KeyPair::from_pem(&identity.key).map_err(|e| bad("key", e))?;
        let issuer =
            Issuer::from_ca_cert_pem(&identity.certificate, key).map_err(|e| bad("certificate", e))?;
        Ok(Self { identity, issuer })
    }

    /// The certificate and key to keep on disk.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The certificate others verify against, as PEM.
    pub fn certificate(&self) -> &str {
        &self.identity.certificate
    }

    /// A new key with a certificate that says `leaf`.
    pub fn issue(&self, leaf: &Leaf, now: Timestamp) -> Result<Identity, CertError> {
        let key = KeyPair::generate().map_err(CertError::Key)?;
        let params = leaf_params(leaf, now, LEAF_LIFETIME);
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|source| CertError::Sign {
                subject: leaf.common_name.clone(),
                source,
            })?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A certificate for somebody else's key, given its request as PEM; what it says is `leaf`, not what
    /// the request asks for.
    pub fn sign_request(
        &self,
        request_pem: &str,
        leaf: &Leaf,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<String, CertError> {
        let request =
            rcgen::CertificateSigningRequestParams::from_pem(request_pem).map_err(|e| CertError::Parse {
                what: "certificate request",
                subject: leaf.common_name.clone(),
                detail: e.to_string(),
            })?;
        let params = leaf_params(leaf, now, lifetime);
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(|source| CertError::Sign {
                subject: leaf.common_name.clone(),
                source,
            })?;
        Ok(certificate.pem())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// The chain as DER, leaf first.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, CertError> {
        chain_from_pem(&self.certificate)
    }

    /// The private key as DER.
    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>, CertError> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|e| CertError::Parse {
            what: "key",
            subject: "identity".into(),
            detail: e.to_string(),
        })
    }

    /// Whether less than a fifth of the certificate's life is left (or it cannot be read): time for a new one.
    pub fn due_for_renewal(&self, now: Timestamp) -> bool {
        let Some((from, until)) = self.validity() else {
            return true;
        };
        let now = now.as_second();
        now < from || now >= until - (until - from) / 5
    }

    /// Whether the certificate covers all these names; when not, a new one is needed.
    pub fn covers(&self, dns_names: &[String], addresses: &[IpAddr]) -> bool {
        let Ok(chain) = self.chain() else { return false };
        let Some((_, cert)) = chain
            .first()
            .and_then(|der| x509_parser::parse_x509_certificate(der).ok())
        else {
            return false;
        };
        let Ok(Some(names)) = cert.subject_alternative_name() else {
            return dns_names.is_empty() && addresses.is_empty();
        };
        use x509_parser::extensions::GeneralName;
        let dns: Vec<&str> = names
            .value
            .general_names
            .iter()
            .filter_map(|n| {
                if let GeneralName::DNSName(d) = n {
                    Some(*d)
                } else {
                    None
                }
            })
            .collect();
        let ips: Vec<&[u8]> = names
            .value
            .general_names
            .iter()
            .filter_map(|n| {
                if let GeneralName::IPAddress(i) = n {
                    Some(*i)
                } else {
                    None
                }
            })
            .collect();
        dns_names.iter().all(|d| dns.contains(&d.as_str()))
            && addresses.iter().all(|a| match a {
                IpAddr::V4(a) => ips.contains(&a.octets().as_slice()),
                IpAddr::V6(a) => ips.contains(&a.octets().as_slice()),
            })
    }

    fn validity(&self) -> Option<(i64, i64)> {
        let chain = self.chain().ok()?;
        let (_, cert) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
        Some((
            cert.validity().not_before.timestamp(),
            cert.validity().not_after.timestamp(),
        ))
    }
}

/// A new private key without a certificate, as PKCS#8 PEM: P-256.
pub fn generate_key() -> Result<String, CertError> {
    Ok(KeyPair::generate().map_err(CertError::Key)?.serialize_pem())
}

/// All certificates of a PEM text, in order.
pub fn chain_from_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let bad = |detail: String| CertError::Parse {
        what: "certificate",
        subject: "PEM text".into(),
        detail,
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| bad(e.to_string()))?;
    if chain.is_empty() {
        Err(bad("no certificate in it".into()))
    } else {
        Ok(chain)
    }
}

/// A kubeconfig with one cluster, one user and one context, each named as given, everything embedded.
pub fn kubeconfig(name: &str, user: &str, server: &str, authority_pem: &str, identity: &Identity) -> String {
    use base64::Engine as _;
    let b64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\n\
         clusters:\n- name: {name}\n  cluster:\n    server: {server}\n    certificate-authority-data: {}\n\
         contexts:\n- name: {name}\n  context:\n    cluster: {name}\n    user: {user}\n\
         current-context: {name}\npreferences: {{}}\n\
         users:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        b64(authority_pem),
        b64(&identity.certificate),
        b64(&identity.key),
    )
}

fn leaf_params(leaf: &Leaf, now: Timestamp, lifetime: Duration) -> CertificateParams {
    let mut params = params(&leaf.common_name, leaf.organization.as_deref(), now, lifetime);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    if leaf.server {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if leaf.client {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    params.subject_alt_names = leaf
        .dns_names
        .iter()
        // A name that is not ASCII cannot stand in a certificate and is left out.
        .filter_map(|d| d.clone().try_into().ok().map(SanType::DnsName))
        .chain(leaf.addresses.iter().map(|a| SanType::IpAddress(*a)))
        .collect();
    params.use_authority_key_identifier_extension = true;
    params
}

fn params(
    common_name: &str,
    organization: Option<&str>,
    now: Timestamp,
    lifetime: Duration,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let from = now.saturating_sub(BACKDATE).unwrap_or(now).as_second();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(u64::try_from(from).unwrap_or(0));
    params.not_after = params.not_before + lifetime;
    let mut serial: [u8; 16] = rand::random();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().expect("time")
    }

    #[test]
    fn leafs_are_renewed_in_time_and_cover_their_names() {
        let authority = Authority::generate("kijabi", now()).expect("authority");
        let authority = Authority::load(authority.identity().clone()).expect("loads");
        let leaf = Leaf::server(
            "kube-apiserver",
            vec!["kubernetes".into()],
            vec!["10.43.0.1".parse().expect("ip")],
        );
        let identity = authority.issue(&leaf, now()).expect("leaf");
        assert!(!identity.due_for_renewal(now()));
        let later = now() + SignedDuration::from_hours(24 * 300);
        assert!(identity.due_for_renewal(later));
        assert!(identity.covers(&["kubernetes".into()], &["10.43.0.1".parse().expect("ip")]));
        assert!(!identity.covers(&["other".into()], &[]));
        assert!(!identity.covers(&[], &["::1".parse().expect("ip")]));
    }

    #[test]
    fn requests_are_signed_with_what_the_signer_says() {
        let authority = Authority::generate("kijabi", now()).expect("authority");
        let key = KeyPair::generate().expect("key");
        let request = CertificateParams::new(vec!["evil".into()]).expect("params");
        let pem = request
            .serialize_request(&key)
            .expect("request")
            .pem()
            .expect("pem");
        let signed = authority
            .sign_request(
                &pem,
                &Leaf::client("system:node:a", Some("system:nodes")),
                now(),
                LEAF_LIFETIME,
            )
            .expect("signed");
        let chain = chain_from_pem(&signed).expect("chain");
        let (_, cert) = x509_parser::parse_x509_certificate(&chain[0]).expect("parses");
        assert_eq!(cert.subject().to_string(), "O=system:nodes, CN=system:node:a");
        assert!(cert.subject_alternative_name().expect("readable").is_none());
    }
}
