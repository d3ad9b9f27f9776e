//! Services that mean ill cost a request their timeout, all waiting requests together no more, and give no right.

use super::outside::{ALL_ILL, Service};
use access::authentication::webhook::WebhookTokens;
use access::authentication::{Authenticator, Credentials, Outcome};
use access::authorization::webhook::{FailurePolicy, Options, Webhook};
use access::authorization::{Attributes, Authorizer, Decision};
use access::remote::Remote;
use http::{HeaderMap, HeaderValue};
use machinery::user::UserInfo;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const TIMEOUT: Duration = Duration::from_millis(300);
/// Long past every timeout, on however busy a machine: who still waits then waits for ever.
const FOREVER: Duration = Duration::from_secs(60);

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("ascii");
    headers.insert(http::header::AUTHORIZATION, value);
    headers
}

#[tokio::test]
async fn webhooks_that_know_tokens() {
    for how in ALL_ILL {
        let service = Service::ill(how).await;
        let remote = Remote::from_config(service.kubeconfig(), TIMEOUT)
            .await
            .expect("a remote");
        let webhook = WebhookTokens::new(remote, "v1", vec!["a".to_owned()], Duration::from_secs(120));
        let headers = bearer("t");
        let credentials = Credentials {
            headers: &headers,
            connection: None,
        };
        let outcome = timeout(FOREVER, webhook.authenticate(&credentials)).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("{how:?} is waited for"));
        assert!(outcome.is_err(), "{how:?} {outcome:?}");
    }
}

#[tokio::test]
async fn webhooks_that_decide() {
    for how in ALL_ILL {
        for (policy, denies) in [(FailurePolicy::Deny, true), (FailurePolicy::NoOpinion, false)] {
            let service = Service::ill(how).await;
            let remote = Remote::from_config(service.kubeconfig(), TIMEOUT)
                .await
                .expect("a remote");
            let options = Options {
                name: "w".to_owned(),
                version: "v1".to_owned(),
                keep_allowed: Some(Duration::from_secs(300)),
                keep_refused: Some(Duration::from_secs(30)),
                failure_policy: policy,
            };
            let webhook = Arc::new(Webhook::new(remote, options, &[]).expect("no conditions"));
            let asked = (0..20).map(|n| {
                let webhook = Arc::clone(&webhook);
                tokio::spawn(async move {
                    let user = UserInfo::authenticated(format!("u{n}"), &[]);
                    webhook
                        .authorize(&Attributes::resource(&user, "get", "", "pods"))
                        .await
                })
            });
            let decisions = timeout(FOREVER, futures::future::join_all(asked)).await;
            for decision in decisions.unwrap_or_else(|_| panic!("{how:?} is waited for")) {
                let decision = decision.expect("no panic");
                assert!(decision != Decision::Allow, "{how:?}");
                assert_eq!(
                    matches!(decision, Decision::Deny(_)),
                    denies,
                    "{how:?} {decision:?}"
                );
            }
        }
    }
}

/// Whoever is not known by a token that names no issuer we trust is told so without anybody being asked.
#[tokio::test]
async fn nobody_is_asked_about_other_texts() {
    let service = Service::start(|_, _| (200, "{}".to_owned())).await;
    let issuer = super::issuers::issuer(&service.url);
    let tokens =
        access::authentication::jwt::JsonWebTokens::new(&[issuer], super::issuers::clock()).expect("valid");
    for text in ["x", "a.b.c", "....", "eyJhbGciOiJub25lIn0.e30."] {
        let headers = bearer(text);
        let credentials = Credentials {
            headers: &headers,
            connection: None,
        };
        let outcome = tokens.authenticate(&credentials).await.expect("not ours");
        assert!(matches!(outcome, Outcome::NotMine), "{text}");
    }
    assert_eq!(service.asked.load(std::sync::atomic::Ordering::SeqCst), 0);
}
