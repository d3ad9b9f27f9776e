//! Encrypted stores over a store in memory: what stands there, rotation, lost keys, KMS plugins good and bad.

mod kms;
mod plugin;

use encryption::{Configuration, Sealed, StoredResource, unreadable};
use futures::StreamExt as _;
use std::sync::Arc;
use store::{KeyRange, Memory, RangeRequest, Store, Txn, WatchRequest};

const SECRET: &str = "/registry/secrets/default/a";
const POD: &str = "/registry/pods/default/a";
const CUSTOM: &str = "/registry/example.com/things/default/a";
const KEY_1: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const KEY_2: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

fn known() -> Vec<StoredResource> {
    [
        ("/registry/secrets/", "", "secrets"),
        ("/registry/pods/", "", "pods"),
        ("/registry/deployments/", "apps", "deployments"),
    ]
    .map(|(prefix, group, resource)| StoredResource {
        prefix: prefix.to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
    })
    .into()
}

fn configuration(rules: &[(&str, &[&str])]) -> Configuration {
    let mut text =
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n".to_owned();
    for (resource, providers) in rules {
        text.push_str(&format!(
            "- resources: [\"{resource}\"]\n  providers: [{}]\n",
            providers.join(", ")
        ));
    }
    Configuration::parse(&text).expect("valid")
}

fn keys(provider: &str, keys: &[(&str, &str)]) -> String {
    let keys: Vec<String> = keys
        .iter()
        .map(|(name, secret)| format!("{{name: {name}, secret: \"{secret}\"}}"))
        .collect();
    format!("{provider}: {{keys: [{}]}}", keys.join(", "))
}

async fn get(store: &dyn Store, key: &str) -> Vec<u8> {
    let answer = store.get(key.as_bytes()).await.expect("answers");
    answer.kv.expect("is there").value.to_vec()
}

async fn put(store: &dyn Store, key: &str, value: &str) {
    store
        .txn(Txn::put(key.to_owned(), value.to_owned()))
        .await
        .expect("put");
}

async fn stand(rules: &[(&str, &[&str])]) -> (Arc<dyn Store>, Sealed) {
    let inner: Arc<dyn Store> = Arc::new(Memory::new());
    let sealed = Sealed::new(Arc::clone(&inner), known(), &configuration(rules)).await;
    (inner, sealed)
}

#[tokio::test]
async fn only_what_is_configured_is_encrypted_under_upstreams_prefixes() {
    for provider in ["aescbc", "aesgcm", "secretbox"] {
        let (inner, sealed) = stand(&[("secrets", &[&keys(provider, &[("key1", KEY_1)])])]).await;
        put(&sealed, SECRET, "plain").await;
        put(&sealed, POD, "plain").await;
        let raw = get(&*inner, SECRET).await;
        assert!(raw.starts_with(format!("k8s:enc:{provider}:v1:key1:").as_bytes()));
        assert!(!raw.windows(5).any(|w| w == b"plain"));
        assert_eq!(get(&sealed, SECRET).await, b"plain");
        assert_eq!(get(&*inner, POD).await, b"plain");
        let all = sealed
            .range(RangeRequest::new(KeyRange::prefix("/registry/")))
            .await
            .expect("range");
        assert!(all.kvs.iter().all(|kv| &kv.value[..] == b"plain"), "{all:?}");
    }
}

#[tokio::test]
async fn wildcards_reach_groups_and_custom_resources() {
    let gcm = keys("aesgcm", &[("k", KEY_1)]);
    let check = async |rules: &[(&str, &[&str])], expected: [bool; 4]| {
        let (inner, sealed) = stand(rules).await;
        for (key, encrypted) in [SECRET, POD, "/registry/deployments/default/a", CUSTOM]
            .iter()
            .zip(expected)
        {
            put(&sealed, key, "plain").await;
            assert_eq!(get(&*inner, key).await != b"plain", encrypted, "{rules:?} {key}");
            assert_eq!(get(&sealed, key).await, b"plain", "{rules:?} {key}");
        }
    };
    check(&[("*.*", &[&gcm])], [true; 4]).await;
    check(&[("*.", &[&gcm])], [true, true, false, false]).await;
    check(&[("*.apps", &[&gcm])], [false, false, true, false]).await;
    check(&[("things.example.com", &[&gcm])], [false, false, false, true]).await;
    check(&[("*.example.com", &[&gcm])], [false, false, false, true]).await;
    check(
        &[("pods", &["identity: {}"]), ("*.*", &[&gcm])],
        [true, false, true, true],
    )
    .await;
}

