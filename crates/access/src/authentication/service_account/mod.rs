//! Service account tokens: issuing them, and knowing their bearers.
//!
//! Tokens are upstream's bound tokens: the account, and optionally a pod, secret or node the token lives and
//! dies with, named with their UIDs in the `kubernetes.io` claim.

pub mod keys;
mod legacy;

use super::{Authenticator, Credentials, Outcome, Rejected};
use crate::Objects;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
pub use keys::{KeyError, PublicKey, SigningKey};
use machinery::clock::Clock;
use machinery::user::UserInfo;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

/// How long a verified token is believed without looking again, as upstream's token cache.
const REMEMBER_SECONDS: i64 = 10;
const REMEMBER_MOST: usize = 1024;

/// An object a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    pub name: String,
    pub uid: String,
}

/// What a token says.
#[derive(Debug, Clone, Default)]
pub struct TokenClaims {
    pub namespace: String,
    pub account: String,
    pub account_uid: String,
    pub audiences: Vec<String>,
    pub pod: Option<Bound>,
    pub secret: Option<Bound>,
    pub node: Option<Bound>,
    /// Seconds the token is valid.
    pub lifetime: i64,
    /// When clients should have a new token, if earlier than the expiry: seconds from now.
    pub warn_after: Option<i64>,
    /// A fresh UUID.
    pub id: String,
}

/// Makes tokens.
pub struct Issuer {
    issuer: String,
    key: SigningKey,
    clock: Arc<dyn Clock>,
}

impl Issuer {
    pub fn new(issuer: impl Into<String>, key: SigningKey, clock: Arc<dyn Clock>) -> Self {
        Self {
            issuer: issuer.into(),
            key,
            clock,
        }
    }

    pub fn url(&self) -> &str {
        &self.issuer
    }

    pub fn public_key(&self) -> &PublicKey {
        self.key.public()
    }

    /// A signed token and the second it expires.
    pub fn issue(&self, claims: &TokenClaims) -> Result<(String, i64), KeyError> {
        let now = self.clock.now().as_second();
        let expires = now + claims.lifetime;
        let mut private = json!({
            "namespace": claims.namespace,
            "serviceaccount": {"name": claims.account, "uid": claims.account_uid},
        });
        for (key, bound) in [
            ("pod", &claims.pod),
            ("secret", &claims.secret),
            ("node", &claims.node),
        ] {
            if let Some(bound) = bound {
                private[key] = json!({"name": bound.name, "uid": bound.uid});
            }
        }
        if let Some(after) = claims.warn_after {
            private["warnafter"] = json!(now + after);
        }
        let payload = json!({
            "aud": claims.audiences, "exp": expires, "iat": now, "nbf": now, "iss": self.issuer, "jti": claims.id,
            "sub": format!("system:serviceaccount:{}:{}", claims.namespace, claims.account),
            "kubernetes.io": private,
        });
        Ok((self.key.sign(&payload)?, expires))
    }
}

/// Users by the digest of their token, and the second until which they are believed.
type Remembered = HashMap<[u8; 32], (i64, Arc<UserInfo>)>;

/// Knows the bearers of service account tokens.
pub struct ServiceAccounts {
    issuers: Vec<String>,
    audiences: Vec<String>,
    keys: Vec<PublicKey>,
    clock: Arc<dyn Clock>,
    objects: OnceLock<Arc<dyn Objects>>,
    remembered: Mutex<Remembered>,
}

