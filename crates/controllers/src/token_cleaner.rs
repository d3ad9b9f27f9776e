//! The token cleaner: bootstrap tokens whose time has passed go.

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::{Event, Informer, ObjectKey, Outcome, Selection};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Preconditions};
use std::time::Duration;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const EXPIRATION: &str = "expiration";

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let tokens = Selection::in_namespace(NAMESPACE).with_fields(&format!("type={TYPE}"));
    let secrets = context.options.informers.select::<Secret>(tokens);
    let queue = context.queue::<ObjectKey>("token_cleaner");
    let adds = queue.clone();
    secrets.subscribe(move |event| {
        if !matches!(event, Event::Deleted(_)) && expires(event.object()).is_some() {
            adds.add(ObjectKey::of(&**event.object()));
        }
    });
    let all = secrets.clone();
    let synced = async move { all.synced().await };
    let shell = context.clone();
    context
        .work(&queue, 1, synced, move |key| {
            let (context, secrets) = (shell.clone(), secrets.clone());
            async move { reconcile(&context, &secrets, &key).await }
        })
        .await;
}

/// When the token ends; `None` for what is no token or never ends. What cannot be read ends at once.
fn expires(secret: &Secret) -> Option<Timestamp> {
    let is_token = secret.type_.as_deref() == Some(TYPE);
    if !is_token || secret.metadata.namespace.as_deref() != Some(NAMESPACE) {
        return None;
    }
    let text = &secret.data.as_ref()?.get(EXPIRATION)?.0;
    let text = std::str::from_utf8(text).unwrap_or("unreadable");
    if text.is_empty() {
        return None;
    }
    Some(text.parse().unwrap_or(Timestamp::UNIX_EPOCH))
}

async fn reconcile(
    context: &Context,
    secrets: &Informer<Secret>,
    key: &ObjectKey,
) -> Result<Outcome, kube::Error> {
    let Some(secret) = secrets.get(key) else {
        return Ok(Outcome::Done);
    };
    let Some(end) = expires(&secret) else {
        return Ok(Outcome::Done);
    };
    let left = Duration::try_from(end.duration_since(context.now())).unwrap_or_default();
    if !left.is_zero() {
        return Ok(Outcome::After(left));
    }
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: secret.metadata.uid.clone(),
            resource_version: secret.metadata.resource_version.clone(),
        }),
        ..DeleteParams::default()
    };
    let api = Api::<Secret>::namespaced(context.client.clone(), NAMESPACE);
    match api.delete(&key.name, &params).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(Outcome::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn only_tokens_with_an_end_end() {
        let check = |kind: &str, namespace: &str, end: Option<&str>, expected: Option<&str>| {
            let mut secret = Secret::default();
            secret.metadata.namespace = Some(namespace.to_owned());
            secret.type_ = Some(kind.to_owned());
            secret.data = end.map(|e| [(EXPIRATION.to_owned(), ByteString(e.as_bytes().to_vec()))].into());
            let found = expires(&secret).map(|t| t.to_string());
            assert_eq!(found.as_deref(), expected);
        };
        let end = "2026-01-01T00:00:00Z";
        check(TYPE, NAMESPACE, Some(end), Some(end));
        check(TYPE, NAMESPACE, None, None);
        check(TYPE, "default", Some(end), None);
        check("Opaque", NAMESPACE, Some(end), None);
        check(TYPE, NAMESPACE, Some("soon"), Some("1970-01-01T00:00:00Z"));
    }
}
