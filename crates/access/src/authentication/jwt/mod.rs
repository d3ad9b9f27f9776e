//! Tokens of other issuers (OIDC): AuthenticationConfiguration, or upstream's `--oidc-…` flags made into one.

mod claims;
mod config;
mod keys;

pub use config::{
    Anonymous, AnonymousAccess, ClaimRule, ConfigError, Configuration, Extra, Issuer, IssuerAddress, Mapping,
    Mappings, PathCondition, UserRule,
};

use super::{Authenticator, Credentials, Outcome, Rejected};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use claims::Claims;
use keys::Keys;
use machinery::clock::Clock;
use machinery::{Value, codec};
use serde::Deserialize;
use std::sync::Arc;

/// How much the issuers' clocks and this one may differ, in seconds.
const SKEW: i64 = 300;

/// Knows the bearers of other issuers' tokens.
pub struct JsonWebTokens {
    trusted: ArcSwap<Vec<Trusted>>,
    clock: Arc<dyn Clock>,
}

struct Trusted {
    url: String,
    audiences: Vec<String>,
    algorithms: Vec<String>,
    keys: Keys,
    claims: Claims,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

impl JsonWebTokens {
    pub fn new(issuers: &[Issuer], clock: Arc<dyn Clock>) -> Result<Self, ConfigError> {
        Ok(Self {
            trusted: ArcSwap::from_pointee(trusted(issuers)?),
            clock,
        })
    }

    /// Trusts other issuers from now on.
    pub fn replace(&self, issuers: &[Issuer]) -> Result<(), ConfigError> {
        self.trusted.store(Arc::new(trusted(issuers)?));
        Ok(())
    }
}

fn trusted(issuers: &[Issuer]) -> Result<Vec<Trusted>, ConfigError> {
    let all = [
        "RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS384", "PS512",
    ];
    let one = |issuer: &Issuer| {
        let address = &issuer.issuer;
        Ok(Trusted {
            url: address.url.clone(),
            audiences: address.audiences.clone(),
            algorithms: all.iter().map(|name| (*name).to_owned()).collect(),
            keys: Keys::new(
                &address.url,
                address.discovery_url.as_deref(),
                address.certificate_authority.clone(),
            ),
            claims: Claims::new(issuer).map_err(ConfigError::Invalid)?,
        })
    };
    issuers.iter().map(one).collect()
}

#[async_trait]
impl Authenticator for JsonWebTokens {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Outcome, Rejected> {
        let Some(token) = credentials.bearer_token() else {
            return Ok(Outcome::NotMine);
        };
        let trusted = self.trusted.load_full();
        if trusted.is_empty() {
            return Ok(Outcome::NotMine);
        }
        let Some((header, claims, signed, signature)) = split(token) else {
            return Ok(Outcome::NotMine);
        };
        let issuer = claims.get("iss").and_then(Value::as_str);
        let Some(trusted) = trusted.iter().find(|trusted| issuer == Some(&trusted.url)) else {
            return Ok(Outcome::NotMine);
        };
        let user = trusted.judge(&header, &claims, signed, &signature, self.clock.now().as_second());
        let mut user = user.await.map_err(Rejected)?;
        super::add_authenticated(&mut user);
        Ok(Outcome::User(Arc::new(user)))
    }
}

impl Trusted {
    async fn judge(
        &self,
        header: &Header,
        claims: &Value,
        signed: &str,
        signature: &[u8],
        now: i64,
    ) -> Result<machinery::user::UserInfo, String> {
        let audiences: Vec<&str> = match claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if !self
            .audiences
            .iter()
            .any(|ours| audiences.contains(&ours.as_str()))
        {
            return Err(format!(
                "oidc: verify token: expected audience in {:?} got {audiences:?}",
                self.audiences
            ));
        }
        let seconds = |key: &str| match claims.get(key) {
            Some(Value::Int(seconds)) => Some(*seconds),
            Some(Value::Float(seconds)) => Some(*seconds as i64),
            _ => None,
        };
        if seconds("exp").is_none_or(|exp| now >= exp) {
            return Err("oidc: verify token: token is expired".to_owned());
        }
        if seconds("nbf").is_some_and(|nbf| now + SKEW < nbf) {
            return Err("oidc: verify token: current time is before the nbf (not before) time".to_owned());
        }
        if !self.algorithms.contains(&header.alg) {
            return Err(format!(
                "oidc: verify token: id token signed with unsupported algorithm {:?}",
                header.alg
            ));
        }
        self.keys
            .verify(&header.alg, &header.kid, signed.as_bytes(), signature)
            .await
            .map_err(|why| format!("oidc: verify token: {why}"))?;
        self.claims.user(claims)
    }
}

/// Header, claims, the signed text and the signature of a compact JWT.
fn split(token: &str) -> Option<(Header, Value, &str, Vec<u8>)> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    let part = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
    let header = serde_json::from_slice(&part(header)?).ok()?;
    let claims = codec::json::decode_any(&part(payload)?).ok()?.value;
    Some((header, claims, signed, part(signature)?))
}