#[tokio::test]
async fn keys_rotate_while_everything_is_readable() {
    let old = keys("aescbc", &[("key1", KEY_1)]);
    let both_old_first = keys("aescbc", &[("key1", KEY_1), ("key2", KEY_2)]);
    let both_new_first = keys("aescbc", &[("key2", KEY_2), ("key1", KEY_1)]);
    let new = keys("aescbc", &[("key2", KEY_2)]);
    let (inner, sealed) = stand(&[("secrets", &["identity: {}", &old])]).await;
    put(&sealed, SECRET, "plain").await;
    assert_eq!(get(&*inner, SECRET).await, b"plain");
    for (step, provider, prefix) in [
        ("encrypt at all", &old, "k8s:enc:aescbc:v1:key1:"),
        ("the new key reads", &both_old_first, "k8s:enc:aescbc:v1:key1:"),
        ("the new key writes", &both_new_first, "k8s:enc:aescbc:v1:key2:"),
        ("the old key goes", &new, "k8s:enc:aescbc:v1:key2:"),
    ] {
        let before = sealed.generation();
        sealed
            .replace(&configuration(&[("secrets", &[provider, "identity: {}"])]))
            .await;
        assert!(sealed.generation() > before);
        assert_eq!(get(&sealed, SECRET).await, b"plain", "{step}");
        let raw = get(&*inner, SECRET).await;
        let stale = sealed.is_stale(SECRET.as_bytes()).await.expect("answers");
        assert_eq!(stale, !raw.starts_with(prefix.as_bytes()), "{step}");
        put(&sealed, SECRET, "plain").await;
        assert!(
            get(&*inner, SECRET).await.starts_with(prefix.as_bytes()),
            "{step}"
        );
        assert!(
            !sealed.is_stale(SECRET.as_bytes()).await.expect("answers"),
            "{step}"
        );
    }
}

#[tokio::test]
async fn a_lost_key_is_told_for_its_values_alone() {
    let (_, sealed) = stand(&[("secrets", &[&keys("aesgcm", &[("key1", KEY_1)])])]).await;
    put(&sealed, SECRET, "plain").await;
    sealed
        .replace(&configuration(&[(
            "secrets",
            &[&keys("aesgcm", &[("key2", KEY_2)])],
        )]))
        .await;
    put(&sealed, "/registry/secrets/default/b", "other").await;
    let all = sealed
        .range(RangeRequest::new(KeyRange::prefix("/registry/secrets/")))
        .await
        .expect("range");
    let why = unreadable(&all.kvs[0].value).expect("unreadable");
    assert!(why.contains("encrypted as k8s:enc:aesgcm:v1:key1:"), "{why}");
    assert_eq!(&all.kvs[1].value[..], b"other");
    assert_eq!(unreadable(&all.kvs[1].value), None);
    // The same name, another key.
    sealed
        .replace(&configuration(&[(
            "secrets",
            &[&keys("aesgcm", &[("key1", KEY_2)])],
        )]))
        .await;
    let raw = get(&sealed, SECRET).await;
    assert!(
        unreadable(&raw)
            .expect("unreadable")
            .contains("message authentication failed")
    );
}

#[tokio::test]
async fn values_do_not_move_and_plain_ones_are_not_let_in() {
    let gcm = keys("aesgcm", &[("key1", KEY_1)]);
    let (inner, sealed) = stand(&[("secrets", &[&gcm])]).await;
    put(&sealed, SECRET, "plain").await;
    let raw = get(&*inner, SECRET).await;
    let other = "/registry/secrets/default/b";
    inner.txn(Txn::put(other, raw)).await.expect("put");
    assert!(unreadable(&get(&sealed, other).await).is_some());
    put(&*inner, other, "planted").await;
    let answer = get(&sealed, other).await;
    assert!(
        unreadable(&answer)
            .expect("refused")
            .contains("it is not encrypted")
    );
}

#[tokio::test]
async fn watches_and_refused_writes_show_plain_values() {
    let (_, sealed) = stand(&[("secrets", &[&keys("secretbox", &[("key1", KEY_1)])])]).await;
    let request = WatchRequest::new(KeyRange::prefix("/registry/"), 0).prev_kv();
    let mut watch = sealed.watch(request).await.expect("watch");
    put(&sealed, SECRET, "one").await;
    put(&sealed, POD, "pod").await;
    put(&sealed, SECRET, "two").await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        for event in watch.next().await.expect("goes on").expect("batch").events {
            let prev = event.prev.map(|kv| kv.value.to_vec()).unwrap_or_default();
            seen.push((event.kv.value.to_vec(), prev));
        }
    }
    let expected = [("one", ""), ("pod", ""), ("two", "one")];
    assert_eq!(
        seen,
        expected.map(|(a, b)| (a.as_bytes().to_vec(), b.as_bytes().to_vec()))
    );
    let refused = sealed
        .txn(Txn::create(SECRET, "three", 0))
        .await
        .expect("answers");
    assert!(!refused.succeeded);
    assert_eq!(refused.found().expect("stands").value, "two");
}
