//! The certificate request cleaner: requests nobody needs any more go, an hour after they were decided, a day after
//! they were made if nobody decided, and at once when their certificate has expired.

use crate::certificate_request::issued;
use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Api, DeleteParams};
use std::time::Duration;
use x509_parser::pem::parse_x509_pem;

const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let requests = context.informer::<CertificateSigningRequest>();
    let queue = context.queue::<ObjectKey>("certificate_cleaner");
    let adds = queue.clone();
    requests.subscribe(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            adds.add(ObjectKey::of(&**event.object()));
        }
    });
    let all = requests.clone();
    let synced = async move { all.synced().await };
    let shell = context.clone();
    context
        .work(&queue, 1, synced, move |key| {
            let (context, requests) = (shell.clone(), requests.clone());
            async move { reconcile(&context, &requests, &key).await }
        })
        .await;
}

/// When the request is to go.
fn ends(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let after =
        |time: Option<Timestamp>, lifetime| time.and_then(|t: Timestamp| t.checked_add(lifetime).ok());
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_ref());
    let conditions = conditions.map_or(&[][..], Vec::as_slice);
    if conditions.is_empty() {
        let made = request.metadata.creation_timestamp.as_ref().map(|t| t.0);
        return after(made, PENDING);
    }
    let certificate = issued(request);
    let mut ends: Vec<Timestamp> = conditions
        .iter()
        .filter_map(|c| {
            let lifetime = match c.type_.as_str() {
                "Denied" | "Failed" => DECIDED,
                "Approved" if certificate.is_some() => DECIDED,
                "Approved" => PENDING,
                _ => return None,
            };
            after(c.last_update_time.as_ref().map(|t| t.0), lifetime)
        })
        .collect();
    ends.extend(certificate.and_then(expiry));
    ends.into_iter().min()
}

fn expiry(pem: &[u8]) -> Option<Timestamp> {
    let (_, pem) = parse_x509_pem(pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

async fn reconcile(
    context: &Context,
    requests: &Informer<CertificateSigningRequest>,
    key: &ObjectKey,
) -> Result<Outcome, kube::Error> {
    let Some(end) = requests.get(key).and_then(|request| ends(&request)) else {
        return Ok(Outcome::Done);
    };
    let left = Duration::try_from(end.duration_since(context.now())).unwrap_or_default();
    if !left.is_zero() {
        return Ok(Outcome::After(left));
    }
    let api = Api::<CertificateSigningRequest>::all(context.client.clone());
    match api.delete(&key.name, &DeleteParams::default()).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Outcome::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn lifetimes() {
        let check = |conditions: Value, certificate: Option<&str>, expected: &str| {
            let request = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"request": "", "signerName": "s"},
                "status": {"conditions": conditions, "certificate": certificate}});
            let request: CertificateSigningRequest = serde_json::from_value(request).expect("request");
            assert_eq!(ends(&request).expect("ends").to_string(), expected);
        };
        let condition =
            |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T10:00:00Z"}]);
        check(json!([]), None, "2026-01-02T00:00:00Z");
        check(condition("Denied"), None, "2026-01-01T11:00:00Z");
        check(condition("Approved"), None, "2026-01-02T10:00:00Z");
        check(condition("Approved"), Some("eA=="), "2026-01-01T11:00:00Z");
    }
}
