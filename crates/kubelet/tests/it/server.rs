//! The HTTPS server over a real socket: who may ask, logs, and streams passed through.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use kubelet::{Kubelet, ServerConfig};
use machinery::clock::{Clock, SystemClock};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wire::certs::{Authority, Identity, Leaf};

use super::World;

struct Ground {
    world: World,
    kubelet: Kubelet,
    authority: Authority,
}

async fn ground() -> Ground {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let world = World::with_clock(clock);
    let now = Timestamp::now();
    let authority = Authority::generate("ca", now).unwrap();
    let leaf = Leaf::server(
        "node",
        vec!["node".to_owned()],
        vec!["127.0.0.1".parse().unwrap()],
    );
    let server = ServerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        identity: authority.issue(&leaf, now).unwrap(),
        client_ca: authority.certificate().to_owned(),
        allowed_users: vec!["kube-apiserver-kubelet-client".to_owned()],
    };
    let kubelet = world.kubelet_with(Some(server)).await;
    Ground {
        world,
        kubelet,
        authority,
    }
}

impl Ground {
    fn client(&self, user: &str) -> Identity {
        self.authority
            .issue(&Leaf::client(user, None), Timestamp::now())
            .unwrap()
    }

    async fn send(
        &self,
        user: &str,
        request: Request<Empty<Bytes>>,
    ) -> hyper::Response<hyper::body::Incoming> {
        let identity = self.client(user);
        let config = wire::tls::client_config(self.authority.certificate(), Some(&identity)).unwrap();
        let stream = TcpStream::connect(self.kubelet.address().unwrap()).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.unwrap()
    }

    async fn get(&self, user: &str, path: &str) -> (u16, String) {
        let request = Request::get(path)
            .header("host", "node")
            .body(Empty::new())
            .unwrap();
        let answer = self.send(user, request).await;
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8_lossy(&bytes).into_owned())
    }
}

const API_SERVER: &str = "kube-apiserver-kubelet-client";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_figures_and_streams() {
    let ground = ground().await;
    let path = ground.world.pod("web", super::one("present"));
    ground.world.phase(&path, "Running").await;

    assert_eq!(ground.get("somebody", "/pods").await.0, 403);
    assert_eq!(ground.get(API_SERVER, "/healthz").await, (200, "ok".to_owned()));
    let (code, pods) = ground.get(API_SERVER, "/pods").await;
    let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
    assert_eq!(
        (code, &pods["items"][0]["metadata"]["name"]),
        (200, &json!("web"))
    );
    let logs = |more: &str| format!("/containerLogs/default/web/a{more}");
    assert_eq!(
        ground.get(API_SERVER, &logs("?tailLines=5")).await,
        (200, "hello\n".to_owned())
    );
    let (code, text) = ground.get(API_SERVER, &logs("?previous=true")).await;
    assert_eq!(
        (code, text.as_str()),
        (
            400,
            "previous terminated container \"a\" in pod \"web\" not found"
        )
    );
    assert_eq!(
        ground.get(API_SERVER, "/containerLogs/default/web/x").await.0,
        404
    );
    assert_eq!(
        ground.get(API_SERVER, "/containerLogs/default/none/a").await.0,
        404
    );
    let (code, text) = ground.get(API_SERVER, "/metrics").await;
    assert!(
        code == 200 && text.contains("kubelet_running_containers{container_state=\"running\"} 1"),
        "{text}"
    );

    // A followed log ends with its container.
    let request = Request::get(logs("?follow=true"))
        .header("host", "node")
        .body(Empty::new())
        .unwrap();
    let mut answer = ground.send(API_SERVER, request).await;
    let first = answer.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "hello\n");
    ground.world.runtime.exit("a", 0);
    let rest = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(rest.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_is_passed_through() {
    let ground = ground().await;
    let path = ground.world.pod("web", super::one("present"));
    ground.world.phase(&path, "Running").await;

    // The runtime's streaming server: answers 101, then echoes.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/exec/token", listener.local_addr().unwrap());
    ground.world.runtime.stream_at(&url);
    let streaming = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; 4096];
        let mut head = String::new();
        while !head.contains("\r\n\r\n") {
            let count = stream.read(&mut buffer).await.unwrap();
            head.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let count = stream.read(&mut buffer).await.unwrap();
        stream
            .write_all(&buffer[..count].to_ascii_uppercase())
            .await
            .unwrap();
        head
    });
    let request = Request::post("/exec/default/web/a?command=sh&command=-c&input=1&output=1&tty=1")
        .header("host", "node")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io")
        .body(Empty::new())
        .unwrap();
    let mut answer = ground.send(API_SERVER, request).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["upgrade"]),
        (101, &"SPDY/3.1".parse().unwrap())
    );
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"PING");
    let head = streaming.await.unwrap().to_lowercase();
    assert!(
        head.starts_with("post /exec/token http/1.1") && head.contains("x-stream-protocol-version: v4"),
        "{head}"
    );
    assert!(
        ground
            .world
            .runtime
            .calls()
            .iter()
            .any(|c| c == "exec_stream [\"sh\", \"-c\"] tty=true stdin=true stderr=false")
    );

    let refused = Request::post("/exec/default/web/a?command=x")
        .header("host", "node")
        .body(Empty::new())
        .unwrap();
    assert_eq!(ground.send(API_SERVER, refused).await.status().as_u16(), 400);
}
