//! The bootstrap signer: signs `cluster-info` in `kube-public` with every bootstrap token meant for it, so that who
//! knows a token can tell that what it reads there without credentials is the cluster's.
//!
//! A signature is a JWS with the content left out (`header..signature`), HMAC-SHA256 with the token's secret.

use crate::context::Context;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::error::ApiErrorExt as _;
use client::{Informer, Outcome, Selection};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

const TOKENS: &str = "kube-system";
const PUBLIC: &str = "kube-public";
const CLUSTER_INFO: &str = "cluster-info";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const CONTENT: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";
const NAME: &str = "bootstrap-token-";

/// The only item of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ClusterInfo;

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let informers = &context.options.informers;
    let tokens = Selection::in_namespace(TOKENS).with_fields(&format!("type={TYPE}"));
    let tokens = informers.select::<Secret>(tokens);
    let info = Selection::in_namespace(PUBLIC).with_fields(&format!("metadata.name={CLUSTER_INFO}"));
    let info = informers.select::<ConfigMap>(info);
    let queue = context.queue::<ClusterInfo>("bootstrap_signer_queue");
    let adds = queue.clone();
    tokens.subscribe(move |_| adds.add(ClusterInfo));
    let adds = queue.clone();
    info.subscribe(move |_| adds.add(ClusterInfo));
    let (t, i) = (tokens.clone(), info.clone());
    let synced = async move {
        t.synced().await;
        i.synced().await;
    };
    let shell = context.clone();
    context
        .work(&queue, 1, synced, move |_| {
            let (context, tokens, info) = (shell.clone(), tokens.clone(), info.clone());
            async move { reconcile(&context, &tokens, &info).await }
        })
        .await;
}

async fn reconcile(
    context: &Context,
    tokens: &Informer<Secret>,
    info: &Informer<ConfigMap>,
) -> Result<Outcome, kube::Error> {
    let Some(map) = info.find(PUBLIC, CLUSTER_INFO) else {
        return Ok(Outcome::Done);
    };
    let Some(data) = signed(map.data.as_ref(), &tokens.list(), context.now()) else {
        return Ok(Outcome::Done);
    };
    let mut written = (*map).clone();
    written.data = Some(data);
    let api = Api::<ConfigMap>::namespaced(context.client.clone(), PUBLIC);
    match api.replace(CLUSTER_INFO, &PostParams::default(), &written).await {
        Ok(_) => Ok(Outcome::Done),
        // What changed it looks again.
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(Outcome::Done),
        Err(error) => Err(error),
    }
}

/// The data with the signatures it should have; `None` when it has them, or when there is nothing to sign.
fn signed(
    data: Option<&BTreeMap<String, String>>,
    tokens: &[Arc<Secret>],
    now: Timestamp,
) -> Option<BTreeMap<String, String>> {
    let data = data?;
    let content = data.get(CONTENT)?;
    let mut wanted = data.clone();
    wanted.retain(|key, _| !key.starts_with(SIGNATURE));
    for (id, secret) in tokens.iter().filter_map(|t| credentials(t, now)) {
        wanted.insert(format!("{SIGNATURE}{id}"), signature(content, &id, &secret));
    }
    (wanted != *data).then_some(wanted)
}

/// The id and secret of a token that may sign now.
fn credentials(secret: &Secret, now: Timestamp) -> Option<(String, String)> {
    let text = |key: &str| {
        let bytes = &secret.data.as_ref()?.get(key)?.0;
        std::str::from_utf8(bytes)
            .ok()
            .filter(|t| !t.is_empty())
            .map(str::to_owned)
    };
    let id = text("token-id")?;
    let named = secret.metadata.name.as_deref()?.strip_prefix(NAME)?;
    if named != id || text("usage-bootstrap-signing").as_deref() != Some("true") {
        return None;
    }
    if let Some(end) = text("expiration") {
        // An end nobody can read has passed.
        let end: Timestamp = end.parse().ok()?;
        if end <= now {
            return None;
        }
    }
    Some((id, text("token-secret")?))
}

fn signature(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn token(name: &str, data: &[(&str, &str)]) -> Arc<Secret> {
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.to_owned());
        let bytes = |(key, text): &(&str, &str)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec()));
        secret.data = Some(data.iter().map(bytes).collect());
        Arc::new(secret)
    }

    const GOOD: [(&str, &str); 3] = [
        ("token-id", "abcdef"),
        ("token-secret", "0123456789abcdef"),
        ("usage-bootstrap-signing", "true"),
    ];

    #[test]
    fn a_signature_is_a_jws_without_its_content() {
        // Made with another implementation of JWS: python's hmac over the two encoded parts.
        assert_eq!(
            signature("content", "abcdef", "0123456789abcdef"),
            "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..psz1NayrXM3IaFzKZGsb5n_mBl7MjtlsZ1xE8MRmF_4"
        );
    }

    #[test]
    fn which_tokens_sign() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("time");
        let check = |name: &str, change: &[(&str, &str)], expected: bool| {
            let mut data: BTreeMap<&str, &str> = GOOD.into_iter().collect();
            data.extend(change.iter().copied());
            let data: Vec<_> = data.into_iter().collect();
            let found = credentials(&token(name, &data), now).is_some();
            assert_eq!(found, expected, "{name} {change:?}");
        };
        check("bootstrap-token-abcdef", &[], true);
        check("bootstrap-token-other", &[], false);
        check("abcdef", &[], false);
        check(
            "bootstrap-token-abcdef",
            &[("usage-bootstrap-signing", "yes")],
            false,
        );
        check("bootstrap-token-abcdef", &[("token-secret", "")], false);
        check(
            "bootstrap-token-abcdef",
            &[("expiration", "2025-12-31T00:00:00Z")],
            false,
        );
        check(
            "bootstrap-token-abcdef",
            &[("expiration", "2026-12-31T00:00:00Z")],
            true,
        );
        check("bootstrap-token-abcdef", &[("expiration", "never")], false);
    }

    #[test]
    fn signatures_come_and_go_with_their_tokens() {
        let data = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let tokens = [token("bootstrap-token-abcdef", &GOOD)];
        let now = Timestamp::UNIX_EPOCH;
        let plain = data(&[(CONTENT, "c")]);
        let with = signed(Some(&plain), &tokens, now).expect("changed");
        assert_eq!(
            with["jws-kubeconfig-abcdef"],
            signature("c", "abcdef", "0123456789abcdef")
        );
        assert_eq!(signed(Some(&with), &tokens, now), None);
        assert_eq!(signed(Some(&with), &[], now), Some(plain));
        assert_eq!(signed(Some(&data(&[("other", "c")])), &tokens, now), None);
    }
}
