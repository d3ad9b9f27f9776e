//! Service-account tokens for projected volumes: asked of the API server, kept until they have lived four fifths
//! of their time (a day at most), asked again then. Follows upstream's `pkg/kubelet/token`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, PostParams};
use machinery::clock::Clock;
use parking_lot::Mutex;

use crate::backoff::plus;
use crate::error::{Error, Result};
use crate::pod::PodExt;

const LONGEST: Duration = Duration::from_secs(24 * 3600);
const DEFAULT_SECONDS: i64 = 3600;

#[derive(Clone, Debug)]
pub struct Token {
    pub value: String,
    pub refresh_at: Timestamp,
    pub expires: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    pod: String,
    audience: String,
    seconds: i64,
}

pub struct Tokens {
    client: kube::Client,
    clock: Arc<dyn Clock>,
    known: Mutex<HashMap<Key, Token>>,
}

impl Tokens {
    pub fn new(client: kube::Client, clock: Arc<dyn Clock>) -> Self {
        Self {
            client,
            clock,
            known: Mutex::default(),
        }
    }

    pub async fn get(&self, pod: &Pod, audience: &str, seconds: Option<i64>) -> Result<Token> {
        let key = Key {
            pod: pod.uid().to_owned(),
            audience: audience.to_owned(),
            seconds: seconds.unwrap_or(DEFAULT_SECONDS),
        };
        let now = self.clock.now();
        let known = self.known.lock().get(&key).cloned();
        if let Some(token) = known.as_ref().filter(|t| now < t.refresh_at) {
            return Ok(token.clone());
        }
        match self.request(pod, &key, now).await {
            Ok(token) => {
                self.known.lock().insert(key, token.clone());
                Ok(token)
            }
            Err(error) => match known.filter(|t| now < t.expires) {
                // Better an older token than none.
                Some(mut token) => {
                    tracing::warn!(
                        pod = pod.describe(),
                        error = error.full(),
                        "cannot refresh a token"
                    );
                    token.refresh_at = plus(now, Duration::from_secs(10));
                    Ok(token)
                }
                None => Err(error),
            },
        }
    }

    pub fn forget(&self, pod: &str) {
        self.known.lock().retain(|key, _| key.pod != pod);
    }

    async fn request(&self, pod: &Pod, key: &Key, now: Timestamp) -> Result<Token> {
        let account = pod.spec().service_account_name.as_deref().unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!key.audience.is_empty()).then(|| vec![key.audience.clone()]),
                expiration_seconds: Some(key.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod.name().to_owned()),
                    uid: Some(pod.uid().to_owned()),
                }),
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), pod.namespace());
        let answer = api
            .create_token_request(account, &PostParams::default(), &request)
            .await;
        let answer = answer.map_err(|source| Error::Api {
            operation: "failed to fetch token for",
            subject: format!("{}/{account}", pod.namespace()),
            source: Box::new(source),
        })?;
        let status = answer.status.unwrap_or_default();
        let (Some(value), Some(expires)) = (status.token, status.expiration_timestamp) else {
            return Err(Error::Pod(
                "the token request was answered without a token".to_owned(),
            ));
        };
        let expires = expires.0;
        let lifetime = crate::backoff::since(expires, now);
        Ok(Token {
            value,
            refresh_at: plus(now, (lifetime * 4 / 5).min(LONGEST)),
            expires,
        })
    }
}
