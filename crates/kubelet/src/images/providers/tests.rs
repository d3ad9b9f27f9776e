//! Programs of shell that answer, count how often they are asked, or fail.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;

const VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

/// Moved by hand: a program takes real time, which a paused timer would not wait for.
#[derive(Debug, Default)]
struct ByHand(Mutex<Timestamp>);

impl ByHand {
    fn advance(&self, by: Duration) {
        let mut now = self.0.lock();
        *now = plus(*now, by);
    }
}

impl Clock for ByHand {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}

/// A program that notes each request in `asked` and answers this.
fn program(dir: &Path, answer: &str) -> Settings {
    let program = dir.join("provider");
    let script = format!(
        "#!/bin/sh\ncat >> {asked}; echo >> {asked}\n{answer}\n",
        asked = dir.join("asked").display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    Settings {
        name: "provider".to_owned(),
        program,
        api_version: VERSION.to_owned(),
        images: vec!["*.example.com".to_owned()],
        cache: Duration::from_secs(60),
        args: Vec::new(),
        env: [("SECRET".to_owned(), "hush".to_owned())].into(),
        account: None,
    }
}

fn answer(reach: &str) -> String {
    format!(
        r#"printf '{{"kind":"CredentialProviderResponse","apiVersion":"{VERSION}","cacheKeyType":"{reach}",
        "auth":{{"*.example.com":{{"username":"any","password":"%s"}},"*.example.com/team":{{"username":"team","password":"t"}},
        "other.org":{{"username":"o","password":"o"}}}}}}' "$SECRET""#
    )
}

fn providers(settings: Settings, clock: &Arc<ByHand>) -> Providers {
    // Nobody answers there, and nobody is asked.
    let client = || {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("nobody is asked"))
        });
        kube::Client::new(service, "default")
    };
    let clock: Arc<dyn Clock> = clock.clone();
    let tokens = Arc::new(Tokens::new(client(), clock.clone()));
    Providers::new(vec![settings], client(), tokens, clock)
}

fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": []},
    }))
    .unwrap()
}

async fn users(providers: &Providers, image: &str) -> Vec<String> {
    let found = providers.lookup(&pod(), image).await;
    found
        .into_iter()
        .map(|a| format!("{}:{}", a.username, a.password))
        .collect()
}

fn asked(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("asked")).map_or(0, |text| text.lines().count())
}

#[tokio::test]
async fn a_program_is_asked_and_its_answer_kept() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ByHand::default());
    let providers = providers(program(dir.path(), &answer("Registry")), &clock);
    assert_eq!(users(&providers, "other.org/a").await, Vec::<String>::new());
    assert_eq!(asked(dir.path()), 0);
    assert_eq!(
        users(&providers, "r.example.com/team/a").await,
        ["team:t", "any:hush"]
    );
    assert_eq!(users(&providers, "r.example.com/b").await, ["any:hush"]);
    assert_eq!(asked(dir.path()), 1);
    // Another registry, then the first after its answer's time.
    assert_eq!(users(&providers, "s.example.com/b").await, ["any:hush"]);
    assert_eq!(asked(dir.path()), 2);
    clock.advance(Duration::from_secs(61));
    assert_eq!(users(&providers, "r.example.com/b").await, ["any:hush"]);
    assert_eq!(asked(dir.path()), 3);
    let requests = std::fs::read_to_string(dir.path().join("asked")).unwrap();
    assert!(requests.starts_with(&format!(
        r#"{{"apiVersion":"{VERSION}","image":"r.example.com/team/a","kind":"CredentialProviderRequest"}}"#
    )));
}

#[tokio::test]
async fn one_that_fails_gives_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ByHand::default());
    for answer in ["echo no >&2; exit 3", "echo nonsense", "true"] {
        let providers = providers(program(dir.path(), answer), &clock);
        assert_eq!(users(&providers, "r.example.com/a").await, Vec::<String>::new());
    }
    assert_eq!(asked(dir.path()), 3);
}

#[tokio::test]
async fn without_a_service_account_one_that_needs_it_is_not_asked() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ByHand::default());
    for (required, times) in [(true, 0), (false, 1)] {
        let mut settings = program(dir.path(), &answer("Global"));
        settings.account = Some(Account {
            audience: "r".to_owned(),
            required,
            required_annotations: Vec::new(),
            optional_annotations: Vec::new(),
            by_token: false,
        });
        users(&providers(settings, &clock), "r.example.com/a").await;
        assert_eq!(asked(dir.path()), times);
    }
}
