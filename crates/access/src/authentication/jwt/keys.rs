//! An issuer's keys: found by discovery, kept, and asked for again when a token names one that is not known.
//!
//! **Invariant:** an issuer that does not answer costs those who wait one timeout together, and is left alone for
//! [`LEAVE_ALONE`] afterwards.

use crate::remote::Remote;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::RwLock;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long an issuer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long it is not asked after it was.
const LEAVE_ALONE: Duration = Duration::from_secs(10);

/// The keys of one issuer.
pub(super) struct Keys {
    issuer: String,
    discovery: String,
    authority: Option<String>,
    known: RwLock<Arc<Vec<Jwk>>>,
    asking: tokio::sync::Mutex<Option<(Instant, Result<(), String>)>>,
}

/// A public key as issuers publish it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Jwk {
    kty: String,
    kid: String,
    #[serde(rename = "use")]
    purpose: String,
    n: String,
    e: String,
    crv: String,
    x: String,
    y: String,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Keys {
    pub(super) fn new(issuer: &str, discovery: Option<&str>, authority: Option<String>) -> Self {
        let usual = || {
            format!(
                "{}/.well-known/openid-configuration",
                issuer.trim_end_matches('/')
            )
        };
        Self {
            issuer: issuer.to_owned(),
            discovery: discovery.map_or_else(usual, str::to_owned),
            authority,
            known: RwLock::default(),
            asking: tokio::sync::Mutex::new(None),
        }
    }

    /// Whether one of the issuer's keys signed this.
    pub(super) async fn verify(
        &self,
        algorithm: &str,
        kid: &str,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), String> {
        let good = |keys: &[Jwk]| {
            let mut candidates = keys.iter().filter(|key| kid.is_empty() || key.kid == kid);
            candidates.any(|key| key.verify(algorithm, signed, signature))
        };
        let known = Arc::clone(&self.known.read());
        if good(&known) {
            return Ok(());
        }
        self.ask(&known).await?;
        let known = Arc::clone(&self.known.read());
        if good(&known) {
            Ok(())
        } else {
            Err("failed to verify id token signature".to_owned())
        }
    }

    /// Asks the issuer, unless somebody did since `seen` or just now.
    async fn ask(&self, seen: &Arc<Vec<Jwk>>) -> Result<(), String> {
        let mut last = self.asking.lock().await;
        if !Arc::ptr_eq(seen, &self.known.read()) {
            return Ok(());
        }
        if let Some((at, outcome)) = &*last
            && at.elapsed() < LEAVE_ALONE
        {
            return outcome.clone();
        }
        let outcome = match tokio::time::timeout(TIMEOUT, self.fetch()).await {
            Ok(Ok(keys)) => {
                *self.known.write() = Arc::new(keys);
                Ok(())
            }
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
        };
        let outcome = outcome.map_err(|why| format!("keys of {}: {why}", self.issuer));
        if let Err(why) = &outcome {
            tracing::warn!(why, "an issuer of tokens");
        }
        *last = Some((Instant::now(), outcome.clone()));
        outcome
    }

    async fn fetch(&self) -> Result<Vec<Jwk>, String> {
        let discovery: Discovery = self.read(&self.discovery).await?;
        if discovery.issuer != self.issuer {
            return Err(format!(
                "issuer did not match the issuer returned by provider, expected {:?} got {:?}",
                self.issuer, discovery.issuer
            ));
        }
        let set: Set = self.read(&discovery.jwks_uri).await?;
        // A key of a kind nobody here knows does not hide the others.
        let keys = set
            .keys
            .into_iter()
            .filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        Ok(keys
            .filter(|key| key.purpose.is_empty() || key.purpose == "sig")
            .collect())
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, String> {
        let remote =
            Remote::from_url(url, self.authority.as_deref(), TIMEOUT).map_err(|error| error.to_string())?;
        let (code, answer) = remote.get().await.map_err(|error| format!("{url}: {error}"))?;
        if code != 200 {
            return Err(format!("{url}: answered {code}"));
        }
        serde_json::from_slice(&answer).map_err(|error| format!("{url}: {error}"))
    }
}

impl Jwk {
    fn verify(&self, algorithm: &str, signed: &[u8], signature: &[u8]) -> bool {
        let bytes = |text: &str| {
            URL_SAFE_NO_PAD
                .decode(text.trim_end_matches('='))
                .unwrap_or_default()
        };
        if self.kty == "RSA" {
            let parameters = match algorithm {
                "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                _ => return false,
            };
            let key = RsaPublicKeyComponents {
                n: bytes(&self.n),
                e: bytes(&self.e),
            };
            return key.verify(parameters, signed, signature).is_ok();
        }
        let (kind, size): (&'static signature::EcdsaVerificationAlgorithm, usize) =
            match (algorithm, self.crv.as_str()) {
                ("ES256", "P-256") => (&signature::ECDSA_P256_SHA256_FIXED, 32),
                ("ES384", "P-384") => (&signature::ECDSA_P384_SHA384_FIXED, 48),
                _ => return false,
            };
        let (x, y) = (bytes(&self.x), bytes(&self.y));
        if self.kty != "EC" || x.len() > size || y.len() > size {
            return false;
        }
        // An uncompressed point; some issuers leave out leading zeros.
        let mut point = vec![0; 1 + 2 * size];
        point[0] = 4;
        point[1 + size - x.len()..=size].copy_from_slice(&x);
        point[1 + 2 * size - y.len()..].copy_from_slice(&y);
        UnparsedPublicKey::new(kind, point)
            .verify(signed, signature)
            .is_ok()
    }
}
