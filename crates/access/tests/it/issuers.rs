//! Tokens of other issuers: discovery, keys, claims, expressions, and issuers that mean ill.

use super::outside::{ALL_ILL, Service};
use access::authentication::jwt::{
    ClaimRule, Configuration, Extra, Issuer, IssuerAddress, JsonWebTokens, Mapping, Mappings, UserRule,
};
use access::authentication::service_account::SigningKey;
use access::authentication::{Authenticator, Credentials, Outcome};
use http::{HeaderMap, HeaderValue};
use machinery::clock::{Clock, SystemClock};
use machinery::user::UserInfo;
use serde_json::{Value as Json, json};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// An issuer whose names are `sub` behind `oidc:`.
pub(crate) fn issuer(url: &str) -> Issuer {
    Issuer {
        issuer: IssuerAddress {
            url: url.to_owned(),
            audiences: vec!["us".to_owned()],
            ..IssuerAddress::default()
        },
        claim_mappings: Mappings {
            username: Mapping {
                claim: "sub".to_owned(),
                prefix: Some("oidc:".to_owned()),
                ..Mapping::default()
            },
            groups: Mapping {
                claim: "groups".to_owned(),
                prefix: Some("g:".to_owned()),
                ..Mapping::default()
            },
            ..Mappings::default()
        },
        ..Issuer::default()
    }
}

fn key() -> SigningKey {
    SigningKey::from_pem(&wire::certs::generate_key().expect("a key")).expect("readable")
}

/// An issuer's service that publishes these keys, which may change.
async fn publisher(keys: Arc<Mutex<Vec<Json>>>) -> Service {
    let own = Arc::new(Mutex::new(String::new()));
    let url = Arc::clone(&own);
    let service = Service::start(move |path, _| {
        let base = url.lock().expect("lock").clone();
        match path {
            "/.well-known/openid-configuration" => (
                200,
                json!({"issuer": base, "jwks_uri": format!("{base}/keys")}).to_string(),
            ),
            "/keys" => (200, json!({"keys": *keys.lock().expect("lock")}).to_string()),
            _ => (404, String::new()),
        }
    })
    .await;
    service.url.clone_into(&mut own.lock().expect("lock"));
    service
}

fn claims(issuer: &str, more: Json) -> Json {
    let now = SystemClock.now().as_second();
    let mut claims =
        json!({"iss": issuer, "aud": ["us", "them"], "sub": "alice", "iat": now, "exp": now + 600});
    for (key, value) in more.as_object().expect("an object") {
        claims[key] = value.clone();
    }
    claims
}

