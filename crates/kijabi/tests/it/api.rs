//! Talking to a node under test: its API as raw requests, stock kubectl, plain HTTP, and images.

use crate::harness::{TestNode, find_program, skipped, succeed, wait_for};
use crate::images::Image;
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the API server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// The reason of a Status.
    pub(crate) fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }

    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl TestNode {
    /// A client that may do everything; to be used inside the machine.
    pub(crate) async fn client(&self) -> kube::Client {
        // Installed by an earlier test is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        client::remote(&self.machine().path(&self.kubeconfig()))
            .await
            .unwrap()
    }

    /// One request, whatever comes of it; an error when there was no answer.
    pub(crate) fn try_request(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Answer, String> {
        self.machine()
            .block_on(async || send(&self.client().await, method, path, content_type, body).await)
    }

    #[track_caller]
    pub(crate) fn request(&self, method: &str, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.try_request(method, path, "application/json", body.into())
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// An object that must be there.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        let answer = self.request("GET", path, "");
        assert_eq!(answer.code, 200, "GET {path}: {}", answer.body);
        answer.body
    }

    /// Creates every document of a manifest.
    #[track_caller]
    pub(crate) fn create(&self, manifest: &str) {
        use serde::Deserialize as _;
        for document in serde_yaml_ng::Deserializer::from_str(manifest) {
            let object = Value::deserialize(document).unwrap();
            let path = collection(&object);
            let answer = self.request("POST", &path, object.to_string());
            assert_eq!(answer.code, 201, "POST {path}: {}", answer.body);
        }
    }

    /// The pods of a namespace that carry a label.
    #[track_caller]
    pub(crate) fn pods(&self, namespace: &str, selector: &str) -> Vec<Value> {
        let list = self.get(&format!(
            "/api/v1/namespaces/{namespace}/pods?labelSelector={selector}"
        ));
        list["items"].as_array().unwrap().clone()
    }

    /// Waits until so many pods with a label are ready, none of them being deleted.
    #[track_caller]
    pub(crate) fn wait_ready_pods(&self, namespace: &str, selector: &str, count: usize) -> Vec<Value> {
        wait_for(
            &format!("{count} ready pods of {selector} in {namespace}"),
            || {
                let pods = self.pods(namespace, selector);
                (pods.len() == count && pods.iter().all(is_ready)).then_some(pods)
            },
        )
    }

    /// Imports an image that the test assembled.
    #[track_caller]
    pub(crate) fn import(&self, image: &Image) {
        let archive = self.home().join("image.tar");
        image.write(&archive);
        succeed(
            self.kijabi(&["image", "import"]).arg(&archive),
            "kijabi image import",
        );
        std::fs::remove_file(archive).unwrap();
    }

    /// Prints what became of the pods, for whoever looks into a failure.
    pub(crate) fn tell_events(&self) {
        let ask = |path| self.try_request("GET", path, "", Vec::new());
        for event in ask("/api/v1/events")
            .iter()
            .flat_map(|answer| answer.body["items"].as_array().into_iter().flatten())
        {
            let (object, count) = (&event["involvedObject"]["name"], &event["count"]);
            println!("event {object} ×{count} {} {}", event["reason"], event["message"]);
        }
        for pod in ask("/api/v1/pods")
            .iter()
            .flat_map(|answer| answer.body["items"].as_array().into_iter().flatten())
        {
            println!("pod {} {}", name(pod), pod["status"]["containerStatuses"]);
        }
        let logs = self.data().join("agent");
        let found = self
            .machine()
            .command("find")
            .arg(&logs)
            .args(["-name", "*.log", "-exec", "tail", "-v", "{}", ";"])
            .output();
        println!(
            "{}",
            found
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                .unwrap_or_default()
        );
    }

    /// A GET in plain HTTP from the host: status and body.
    pub(crate) fn fetch(&self, address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
        self.machine().inside(|| fetch(address, path))
    }
}

/// One request over a client's connection.
pub(crate) async fn send(
    client: &kube::Client,
    method: &str,
    path: &str,
    kind: &str,
    body: Vec<u8>,
) -> Result<Answer, String> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(kube::client::Body::from(body))
        .unwrap();
    let response = client.send(request).await.map_err(|error| format!("{error:?}"))?;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await;
    let bytes = body
        .map_err(|error| format!("{code}, then {error:?}"))?
        .to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
    Ok(Answer { code, body })
}

/// A GET over a connection of its own, from the calling thread's network.
pub(crate) fn fetch(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.map(|code| (code, body.to_owned()))
        .ok_or_else(|| std::io::Error::other(format!("no answer: {text:?}")))
}

/// The pod's `Ready` condition is true, and nobody deletes it.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    pod["metadata"]["deletionTimestamp"].is_null() && conditions.is_some_and(|all| all.iter().any(ready))
}

pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// Where objects of this kind are created.
fn collection(object: &Value) -> String {
    let (version, kind) = (
        object["apiVersion"].as_str().unwrap(),
        object["kind"].as_str().unwrap(),
    );
    let root = if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    };
    let plural = format!("{}s", kind.to_lowercase());
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

/// Stock kubectl, of one version.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    pub(crate) program: PathBuf,
}

impl Kubectl {
    /// The kubectls of this machine: an old one (which knows only SPDY), a new one, or the one there is.
    pub(crate) fn all() -> Vec<Self> {
        let find = |names: &[&str]| names.iter().find_map(|name| find_program(name));
        let old = find(&["kubectl.1.27", "kubectl.1.28"]);
        let new = find(&[
            "kubectl.1.36",
            "kubectl.1.35",
            "kubectl.1.34",
            "kubectl.1.33",
            "kubectl",
        ]);
        let found: Vec<Self> = new
            .into_iter()
            .chain(old)
            .map(|program| Self { program })
            .collect();
        if found.is_empty() {
            skipped("no kubectl");
        }
        found
    }

    pub(crate) fn name(&self) -> &str {
        self.program.file_name().unwrap().to_str().unwrap()
    }

    pub(crate) fn command(&self, node: &TestNode, words: &[&str]) -> Command {
        let mut command = node.machine().command(&self.program);
        command
            .args(words)
            .env("KUBECONFIG", node.kubeconfig())
            .env("HOME", node.home());
        command
    }

    /// Runs and expects success; words are parted by blanks.
    #[track_caller]
    pub(crate) fn run(&self, node: &TestNode, words: &str) -> String {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.run_words(node, &words)
    }

    #[track_caller]
    pub(crate) fn run_words(&self, node: &TestNode, words: &[&str]) -> String {
        succeed(
            &mut self.command(node, words),
            &format!("{} {}", self.name(), words.join(" ")),
        )
    }

    /// Runs and expects failure with this text among the complaints.
    #[track_caller]
    pub(crate) fn refuse(&self, node: &TestNode, words: &str, complaint: &str) {
        let split: Vec<&str> = words.split_whitespace().collect();
        let output = self.command(node, &split).output().unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
        assert!(!output.status.success(), "kubectl {words} succeeded: {text}");
        assert!(
            text.contains(complaint),
            "kubectl {words} said {text:?}, not {complaint:?}"
        );
    }

    /// Runs with something to read.
    #[track_caller]
    pub(crate) fn feed(&self, node: &TestNode, words: &str, input: &str) -> String {
        let path = node.home().join("stdin");
        std::fs::write(&path, input).unwrap();
        let split: Vec<&str> = words.split_whitespace().collect();
        let mut command = self.command(node, &split);
        succeed(
            command.stdin(Stdio::from(std::fs::File::open(path).unwrap())),
            words,
        )
    }
}

/// An address of the machine's loopback.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
