//! Services on loopback: those that answer, and those that mean ill.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What answers a request: from its path and body to code and answer.
type Answers = Arc<dyn Fn(&str, &str) -> (u16, String) + Send + Sync>;

/// A service, and how often it was asked.
pub(crate) struct Service {
    pub(crate) url: String,
    pub(crate) asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Service {
    pub(crate) async fn start(answers: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let answers: Answers = Arc::new(answers);
        Self::on(move |mut stream| {
            let answers = Arc::clone(&answers);
            async move {
                while let Some((path, body)) = request(&mut stream).await {
                    let (code, answer) = answers(&path, &body);
                    let head = format!(
                        "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: {}\r\n\r\n",
                        answer.len()
                    );
                    if stream.write_all(format!("{head}{answer}").as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// A service that means ill in one of [`Ill`]'s ways.
    pub(crate) async fn ill(how: Ill) -> Self {
        Self::on(move |mut stream| async move {
            match how {
                Ill::Silent => std::future::pending::<()>().await,
                Ill::Closes => {}
                Ill::Slow => {
                    // A byte a second of a header that never ends.
                    let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await;
                    while sent.is_ok() {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        sent = stream.write_all(b"x").await;
                    }
                }
                Ill::Garbage => {
                    drop(request(&mut stream).await);
                    drop(stream.write_all(&[0x5a; 4096]).await);
                }
                Ill::NotJson => {
                    drop(request(&mut stream).await);
                    drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n<a/>\n").await);
                }
                Ill::Redirects => {
                    drop(request(&mut stream).await);
                    let answer = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/elsewhere\r\ncontent-length: 0\r\n\r\n";
                    drop(stream.write_all(answer).await);
                }
                Ill::Endless => {
                    drop(request(&mut stream).await);
                    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                    let mut sent = stream.write_all(head).await;
                    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
                    while sent.is_ok() {
                        sent = stream.write_all(&chunk).await;
                    }
                }
                Ill::ClosesMidBody => {
                    drop(request(&mut stream).await);
                    drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"status\":").await);
                }
            }
        })
        .await
    }

    async fn on<F, R>(handle: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                connections.spawn(handle(stream));
            }
        });
        Self { url, asked, task }
    }

    pub(crate) fn kubeconfig(&self) -> kube::config::Kubeconfig {
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "s", "cluster": {"server": format!("{}/ask", self.url)}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "s", "user": "u"}}],
        });
        serde_json::from_value(config).expect("a kubeconfig")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ways to mean ill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ill {
    Silent,
    Slow,
    Closes,
    Garbage,
    NotJson,
    Redirects,
    Endless,
    ClosesMidBody,
}

pub(crate) const ALL_ILL: [Ill; 8] = [
    Ill::Silent,
    Ill::Slow,
    Ill::Closes,
    Ill::Garbage,
    Ill::NotJson,
    Ill::Redirects,
    Ill::Endless,
    Ill::ClosesMidBody,
];

/// The path and body of the next request.
async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |text| text.trim().parse().expect("a length"));
            if read.len() >= end + 4 + length {
                let path = head.split_whitespace().nth(1)?.to_owned();
                return Some((path, String::from_utf8_lossy(&read[end + 4..]).into_owned()));
            }
        }
        let count = stream.read(&mut buffer).await.ok()?;
        if count == 0 {
            return None;
        }
        read.extend_from_slice(&buffer[..count]);
    }
}
