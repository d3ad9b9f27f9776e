//! TLS configurations, and verification of client certificates apart from the handshake.
//!
//! As upstream, the handshake asks for a client certificate and proves that the client holds its key, but does
//! not judge it: who a certificate names, and whether its authority is trusted, is for the authenticator
//! ([`ClientVerifier`]), so that an untrusted certificate is a 401 and authorities can change at run time.

use crate::certs::{CertError, Identity, chain_from_pem};
use parking_lot::RwLock;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;

/// What can go wrong when TLS is set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Certificate(#[from] CertError),
    #[error("configuring TLS")]
    Config(#[source] rustls::Error),
    #[error("trusting the authorities: {0}")]
    Authorities(String),
}

/// The server's TLS configuration, replaceable while it serves.
#[derive(Clone)]
pub struct ServerTls(Arc<RwLock<Arc<ServerConfig>>>);

impl ServerTls {
    /// Serves with this identity, HTTP/2 and 1.1, asking for client certificates.
    pub fn new(identity: &Identity) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(Arc::new(server_config(identity)?)))))
    }

    /// New connections see this identity from now on.
    pub fn replace(&self, identity: &Identity) -> Result<(), TlsError> {
        *self.0.write() = Arc::new(server_config(identity)?);
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read())
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls")
    }
}

/// Judges client certificate chains against a set of authorities.
#[derive(Debug, Clone)]
pub struct ClientVerifier(Arc<dyn ClientCertVerifier>);

impl ClientVerifier {
    /// Trusts the authorities of a PEM bundle.
    pub fn new(authorities_pem: &str) -> Result<Self, TlsError> {
        let roots = root_store(authorities_pem)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|e| TlsError::Authorities(e.to_string()))?;
        Ok(Self(verifier))
    }

    /// Whether the chain (leaf first) leads to an authority, is valid now and may be used by a client.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: jiff::Timestamp) -> Result<(), String> {
        let (leaf, rest) = chain.split_first().ok_or("no certificate")?;
        let now =
            UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0)));
        self.0
            .verify_client_cert(leaf, rest, now)
            .map(|_| ())
            .map_err(|e| e.to_string())
    }
}

/// A client configuration that trusts these authorities and shows this identity.
pub fn client_config(
    authorities_pem: &str,
    identity: Option<&Identity>,
) -> Result<rustls::ClientConfig, TlsError> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .with_root_certificates(root_store(authorities_pem)?);
    match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain()?, identity.private_key()?)
            .map_err(TlsError::Config),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// The cryptography every TLS configuration here uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn root_store(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain_from_pem(pem)? {
        roots
            .add(certificate)
            .map_err(|e| TlsError::Authorities(e.to_string()))?;
    }
    Ok(roots)
}

fn server_config(identity: &Identity) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .with_client_cert_verifier(Arc::new(AskOnly(provider())))
        .with_single_cert(identity.chain()?, identity.private_key()?)
        .map_err(TlsError::Config)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Asks for a certificate, takes any whose key the client proves to hold.
#[derive(Debug)]
struct AskOnly(Arc<CryptoProvider>);

impl ClientCertVerifier for AskOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client configuration for servers whose certificate nobody can vouch for: pods behind a proxy request.
///
/// What is said over it is hidden from onlookers, not from whoever poses as the pod.
pub fn untrusting_client_config() -> rustls::ClientConfig {
    let provider = provider();
    let verifier = Arc::new(TakeAny(Arc::clone(&provider)));
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions");
    builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth()
}

/// The same, showing an identity.
pub fn untrusting_client_config_as(identity: Option<&Identity>) -> Result<rustls::ClientConfig, TlsError> {
    let Some(identity) = identity else {
        return Ok(untrusting_client_config());
    };
    let provider = provider();
    let verifier = Arc::new(TakeAny(Arc::clone(&provider)));
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.chain()?, identity.private_key()?)
        .map_err(TlsError::Config)
}

/// Takes any certificate.
#[derive(Debug)]
struct TakeAny(Arc<CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
