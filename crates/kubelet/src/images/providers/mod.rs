//! Credentials of images that programs know (`--image-credential-provider-config`): cloud registries' short-lived ones.
//!
//! A program that fits an image is run with the image's name, and with a token of the pod's service account where it
//! asks for one; its answer is kept as long and for as much as it says. Follows upstream's
//! `pkg/credentialprovider/plugin` (KEPs 2133 and 4412).
//!
//! **Invariant:** a program that fails costs a pull its credentials, never the pull: the registry then judges. Passwords
//! and tokens are in no message.

pub mod config;
mod plugin;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cri::v1::AuthConfig;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::Api;
use machinery::clock::Clock;
use parking_lot::Mutex;

use super::credentials::{auth, fits};
use crate::backoff::plus;
use crate::error::Error;
use crate::pod::PodExt;
use crate::volumes::tokens::Tokens;
use config::{Account, Settings};
use plugin::{Answer, Asker, Reach};

pub struct Providers {
    list: Vec<Provider>,
    client: kube::Client,
    tokens: Arc<Tokens>,
    clock: Arc<dyn Clock>,
}

struct Provider {
    settings: Settings,
    kept: Mutex<HashMap<Key, Kept>>,
    /// One question at a time, so that pods that start together ask once.
    asking: tokio::sync::Mutex<()>,
}

/// What an answer is kept for, and whose it is.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    place: Place,
    owner: Option<Owner>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Place {
    Image(String),
    Registry(String),
    Everywhere,
}

/// A service account as a program knows it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Owner {
    namespace: String,
    name: String,
    uid: String,
    annotations: BTreeMap<String, String>,
    /// Where each token is an owner of its own.
    token: Option<String>,
}

struct Kept {
    logins: BTreeMap<String, (String, String)>,
    until: Timestamp,
}

impl Providers {
    pub fn new(
        list: Vec<Settings>,
        client: kube::Client,
        tokens: Arc<Tokens>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let provider = |settings| Provider {
            settings,
            kept: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        };
        Self {
            list: list.into_iter().map(provider).collect(),
            client,
            tokens,
            clock,
        }
    }

    /// All credentials that programs know for an image's repository, the most particular place first.
    pub async fn lookup(&self, pod: &Pod, repository: &str) -> Vec<AuthConfig> {
        let mut found = Vec::new();
        for provider in &self.list {
            if !provider
                .settings
                .images
                .iter()
                .any(|place| fits(place, repository))
            {
                continue;
            }
            match self.logins(provider, pod, repository).await {
                Ok(logins) => found.extend(logins.into_iter().filter(|(place, _)| fits(place, repository))),
                Err(error) => tracing::warn!(
                    provider = provider.settings.name,
                    image = repository,
                    pod = pod.describe(),
                    error,
                    "no credentials of a credential provider"
                ),
            }
        }
        found.sort_by(|(a, _), (b, _)| b.cmp(a));
        found
            .into_iter()
            .map(|(place, (username, password))| auth(&place, username, password))
            .collect()
    }

    async fn logins(
        &self,
        provider: &Provider,
        pod: &Pod,
        image: &str,
    ) -> Result<BTreeMap<String, (String, String)>, String> {
        let settings = &provider.settings;
        let (owner, asker) = match &settings.account {
            None => (None, Asker::default()),
            Some(account) => match self.asker(account, pod).await? {
                Some(found) => found,
                None => return Ok(BTreeMap::new()),
            },
        };
        let registry = image.split('/').next().unwrap_or(image).to_owned();
        let key = |place| Key {
            place,
            owner: owner.clone(),
        };
        let places = [
            Place::Image(image.to_owned()),
            Place::Registry(registry.clone()),
            Place::Everywhere,
        ];
        let _alone = provider.asking.lock().await;
        let now = self.clock.now();
        {
            let mut kept = provider.kept.lock();
            kept.retain(|_, kept| now < kept.until);
            let known = places.into_iter().find_map(|place| kept.get(&key(place)));
            if let Some(known) = known {
                return Ok(known.logins.clone());
            }
        }
        let Answer { reach, keep, logins } = plugin::ask(settings, image, &asker).await?;
        let echoes = |(_, password): &(String, String)| !asker.token.is_empty() && *password == asker.token;
        if settings.account.as_ref().is_some_and(|a| !a.by_token) && logins.values().any(echoes) {
            return Err(
                "credential provider plugin returned the service account token as the password which is not allowed \
                 when service account cache type is not set to 'Token'"
                    .to_owned(),
            );
        }
        let keep = keep.unwrap_or(settings.cache);
        if !keep.is_zero() {
            let place = match reach {
                Reach::Image => Place::Image(image.to_owned()),
                Reach::Registry => Place::Registry(registry),
                Reach::Global => Place::Everywhere,
            };
            let kept = Kept {
                logins: logins.clone(),
                until: plus(self.clock.now(), keep),
            };
            provider.kept.lock().insert(key(place), kept);
        }
        Ok(logins)
    }

    /// Who asks; nothing where the program is not to be asked for this pod.
    async fn asker(&self, account: &Account, pod: &Pod) -> Result<Option<(Option<Owner>, Asker)>, String> {
        let name = pod.spec().service_account_name.as_deref().unwrap_or_default();
        if name.is_empty() {
            return Ok((!account.required).then(|| (None, Asker::default())));
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), pod.namespace());
        let found = api.get(name).await.map_err(|source| {
            let error = Error::Api {
                operation: "failed to get service account",
                subject: format!("{}/{name}", pod.namespace()),
                source: Box::new(source),
            };
            error.full()
        })?;
        let given = found.metadata.annotations.unwrap_or_default();
        let mut annotations = BTreeMap::new();
        for key in &account.required_annotations {
            match given.get(key) {
                Some(value) => annotations.insert(key.clone(), value.clone()),
                // How a workload says that it wants this program.
                None => return Ok(None),
            };
        }
        let optional = account.optional_annotations.iter();
        annotations.extend(optional.filter_map(|k| given.get(k).map(|v| (k.clone(), v.clone()))));
        let token = self.tokens.get(pod, &account.audience, None).await;
        let token = token.map_err(|error| error.full())?.value;
        let owner = Owner {
            namespace: pod.namespace().to_owned(),
            name: name.to_owned(),
            uid: found.metadata.uid.unwrap_or_default(),
            annotations: annotations.clone(),
            token: account.by_token.then(|| token.clone()),
        };
        Ok(Some((Some(owner), Asker { token, annotations })))
    }
}

#[cfg(test)]
mod tests;
