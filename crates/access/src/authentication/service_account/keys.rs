//! Keys that sign and verify JSON web tokens: ES256 for new ones, ES256 and RS256 read.
//!
//! A key's id is what upstream makes it: the unpadded base64url SHA-256 of its DER public key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::prelude::FromDer as _;

/// What can go wrong with a signing key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("reading the service account key: {0}")]
    Parse(String),
    #[error("signing a service account token")]
    Sign,
}

/// The private key new tokens are signed with.
pub struct SigningKey {
    key: Private,
    public: PublicKey,
    random: SystemRandom,
}

enum Private {
    Ecdsa(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

/// A public key tokens are verified with.
#[derive(Clone)]
pub struct PublicKey {
    pub id: String,
    algorithm: Algorithm,
    /// As ring wants it: an uncompressed point, or a PKCS#1 `RSAPublicKey`.
    bytes: Vec<u8>,
    /// The `SubjectPublicKeyInfo`, for publication.
    pub der: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Es256,
    Rs256,
}

impl SigningKey {
    /// Reads a PKCS#8 private key in PEM, P-256 or RSA.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = pem_body(pem).ok_or_else(|| KeyError::Parse("not PEM".into()))?;
        let random = SystemRandom::new();
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random) {
            let public = PublicKey::es256(key.public_key().as_ref());
            return Ok(Self {
                key: Private::Ecdsa(Box::new(key)),
                public,
                random,
            });
        }
        let key = RsaKeyPair::from_pkcs8(&der).map_err(|e| KeyError::Parse(e.to_string()))?;
        let public = PublicKey::rs256(key.public_key().as_ref());
        Ok(Self {
            key: Private::Rsa(Box::new(key)),
            public,
            random,
        })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &serde_json::Value) -> Result<String, KeyError> {
        let header = serde_json::json!({"alg": self.public.algorithm_name(), "kid": self.public.id});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let signature = match &self.key {
            Private::Ecdsa(key) => key
                .sign(&self.random, token.as_bytes())
                .map_err(|_| KeyError::Sign)?
                .as_ref()
                .to_vec(),
            Private::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &self.random, token.as_bytes(), &mut signature)
                    .map_err(|_| KeyError::Sign)?;
                signature
            }
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl PublicKey {
    /// Reads a `PUBLIC KEY` (SubjectPublicKeyInfo) in PEM.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = pem_body(pem).ok_or_else(|| KeyError::Parse("not PEM".into()))?;
        let (_, info) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&der)
            .map_err(|e| KeyError::Parse(e.to_string()))?;
        let key = info.subject_public_key.data.as_ref();
        match info.algorithm.algorithm.to_id_string().as_str() {
            "1.2.840.10045.2.1" => Ok(Self::es256(key)),
            "1.2.840.113549.1.1.1" => Ok(Self::rs256(key)),
            other => Err(KeyError::Parse(format!("unknown key algorithm {other}"))),
        }
    }

    pub fn algorithm_name(&self) -> &'static str {
        match self.algorithm {
            Algorithm::Es256 => "ES256",
            Algorithm::Rs256 => "RS256",
        }
    }

    /// The key as an entry of a JSON web key set.
    pub fn jwk(&self) -> serde_json::Value {
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self.algorithm {
            Algorithm::Es256 => {
                // An uncompressed point: 0x04, then 32 bytes each of x and y.
                let point = self.bytes.get(1..).unwrap_or_default();
                let (x, y) = point.split_at(point.len() / 2);
                serde_json::json!({"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
                    "x": b64(x), "y": b64(y)})
            }
            Algorithm::Rs256 => {
                let (n, e) = rsa_parts(&self.bytes).unwrap_or_default();
                serde_json::json!({"use": "sig", "kty": "RSA", "kid": self.id, "alg": "RS256", "n": b64(&n), "e": b64(&e)})
            }
        }
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(algorithm, &self.bytes)
            .verify(message, signature)
            .is_ok()
    }

    fn es256(point: &[u8]) -> Self {
        // id-ecPublicKey with prime256v1.
        const PREFIX: [u8; 21] = [
            0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07,
        ];
        Self::new(Algorithm::Es256, point, &PREFIX)
    }

    fn rs256(pkcs1: &[u8]) -> Self {
        // rsaEncryption with NULL.
        const PREFIX: [u8; 15] = [
            0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
        ];
        Self::new(Algorithm::Rs256, pkcs1, &PREFIX)
    }

    fn new(algorithm: Algorithm, bytes: &[u8], prefix: &[u8]) -> Self {
        let mut bits = vec![0u8];
        bits.extend_from_slice(bytes);
        let mut body = prefix.to_vec();
        body.extend(der_value(0x03, &bits));
        let der = der_value(0x30, &body);
        let id = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, &der));
        Self {
            id,
            algorithm,
            bytes: bytes.to_vec(),
            der,
        }
    }
}

fn der_value(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let len = body.len();
    if len < 0x80 {
        out.push(len as u8);
    } else {
        let bytes: Vec<u8> = len.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
        out.push(0x80 | bytes.len() as u8);
        out.extend(bytes);
    }
    out.extend_from_slice(body);
    out
}

fn rsa_parts(pkcs1: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (_, key) = x509_parser::public_key::RSAPublicKey::from_der(pkcs1).ok()?;
    let strip = |b: &[u8]| b.iter().copied().skip_while(|b| *b == 0).collect();
    Some((strip(key.modulus), strip(key.exponent)))
}

fn pem_body(pem: &str) -> Option<Vec<u8>> {
    let start = pem.find("-----BEGIN")?;
    let body: String = pem[start..]
        .lines()
        .skip(1)
        .take_while(|l| !l.starts_with("-----END"))
        .map(str::trim)
        .collect();
    base64::engine::general_purpose::STANDARD.decode(body).ok()
}
