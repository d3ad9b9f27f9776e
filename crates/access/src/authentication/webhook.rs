//! Tokens a service outside knows: TokenReview sent to a webhook, answers kept for a while.

use super::{Authenticator, Credentials, Outcome, Rejected};
use crate::remote::Remote;
use async_trait::async_trait;
use machinery::user::UserInfo;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Answers kept at most.
const KEPT: usize = 4096;
/// A service that fails is asked again after so long.
const REMEMBER_FAILURE: Duration = Duration::from_secs(1);

/// Asks a webhook.
pub struct WebhookTokens {
    remote: Remote,
    /// `v1` or `v1beta1`.
    version: String,
    audiences: Vec<String>,
    keep: Duration,
    kept: Mutex<HashMap<[u8; 32], Kept>>,
}

/// An answer, and until when it is believed.
type Kept = (Instant, Result<Outcome, Rejected>);

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl WebhookTokens {
    pub fn new(remote: Remote, version: &str, audiences: Vec<String>, keep: Duration) -> Self {
        Self {
            remote,
            version: version.to_owned(),
            audiences,
            keep,
            kept: Mutex::default(),
        }
    }

    async fn ask(&self, token: &str) -> Result<Outcome, Rejected> {
        let review = json!({
            "kind": "TokenReview",
            "apiVersion": format!("authentication.k8s.io/{}", self.version),
            "metadata": {"creationTimestamp": null},
            "spec": {"token": token, "audiences": self.audiences},
            "status": {"user": {}},
        });
        let (code, answer) = self
            .remote
            .post(review.to_string().into_bytes())
            .await
            .map_err(|error| Rejected(error.to_string()))?;
        if !(200..300).contains(&code) {
            return Err(Rejected(format!("the token webhook answered {code}")));
        }
        let review: Review = serde_json::from_slice(&answer)
            .map_err(|error| Rejected(format!("the token webhook's answer is no TokenReview: {error}")))?;
        let status = review.status;
        if !status.authenticated {
            return if status.error.is_empty() {
                Ok(Outcome::NotMine)
            } else {
                Err(Rejected(status.error))
            };
        }
        // A service that knows audiences must have meant this server.
        let ours = status.audiences.is_empty() || status.audiences.iter().any(|a| self.audiences.contains(a));
        if !ours {
            return Ok(Outcome::NotMine);
        }
        let mut user = UserInfo {
            name: status.user.username,
            uid: status.user.uid,
            groups: status.user.groups,
            extra: status.user.extra,
        };
        super::add_authenticated(&mut user);
        Ok(Outcome::User(Arc::new(user)))
    }
}

#[async_trait]
impl Authenticator for WebhookTokens {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Outcome, Rejected> {
        let Some(token) = credentials.bearer_token() else {
            return Ok(Outcome::NotMine);
        };
        let key = super::digest(token);
        if let Some((until, answer)) = self.kept.lock().get(&key)
            && Instant::now() < *until
        {
            return answer.clone();
        }
        let answer = self.ask(token).await;
        let keep = match &answer {
            Ok(Outcome::User(_)) => self.keep,
            Ok(Outcome::NotMine) => self.keep.min(Duration::from_secs(10)),
            Err(_) => self.keep.min(REMEMBER_FAILURE),
        };
        let now = Instant::now();
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.retain(|_, (until, _)| now < *until);
        }
        if kept.len() < KEPT {
            kept.insert(key, (now + keep, answer.clone()));
        }
        answer
    }
}
