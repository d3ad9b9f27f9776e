//! Secrets encrypted in the store: rotation without a pause, a lost key, the key that comes back.

use super::{Api, MAPS};
use apiserver::Config;
use encryption::{Configuration, Sealed};
use machinery::clock::SystemClock;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use store::{Embedded, Memory, Store};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn keys(names: &[&str]) -> Configuration {
    let keys: Vec<String> = names
        .iter()
        .map(|name| {
            let secret = name.repeat(32);
            use base64::Engine as _;
            let secret = base64::engine::general_purpose::STANDARD.encode(&secret.as_bytes()[..32]);
            format!("{{name: {name}, secret: {secret}}}")
        })
        .collect();
    Configuration::parse(&format!(
        "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{{resources: [secrets], providers: [{{aesgcm: {{keys: [{}]}}}}, {{identity: {{}}}}]}}]}}",
        keys.join(", ")
    ))
    .expect("valid")
}

async fn start(inner: Arc<dyn Store>, configuration: &Configuration) -> (Api, Arc<Sealed>) {
    let stored = apiserver::registry::built_in_stored();
    let sealed = Arc::new(Sealed::new(inner, stored, configuration).await);
    let config = Config {
        encryption: Some(Arc::clone(&sealed)),
        ..Config::new(Arc::clone(&sealed) as Arc<dyn Store>, Arc::new(SystemClock))
    };
    (Api::with(config).await, sealed)
}

fn secret(name: &str) -> Json {
    json!({"metadata": {"name": name}, "stringData": {"password": "swordfish-in-the-clear"}})
}

async fn raw(inner: &Arc<dyn Store>, name: &str) -> Vec<u8> {
    let key = format!("/registry/secrets/default/{name}");
    let answer = inner.get(key.as_bytes()).await.expect("answers");
    answer.kv.expect("is stored").value.to_vec()
}

#[tokio::test]
async fn an_unchanged_secret_is_written_again_with_the_new_key() {
    let inner: Arc<dyn Store> = Arc::new(Memory::new());
    let (api, sealed) = start(Arc::clone(&inner), &keys(&["a"])).await;
    let made = api.post(SECRETS, secret("s")).await.ok();
    assert!(raw(&inner, "s").await.starts_with(b"k8s:enc:aesgcm:v1:a:"));
    let path = format!("{SECRETS}/s");
    let same = api.put(&path, &made).await.ok();
    assert_eq!(
        same["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    sealed.replace(&keys(&["b", "a"])).await;
    assert_eq!(api.get(&path).await.ok()["data"], made["data"]);
    let again = api.put(&path, &made).await.ok();
    assert_ne!(
        again["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    assert!(raw(&inner, "s").await.starts_with(b"k8s:enc:aesgcm:v1:b:"));
    sealed.replace(&keys(&["b"])).await;
    assert_eq!(api.get(&path).await.ok()["data"], made["data"]);
}

#[tokio::test]
async fn a_lost_key_fails_its_objects_and_no_others_until_it_is_back() {
    let inner: Arc<dyn Store> = Arc::new(Memory::new());
    let (api, _) = start(Arc::clone(&inner), &keys(&["a"])).await;
    api.post(SECRETS, secret("lost")).await.ok();
    let (api, sealed) = start(inner, &keys(&["b"])).await;
    api.post(SECRETS, secret("found")).await.ok();
    api.config_map("m", "l").await;
    let names = |list: Json| -> Vec<String> {
        let items = list["items"].as_array().expect("items").clone();
        items
            .iter()
            .map(|item| item["metadata"]["name"].as_str().expect("name").to_owned())
            .collect()
    };
    let list = api.get(SECRETS).await;
    let warnings = list.warnings();
    assert!(
        warnings
            .iter()
            .any(|w| w.contains("1 secrets cannot be read and is not listed: lost")),
        "{warnings:?}"
    );
    assert_eq!(names(list.ok()), ["found"]);
    let why = "Internal error occurred: reading a stored secrets: no matching prefix found: it is encrypted as k8s:enc:aesgcm:v1:a:, and no key of that name is configured";
    let lost = format!("{SECRETS}/lost");
    api.get(&lost).await.fails(500, why);
    api.put(&lost, &secret("lost")).await.fails(500, why);
    api.get(&format!("{SECRETS}/found")).await.ok();
    api.get(&format!("{MAPS}/m")).await.ok();
    sealed.replace(&keys(&["b", "a"])).await;
    api.get(&lost).await.ok();
    assert_eq!(names(api.get(SECRETS).await.ok()), ["found", "lost"]);
}

#[tokio::test]
async fn the_data_files_hold_no_plain_secret() {
    let dir = tempfile::tempdir().expect("dir");
    let embedded = Embedded::open(dir.path(), store::embedded::Options::default())
        .await
        .expect("opens");
    let inner: Arc<dyn Store> = Arc::new(embedded);
    let text = Configuration::generate().expect("a key");
    let (api, _) = start(Arc::clone(&inner), &Configuration::parse(&text).expect("valid")).await;
    api.post(SECRETS, secret("s")).await.ok();
    let map = json!({"metadata": {"name": "m"}, "data": {"note": "plaintext-in-a-config-map"}});
    api.post(MAPS, map).await.ok();
    inner.close().await.expect("closes");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir.path()).expect("dir") {
        let path = entry.expect("entry").path();
        if path.is_file() {
            all.extend(std::fs::read(path).expect("file"));
        }
    }
    let holds = |text: &str| all.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("plaintext-in-a-config-map"), "this is where objects are");
    assert!(!holds("swordfish-in-the-clear"));
    assert!(!holds("c3dvcmRmaXNoLWluLXRoZS1jbGVhc"), "nor as base64");
    assert!(holds("k8s:enc:secretbox:v1:key-"));
}
