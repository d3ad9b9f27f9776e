//! The legacy token cleaner: tokens in Secrets that were once made for service accounts by themselves, and that nobody has
//! used for a year, are marked invalid, and a year later deleted.
//!
//! A token counts as made by itself when its account lists its Secret. Use is what the API server writes into the label
//! `kubernetes.io/legacy-token-last-used`; it says in a ConfigMap since when it does so.
//! Upstream looks once a day, and so does this: dates are days.

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::informer::{Index, by_namespace};
use client::{Informer, Outcome, Selection};
use futures::future::BoxFuture;
use hashbrown::{HashMap, HashSet};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const PERIOD: Duration = Duration::from_secs(24 * 3600);
const UNUSED_FOR: SignedDuration = SignedDuration::from_hours(365 * 24);
const TYPE: &str = "kubernetes.io/service-account-token";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const TRACKING: (&str, &str) = (
    "kube-system",
    "kube-apiserver-legacy-service-account-token-tracking",
);
const SINCE: &str = "since";

/// The only item of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Everything;

struct Shell {
    context: Context,
    accounts: Informer<ServiceAccount>,
    tokens: Informer<Secret>,
    pods: Informer<Pod>,
    pods_by_namespace: Index<Pod>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let tokens = Selection::all().with_fields(&format!("type={TYPE}"));
    let pods = context.informer::<Pod>();
    let shell = Arc::new(Shell {
        accounts: context.informer(),
        tokens: context.options.informers.select(tokens),
        pods_by_namespace: pods.index("namespace", by_namespace),
        pods,
        context: context.clone(),
    });
    let queue = context.queue::<Everything>("legacy_service_account_token_cleaner");
    queue.add(Everything);
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.accounts.synced().await;
        ready.tokens.synced().await;
        ready.pods.synced().await;
    };
    context
        .work(&queue, 1, synced, move |_| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile().await }
        })
        .await;
}

/// What to do with a token.
#[derive(Debug, PartialEq)]
enum Verdict {
    Keep,
    /// Say since when it is invalid.
    Invalidate,
    Delete,
}

fn day(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}

/// Judges a token that was made for an account by itself and is mounted by nobody.
fn judge(secret: &Secret, now: Timestamp) -> Verdict {
    let limit = now - UNUSED_FOR;
    let created = secret.metadata.creation_timestamp.as_ref().map(|t| t.0);
    if secret.metadata.deletion_timestamp.is_some() || created.is_some_and(|c| c >= limit) {
        return Verdict::Keep;
    }
    let label = |key: &str| {
        secret
            .metadata
            .labels
            .as_ref()?
            .get(key)
            .map(|d| d.parse::<Date>())
    };
    match label(LAST_USED) {
        // Whether it was used cannot be told.
        Some(Err(_)) => return Verdict::Keep,
        Some(Ok(used)) if used >= day(limit) => return Verdict::Keep,
        _ => {}
    }
    match label(INVALID_SINCE) {
        Some(Ok(since)) if since >= day(limit) => Verdict::Keep,
        Some(Ok(_)) => Verdict::Delete,
        _ => Verdict::Invalidate,
    }
}

/// Whether the account lists the Secret, and is the one the token was made for.
fn made_for(account: &ServiceAccount, secret: &Secret) -> bool {
    let uid = secret
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(ACCOUNT_UID));
    let same = uid.is_none_or(|uid| uid.is_empty() || Some(uid) == account.metadata.uid.as_ref());
    let name = secret.metadata.name.as_ref();
    same && account.secrets.iter().flatten().any(|s| s.name.as_ref() == name)
}

/// The Secrets that a part of a pod's specification names, wherever its fields say that they name one.
fn referred(part: &Value, names: &mut HashSet<String>) {
    let mut add = |name: &Value| {
        if let Some(name) = name.as_str() {
            names.insert(name.to_owned());
        }
    };
    match part {
        Value::Object(fields) => {
            for (key, value) in fields {
                match key.as_str() {
                    "secretName" => add(value),
                    "secret" | "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => add(&value["name"]),
                    "imagePullSecrets" => value
                        .as_array()
                        .into_iter()
                        .flatten()
                        .for_each(|s| add(&s["name"])),
                    _ => {}
                }
            }
            fields.values().for_each(|value| referred(value, names));
        }
        Value::Array(items) => items.iter().for_each(|item| referred(item, names)),
        _ => {}
    }
}

impl Shell {
    async fn reconcile(&self) -> Result<Outcome, kube::Error> {
        let now = self.context.now();
        let again = Ok(Outcome::After(PERIOD));
        let Some(since) = self.tracked_since().await? else {
            return again;
        };
        // The day it began may have had a part before it did.
        let whole = since.saturating_add(1.day()).to_zoned(TimeZone::UTC);
        if whole.is_ok_and(|whole| now < whole.timestamp() + UNUSED_FOR) {
            return again;
        }
        let mut mounted: HashMap<String, HashSet<String>> = HashMap::new();
        for secret in self.tokens.list() {
            let verdict = judge(&secret, now);
            if verdict == Verdict::Keep || !self.is_generated(&secret) {
                continue;
            }
            let namespace = secret.metadata.namespace.clone().unwrap_or_default();
            let name = secret.metadata.name.clone().unwrap_or_default();
            let used = mounted
                .entry(namespace.clone())
                .or_insert_with(|| self.mounted(&namespace));
            if used.contains(&name) {
                continue;
            }
            self.carry_out(&namespace, &name, &secret, verdict, now).await?;
        }
        again
    }