impl ServiceAccounts {
    pub fn new(
        issuers: Vec<String>,
        audiences: Vec<String>,
        keys: Vec<PublicKey>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            issuers,
            audiences,
            keys,
            clock,
            objects: OnceLock::new(),
            remembered: Mutex::new(HashMap::new()),
        }
    }

    /// Judges a token for some of `audiences`; `None` if it is not one of ours. Used by token reviews too.
    pub async fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<(Arc<UserInfo>, Vec<String>)>, Rejected> {
        let Some((claims, signed, signature)) = split(token) else {
            return Ok(None);
        };
        let wrong = |what: &str| Rejected(what.to_owned());
        if claims["iss"].as_str() == Some(legacy::ISSUER) {
            if !self.signed(signed, &signature) {
                return Err(wrong("invalid signature"));
            }
            // They name no audience: they are for this server.
            let matching: Vec<String> = audiences
                .iter()
                .filter(|a| self.audiences.contains(a))
                .cloned()
                .collect();
            if matching.is_empty() {
                return Ok(None);
            }
            let user = legacy::user(self, &claims, token).await?;
            return Ok(Some((Arc::new(user), matching)));
        }
        if !self.issuers.iter().any(|i| claims["iss"].as_str() == Some(i)) {
            return Ok(None);
        }
        if !self.signed(signed, &signature) {
            return Err(wrong("invalid signature"));
        }
        let now = self.clock.now().as_second();
        if claims["exp"].as_i64().is_none_or(|exp| now >= exp) {
            return Err(wrong("service account token has expired"));
        }
        if claims["nbf"].as_i64().is_some_and(|nbf| now + 60 < nbf) {
            return Err(wrong("service account token is not valid yet"));
        }
        let named: Vec<&str> = match &claims["aud"] {
            Json::String(one) => vec![one],
            Json::Array(all) => all.iter().filter_map(Json::as_str).collect(),
            _ => Vec::new(),
        };
        let matching: Vec<String> = audiences
            .iter()
            .filter(|a| named.contains(&a.as_str()))
            .cloned()
            .collect();
        if matching.is_empty() {
            return Err(Rejected(format!(
                "token audiences {named:?} is invalid for the target audiences {audiences:?}"
            )));
        }
        let user = self.user(&claims).await?;
        Ok(Some((Arc::new(user), matching)))
    }

    /// Whether one of the keys signed this.
    fn signed(&self, signed: &str, signature: &[u8]) -> bool {
        self.keys
            .iter()
            .any(|key| key.verify(signed.as_bytes(), signature))
    }

    async fn user(&self, claims: &Json) -> Result<UserInfo, Rejected> {
        let private = &claims["kubernetes.io"];
        let text = |v: &Json| v.as_str().unwrap_or_default().to_owned();
        let namespace = text(&private["namespace"]);
        let account = text(&private["serviceaccount"]["name"]);
        let account_uid = text(&private["serviceaccount"]["uid"]);
        if claims["sub"].as_str() != Some(&format!("system:serviceaccount:{namespace}:{account}")) {
            return Err(Rejected(
                "service account name does not match the token's subject".into(),
            ));
        }
        self.check_alive(
            "serviceaccounts",
            &namespace,
            &account,
            &account_uid,
            "ServiceAccount UID",
        )
        .await?;
        let mut extra = BTreeMap::new();
        for (key, resource, scope) in [
            ("secret", "secrets", namespace.as_str()),
            ("pod", "pods", &namespace),
            ("node", "nodes", ""),
        ] {
            let bound = &private[key];
            if bound.is_null() {
                continue;
            }
            let (name, uid) = (text(&bound["name"]), text(&bound["uid"]));
            // A pod's node may go before the pod does; only a token bound to the node alone dies with it.
            if key != "node" || private["pod"].is_null() {
                self.check_alive(resource, scope, &name, &uid, key).await?;
            }
            if key != "secret" {
                extra.insert(format!("authentication.kubernetes.io/{key}-name"), vec![name]);
                extra.insert(format!("authentication.kubernetes.io/{key}-uid"), vec![uid]);
            }
        }
        if let Some(id) = claims["jti"].as_str() {
            extra.insert(
                "authentication.kubernetes.io/credential-id".to_owned(),
                vec![format!("JTI={id}")],
            );
        }
        let user = UserInfo::service_account(&namespace, &account);
        Ok(UserInfo {
            uid: account_uid,
            extra,
            ..user
        })
    }

    async fn check_alive(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        uid: &str,
        what: &str,
    ) -> Result<(), Rejected> {
        let objects = self
            .objects
            .get()
            .ok_or_else(|| Rejected("not ready to verify tokens".into()))?;
        let object = objects
            .get("", resource, namespace, name)
            .await
            .map_err(|e| Rejected(e.to_string()))?;
        let object = object.ok_or_else(|| Rejected(format!("{resource} \"{name}\" not found")))?;
        let metadata = object.get("metadata");
        let field = |key: &str| metadata.and_then(|m| m.get(key)).and_then(|v| v.as_str());
        if field("uid") != Some(uid) {
            return Err(Rejected(format!(
                "the {what} ({uid}) does not match the object's"
            )));
        }
        // An object on its way out keeps its tokens valid for a minute, for its own cleaning up.
        let deleted = field("deletionTimestamp").and_then(|t| t.parse::<jiff::Timestamp>().ok());
        match deleted {
            Some(at) if self.clock.now().as_second() > at.as_second() + 60 => {
                Err(Rejected(format!("{resource} \"{name}\" has been deleted")))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Authenticator for ServiceAccounts {
    fn bind(&self, objects: Arc<dyn Objects>) {
        // Bound once, when the server starts; a second server of the same process brings its own instance.
        self.objects.get_or_init(|| objects);
    }

    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Outcome, Rejected> {
        let Some(token) = credentials.bearer_token() else {
            return Ok(Outcome::NotMine);
        };
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(digest.as_ref());
        let now = self.clock.now().as_second();
        if let Some((until, user)) = self.remembered.lock().get(&key)
            && now < *until
        {
            return Ok(Outcome::User(Arc::clone(user)));
        }
        let Some((user, _)) = self.review(token, &self.audiences).await? else {
            return Ok(Outcome::NotMine);
        };
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBER_MOST {
            remembered.retain(|_, (until, _)| now < *until);
        }
        if remembered.len() < REMEMBER_MOST {
            remembered.insert(key, (now + REMEMBER_SECONDS, Arc::clone(&user)));
        }
        Ok(Outcome::User(user))
    }
}

/// Claims, the signed text and the signature of a compact JWT.
fn split(token: &str) -> Option<(Json, &str, Vec<u8>)> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (_, payload) = signed.split_once('.')?;
    let claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    Some((claims, signed, URL_SAFE_NO_PAD.decode(signature).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use machinery::Value;
    use machinery::status::ApiError;

    #[derive(Debug)]
    struct At(i64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_second(self.0).expect("time")
        }
    }

    /// One service account with a UID.
    struct OneAccount(&'static str);

    #[async_trait]
    impl Objects for OneAccount {
        async fn get(
            &self,
            _: &str,
            resource: &str,
            ns: &str,
            name: &str,
        ) -> Result<Option<Arc<Value>>, ApiError> {
            let mut account = Value::object();
            account.set_path(&["metadata", "uid"], self.0);
            Ok((resource == "serviceaccounts" && ns == "a" && name == "b").then(|| Arc::new(account)))
        }

        async fn list(&self, _: &str, _: &str, _: &str) -> Result<Vec<Arc<Value>>, ApiError> {
            Ok(Vec::new())
        }

        fn resource_of(&self, _: &str, _: &str) -> Option<(String, bool)> {
            None
        }

        async fn replace(&self, _: &str, _: &str, object: Value) -> Result<Arc<Value>, ApiError> {
            Ok(Arc::new(object))
        }

        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn version(&self, _: &str, _: &str) -> u64 {
            0
        }
    }

    fn key() -> SigningKey {
        let authority = wire::certs::Authority::generate("test", Timestamp::UNIX_EPOCH).expect("key");
        SigningKey::from_pem(&authority.identity().key).expect("key")
    }

    async fn check(
        token: &str,
        public: &PublicKey,
        now: i64,
        uid: &'static str,
        audience: &str,
    ) -> Result<String, String> {
        let (issuer, audience) = (vec!["iss".to_owned()], vec![audience.to_owned()]);
        let accounts =
            ServiceAccounts::new(issuer, audience.clone(), vec![public.clone()], Arc::new(At(now)));
        accounts.bind(Arc::new(OneAccount(uid)));
        match accounts.review(token, &audience).await {
            Ok(Some((user, _))) => Ok(user.name.clone()),
            Ok(None) => Err("not ours".to_owned()),
            Err(why) => Err(why.to_string()),
        }
    }

    #[tokio::test]
    async fn tokens_name_their_bearer_until_they_expire() {
        let key = key();
        let public = key.public().clone();
        let issuer = Issuer::new("iss", key, Arc::new(At(1000)));
        let claims = TokenClaims {
            namespace: "a".into(),
            account: "b".into(),
            account_uid: "u".into(),
            audiences: vec!["aud".into()],
            lifetime: 600,
            id: "j".into(),
            ..TokenClaims::default()
        };
        let (token, expires) = issuer.issue(&claims).expect("token");
        assert_eq!(expires, 1600);
        let ok = Ok("system:serviceaccount:a:b".to_owned());
        assert_eq!(check(&token, &public, 1000, "u", "aud").await, ok);
        assert_eq!(
            check(&token, &public, 1600, "u", "aud").await,
            Err("service account token has expired".into())
        );
        assert!(
            check(&token, &public, 1000, "v", "aud").await.is_err(),
            "another account of the same name"
        );
        assert!(check(&token, &public, 1000, "u", "other").await.is_err());
        assert_eq!(
            check(&token, &super::tests::key().public().clone(), 1000, "u", "aud").await,
            Err("invalid signature".into())
        );
        assert_eq!(
            check("x.y.z", &public, 1000, "u", "aud").await,
            Err("not ours".into())
        );
        let again = PublicKey::from_pem(&pem(&public)).expect("reads");
        assert_eq!(again.id, public.id);
        assert_eq!(check(&token, &again, 1000, "u", "aud").await, ok);
    }

    fn pem(key: &PublicKey) -> String {
        let body = base64::engine::general_purpose::STANDARD.encode(&key.der);
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }
}
