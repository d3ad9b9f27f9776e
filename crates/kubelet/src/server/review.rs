//! What the API server is asked about who asks here: whose a token is, and what somebody may.
//!
//! Answers are kept as long as upstream's kubelet keeps them: tokens two minutes, a yes five, a no half a minute.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use machinery::clock::Clock;
use machinery::user::UserInfo;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::backoff::plus;

const TOKENS: Duration = Duration::from_secs(120);
const YES: Duration = Duration::from_secs(300);
const NO: Duration = Duration::from_secs(30);
/// Beyond so many answers the ones that have run out are thrown away.
const MANY: usize = 1024;

pub struct Reviews {
    client: kube::Client,
    clock: Arc<dyn Clock>,
    node: String,
    tokens: Kept<[u8; 32], Option<UserInfo>>,
    decisions: Kept<Asked, bool>,
}

/// A question: user, groups, verb and subresource.
type Asked = (String, Vec<String>, &'static str, &'static str);

/// Answers and when they run out.
struct Kept<K, V>(Mutex<HashMap<K, (V, Timestamp)>>);

impl<K: Hash + Eq, V: Clone> Kept<K, V> {
    fn get(&self, key: &K, now: Timestamp) -> Option<V> {
        let kept = self.0.lock();
        kept.get(key)
            .filter(|(_, until)| now < *until)
            .map(|(v, _)| v.clone())
    }

    fn put(&self, key: K, value: V, until: Timestamp, now: Timestamp) {
        let mut kept = self.0.lock();
        if kept.len() >= MANY {
            kept.retain(|_, (_, until)| now < *until);
        }
        kept.insert(key, (value, until));
    }
}

impl Reviews {
    pub fn new(client: kube::Client, clock: Arc<dyn Clock>, node: &str) -> Self {
        Self {
            client,
            clock,
            node: node.to_owned(),
            tokens: Kept(Mutex::default()),
            decisions: Kept(Mutex::default()),
        }
    }

    /// Whose a token is; nobody's when the API server does not know it, or does not answer.
    pub async fn user_of(&self, token: &str) -> Option<UserInfo> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = self.clock.now();
        if let Some(known) = self.tokens.get(&key, now) {
            return known;
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let status = match api.create(&PostParams::default(), &review).await {
            Ok(answer) => answer.status.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "cannot ask the API server whose a token is");
                return None;
            }
        };
        let user = status
            .user
            .filter(|_| status.authenticated == Some(true))
            .map(|u| UserInfo {
                name: u.username.unwrap_or_default(),
                uid: u.uid.unwrap_or_default(),
                groups: u.groups.unwrap_or_default(),
                extra: u.extra.unwrap_or_default(),
            });
        self.tokens.put(key, user.clone(), plus(now, TOKENS), now);
        user
    }

    /// Whether a user may do something with one of these parts of the node.
    pub async fn may(&self, user: &UserInfo, verb: &'static str, parts: &[&'static str]) -> bool {
        for part in parts {
            if self.may_one(user, verb, part).await {
                return true;
            }
        }
        false
    }

    async fn may_one(&self, user: &UserInfo, verb: &'static str, part: &'static str) -> bool {
        let asked: Asked = (user.name.clone(), user.groups.clone(), verb, part);
        let now = self.clock.now();
        if let Some(known) = self.decisions.get(&asked, now) {
            return known;
        }
        let extra: BTreeMap<String, Vec<String>> = user.extra.clone();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                uid: Some(user.uid.clone()).filter(|u| !u.is_empty()),
                extra: (!extra.is_empty()).then_some(extra),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(part.to_owned()),
                    name: Some(self.node.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &review).await {
            Ok(answer) => {
                let yes = answer.status.is_some_and(|s| s.allowed);
                let until = plus(now, if yes { YES } else { NO });
                self.decisions.put(asked, yes, until, now);
                yes
            }
            Err(error) => {
                tracing::warn!(%error, user = user.name, "cannot ask the API server what somebody may");
                false
            }
        }
    }
}