    async fn tracked_since(&self) -> Result<Option<Date>, kube::Error> {
        let api = Api::<ConfigMap>::namespaced(self.context.client.clone(), TRACKING.0);
        let map = api.get_opt(TRACKING.1).await?;
        let since = map
            .and_then(|m| m.data)
            .and_then(|mut d| d.remove(SINCE))
            .and_then(|text| text.parse().ok());
        Ok(since)
    }

    fn is_generated(&self, secret: &Secret) -> bool {
        let annotations = secret.metadata.annotations.as_ref();
        let name = annotations
            .and_then(|a| a.get(ACCOUNT_NAME))
            .filter(|n| !n.is_empty());
        let namespace = secret.metadata.namespace.as_deref().unwrap_or("");
        let account = name.and_then(|name| self.accounts.find(namespace, name));
        account.is_some_and(|account| made_for(&account, secret))
    }

    /// The Secrets the pods of a namespace refer to, in whatever way.
    fn mounted(&self, namespace: &str) -> HashSet<String> {
        let mut names = HashSet::new();
        for pod in self.pods_by_namespace.get(namespace) {
            if let Ok(spec) = serde_json::to_value(&pod.spec) {
                referred(&spec, &mut names);
            }
        }
        names
    }

    async fn carry_out(
        &self,
        namespace: &str,
        name: &str,
        secret: &Secret,
        verdict: Verdict,
        now: Timestamp,
    ) -> Result<(), kube::Error> {
        let api = Api::<Secret>::namespaced(self.context.client.clone(), namespace);
        let done = match verdict {
            Verdict::Keep => Ok(()),
            Verdict::Invalidate => {
                let labels = json!({(INVALID_SINCE): day(now).to_string()});
                let patch = json!({"metadata": {"uid": secret.metadata.uid, "labels": labels}});
                tracing::info!(
                    namespace,
                    name,
                    "marking an unused service account token as invalid"
                );
                let patched = api
                    .patch(name, &PatchParams::default(), &Patch::Merge(patch))
                    .await;
                patched.map(drop)
            }
            Verdict::Delete => {
                let params = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: None,
                        resource_version: secret.metadata.resource_version.clone(),
                    }),
                    ..DeleteParams::default()
                };
                tracing::info!(namespace, name, "deleting an unused service account token");
                api.delete(name, &params).await.map(drop)
            }
        };
        match done {
            Err(error) if !error.is_conflict() && !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(created: &str, labels: &[(&str, &str)]) -> Secret {
        let labels: serde_json::Map<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        let meta = json!({"name": "t", "creationTimestamp": created, "labels": labels});
        serde_json::from_value(json!({ "metadata": meta })).expect("secret")
    }

    #[test]
    fn tokens_go_a_year_after_they_were_found_unused_for_a_year() {
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().expect("time");
        let check = |created: &str, labels: &[(&str, &str)], expected: Verdict| {
            assert_eq!(
                judge(&secret(created, labels), now),
                expected,
                "{created} {labels:?}"
            );
        };
        let old = "2020-01-01T00:00:00Z";
        check("2026-01-01T00:00:00Z", &[], Verdict::Keep);
        check(old, &[], Verdict::Invalidate);
        check(old, &[(LAST_USED, "2026-01-01")], Verdict::Keep);
        check(old, &[(LAST_USED, "2025-06-01")], Verdict::Keep);
        check(old, &[(LAST_USED, "2025-05-31")], Verdict::Invalidate);
        check(old, &[(LAST_USED, "sometime")], Verdict::Keep);
        check(old, &[(INVALID_SINCE, "2026-01-01")], Verdict::Keep);
        check(old, &[(INVALID_SINCE, "2025-05-31")], Verdict::Delete);
        check(old, &[(INVALID_SINCE, "sometime")], Verdict::Invalidate);
    }

    #[test]
    fn secrets_are_found_wherever_a_pod_names_them() {
        let spec = json!({
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "from"}}, {"configMapRef": {"name": "no"}}],
                "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}],
            "volumes": [{"name": "v", "secret": {"secretName": "mounted"}},
                {"name": "p", "projected": {"sources": [{"secret": {"name": "projected"}}]}},
                {"name": "i", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}}],
        });
        let mut names = HashSet::new();
        referred(&spec, &mut names);
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort();
        assert_eq!(names, ["csi", "from", "key", "mounted", "projected", "pull"]);
    }

    #[test]
    fn only_tokens_their_account_lists_were_made_by_themselves() {
        let account: ServiceAccount = serde_json::from_value(
            json!({"metadata": {"name": "a", "uid": "u"}, "secrets": [{"name": "t"}]}),
        )
        .expect("account");
        let mut token = secret("2020-01-01T00:00:00Z", &[]);
        assert!(made_for(&account, &token));
        token.metadata.annotations = Some([(ACCOUNT_UID.to_owned(), "other".to_owned())].into());
        assert!(!made_for(&account, &token));
        token.metadata.annotations = Some([(ACCOUNT_UID.to_owned(), "u".to_owned())].into());
        token.metadata.name = Some("by-hand".to_owned());
        assert!(!made_for(&account, &token));
    }
}