async fn ask(tokens: &JsonWebTokens, token: &str) -> Result<UserInfo, String> {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("ascii");
    headers.insert(http::header::AUTHORIZATION, value);
    let credentials = Credentials {
        headers: &headers,
        connection: None,
    };
    match tokens.authenticate(&credentials).await {
        Ok(Outcome::User(user)) => Ok(UserInfo::clone(&user)),
        Ok(Outcome::NotMine) => Err("not ours".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test]
async fn a_token_is_its_bearers_if_everything_about_it_is_right() {
    let (key, other) = (key(), key());
    let service = publisher(Arc::new(Mutex::new(vec![key.public().jwk()]))).await;
    let tokens = JsonWebTokens::new(&[issuer(&service.url)], clock()).expect("valid");
    let sign = |more: Json| key.sign(&claims(&service.url, more)).expect("signs");
    let user = ask(&tokens, &sign(json!({"groups": ["a", "b"]})))
        .await
        .expect("known");
    assert_eq!(user.name, "oidc:alice");
    assert_eq!(user.groups, ["g:a", "g:b", "system:authenticated"]);
    let asked = service.asked.load(Ordering::SeqCst);
    assert_eq!(
        ask(&tokens, &sign(json!({"groups": "a"})))
            .await
            .expect("known")
            .groups[0],
        "g:a"
    );
    assert_eq!(service.asked.load(Ordering::SeqCst), asked, "its keys are known");
    let now = SystemClock.now().as_second();
    for (more, why) in [
        (json!({"exp": now - 1}), "token is expired"),
        (json!({"exp": null}), "token is expired"),
        (json!({"nbf": now + 3600}), "before the nbf"),
        (json!({"aud": "them"}), "expected audience"),
        (json!({"sub": 7}), "parse username claims"),
        (json!({"iss": "https://other"}), "not ours"),
    ] {
        let error = ask(&tokens, &sign(more.clone())).await.expect_err("refused");
        assert!(error.contains(why), "{more}: {error}");
    }
    let forged = other.sign(&claims(&service.url, json!({}))).expect("signs");
    assert!(
        ask(&tokens, &forged)
            .await
            .expect_err("refused")
            .contains("failed to verify")
    );
    // The payload of one under the signature of another, and no signature at all.
    let (good, evil) = (sign(json!({})), sign(json!({"sub": "admin"})));
    let parts = |token: &str| -> Vec<String> { token.split('.').map(str::to_owned).collect() };
    let (good, evil) = (parts(&good), parts(&evil));
    let mixed = format!("{}.{}.{}", good[0], evil[1], good[2]);
    assert!(ask(&tokens, &mixed).await.is_err());
    use base64::Engine as _;
    let none = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let error = ask(&tokens, &format!("{none}.{}.", evil[1]))
        .await
        .expect_err("refused");
    assert!(error.contains("unsupported algorithm"), "{error}");
}

#[tokio::test]
async fn an_issuer_may_change_its_keys() {
    let (old, new) = (key(), key());
    let published = Arc::new(Mutex::new(vec![old.public().jwk()]));
    let service = publisher(Arc::clone(&published)).await;
    let tokens = JsonWebTokens::new(&[issuer(&service.url)], clock()).expect("valid");
    let token = |key: &SigningKey| key.sign(&claims(&service.url, json!({}))).expect("signs");
    ask(&tokens, &token(&old)).await.expect("known");
    tokio::time::pause();
    *published.lock().expect("lock") = vec![new.public().jwk()];
    // It was asked a moment ago and is left alone for a while.
    let asked = service.asked.load(Ordering::SeqCst);
    ask(&tokens, &token(&new)).await.expect_err("not known yet");
    assert_eq!(service.asked.load(Ordering::SeqCst), asked);
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    ask(&tokens, &token(&new)).await.expect("asked again");
    ask(&tokens, &token(&old)).await.expect_err("no longer published");
}

#[tokio::test]
async fn expressions_make_users_and_refuse_them() {
    let key = key();
    let service = publisher(Arc::new(Mutex::new(vec![key.public().jwk()]))).await;
    let expression = |text: &str| Mapping {
        expression: text.to_owned(),
        ..Mapping::default()
    };
    let tokens = JsonWebTokens::new(
        &[Issuer {
            claim_validation_rules: vec![
                ClaimRule {
                    expression: "claims.exp - claims.iat <= 3600".to_owned(),
                    message: "lives too long".to_owned(),
                    ..ClaimRule::default()
                },
                ClaimRule {
                    claim: "tenant".to_owned(),
                    required_value: "t1".to_owned(),
                    ..ClaimRule::default()
                },
            ],
            claim_mappings: Mappings {
                username: expression("'u:' + claims.sub"),
                groups: expression("claims.roles.split(',')"),
                uid: expression("claims.sub"),
                extra: vec![Extra {
                    key: "example.com/tenant".to_owned(),
                    value_expression: "claims.tenant".to_owned(),
                }],
            },
            user_validation_rules: vec![UserRule {
                expression:
                    "!user.username.startsWith('system:') && !user.groups.exists(g, g.startsWith('system:'))"
                        .to_owned(),
                message: "reserved".to_owned(),
            }],
            ..issuer(&service.url)
        }],
        clock(),
    )
    .expect("valid");
    let sign = |more: Json| key.sign(&claims(&service.url, more)).expect("signs");
    let user = ask(&tokens, &sign(json!({"roles": "a,b", "tenant": "t1"})))
        .await
        .expect("known");
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("u:alice", "alice"));
    assert_eq!(user.groups, ["a", "b", "system:authenticated"]);
    assert_eq!(user.extra["example.com/tenant"], ["t1"]);
    let now = SystemClock.now().as_second();
    for (more, why) in [
        (
            json!({"roles": "a", "tenant": "t2"}),
            "required claim tenant value does not match",
        ),
        (json!({"roles": "a"}), "extra"),
        (json!({"roles": "system:masters", "tenant": "t1"}), "reserved"),
        (
            json!({"roles": "a", "tenant": "t1", "exp": now + 7200}),
            "lives too long",
        ),
        (json!({"roles": 7, "tenant": "t1"}), "group claim expression"),
    ] {
        let error = ask(&tokens, &sign(more.clone())).await.expect_err("refused");
        assert!(error.contains(why), "{more}: {error}");
    }
}

#[tokio::test]
async fn issuers_that_mean_ill_cost_their_timeout_once() {
    let key = key();
    for how in ALL_ILL {
        let service = Service::ill(how).await;
        let tokens = Arc::new(JsonWebTokens::new(&[issuer(&service.url)], clock()).expect("valid"));
        let token = key.sign(&claims(&service.url, json!({}))).expect("signs");
        let asked = (0..20).map(|_| {
            let (tokens, token) = (Arc::clone(&tokens), token.clone());
            tokio::spawn(async move { ask(&tokens, &token).await })
        });
        let outcomes = tokio::time::timeout(Duration::from_secs(300), futures::future::join_all(asked)).await;
        for outcome in outcomes.unwrap_or_else(|_| panic!("{how:?} is waited for")) {
            let error = outcome.expect("no panic").expect_err("nobody is known");
            assert!(error.contains("keys of"), "{how:?} {error}");
        }
        assert!(service.asked.load(Ordering::SeqCst) <= 1, "{how:?}");
    }
}

#[test]
fn configurations_are_judged_as_upstream_judges_them() {
    let check = |jwt: &str, expected: &str| {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt: [{jwt}]"
        );
        let own = ["https://own".to_owned()];
        let outcome = Configuration::parse(&text, &own)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(
            outcome.contains(expected) && outcome.is_empty() == expected.is_empty(),
            "{jwt}: {outcome}"
        );
    };
    let of = |issuer: &str, more: &str| format!("{{issuer: {{{issuer}}}, {more}}}");
    let good = "url: \"https://a\", audiences: [x]";
    let name = "claimMappings: {username: {claim: sub, prefix: \"\"}}";
    check(&of(good, name), "");
    check(
        &of("url: \"http://a\", audiences: [x]", name),
        "URL scheme must be https",
    );
    check(
        &of("url: \"https://own\", audiences: [x]", name),
        "must not overlap with disallowed issuers",
    );
    check(&of("url: \"https://a\"", name), "at least one");
    check(
        &of("url: \"https://a\", audiences: [x, y]", name),
        "must be MatchAny for multiple audiences",
    );
    check(
        &of(
            "url: \"https://a\", audiences: [x, y], audienceMatchPolicy: MatchAny",
            name,
        ),
        "",
    );
    check(&of(good, "claimMappings: {}"), "claim or expression is required");
    check(
        &of(good, "claimMappings: {username: {claim: sub}}"),
        "prefix is required when claim is set",
    );
    check(
        &of(
            good,
            "claimMappings: {username: {claim: sub, expression: claims.sub}}",
        ),
        "can't both be set",
    );
    check(
        &of(good, "claimMappings: {username: {expression: \"claims.\"}}"),
        "compilation failed",
    );
    check(
        &of(good, "claimMappings: {username: {expression: claims.email}}"),
        "claims.email_verified must be used",
    );
    check(
        &of(
            good,
            &format!("{name}, userValidationRules: [{{expression: user.username}}]"),
        ),
        "must evaluate to bool",
    );
    check(
        &of(good, &format!("{name}, claimValidationRules: [{{}}]")),
        "claim or expression is required",
    );
    check(
        &of(
            good,
            "claimMappings: {username: {claim: sub, prefix: \"\"}, extra: [{key: k8s.io/x, valueExpression: claims.a}]}",
        ),
        "reserved for Kubernetes use",
    );
    check(
        &format!("{}, {}", of(good, name), of(good, name)),
        "Duplicate value",
    );
}
