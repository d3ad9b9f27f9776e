//! Exec, attach and port-forward through the streaming server, as kubectl's protocols have it.

use cri::v1::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::streams::spdy::{Connection, Stream};

use crate::Test;
use crate::place::{Pod, with_runtime};

pub(crate) const TESTS: &[Test] = &[
    ("exec_over_spdy", exec_over_spdy),
    ("exec_with_a_terminal", exec_with_a_terminal),
    ("attach_over_spdy", attach_over_spdy),
    ("port_forward_over_spdy", port_forward_over_spdy),
];

/// Asks for an upgrade at an address CRI gave out; gives the connection and the answer's head.
async fn ask(url: &str, protocol: &str) -> (TcpStream, String) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {protocol}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { break };
        head.push(byte);
    }
    (stream, String::from_utf8(head).unwrap())
}

async fn spdy(url: &str, protocol: &str) -> Connection {
    let (stream, head) = ask(url, protocol).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    Connection::client(Box::new(stream))
}

async fn open(connection: &mut Connection, kind: &str) -> Stream {
    connection.open(&[("streamtype", kind)]).await.unwrap()
}

async fn rest(stream: &mut Stream) -> String {
    let mut text = Vec::new();
    stream.reader.read_to_end(&mut text).await.unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

async fn exec_url(clients: &cri::Clients, id: &str, script: &str, tty: bool) -> String {
    let request = ExecRequest {
        container_id: id.to_owned(),
        cmd: vec!["sh".into(), "-c".into(), script.into()],
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    clients
        .runtime
        .clone()
        .exec(request)
        .await
        .unwrap()
        .into_inner()
        .url
}

fn exec_over_spdy() {
    with_runtime(|place, clients| async move {
        let pod = Pod::run(&place, &clients, |_| ()).await;
        let id = pod.launch("one", "exec sleep 1000", |_| ()).await;
        let url = exec_url(&clients, &id, "cat; echo done >&2; exit 5", false).await;
        let mut connection = spdy(&url, "v4.channel.k8s.io").await;
        let mut error = open(&mut connection, "error").await;
        let mut stdin = open(&mut connection, "stdin").await;
        let mut stdout = open(&mut connection, "stdout").await;
        let mut stderr = open(&mut connection, "stderr").await;
        let text = "0123456789".repeat(50_000);
        let write = async {
            stdin.writer.write_all(text.as_bytes()).await.unwrap();
            stdin.writer.shutdown().await.unwrap();
        };
        let ((), back, err, status) =
            tokio::join!(write, rest(&mut stdout), rest(&mut stderr), rest(&mut error));
        assert_eq!((back.len(), err.as_str()), (text.len(), "done\n"));
        assert!(
            status.contains(r#"{"causes":[{"message":"5","reason":"ExitCode"}]}"#),
            "{status}"
        );
        // An address holds once.
        let (_, head) = ask(&url, "v4.channel.k8s.io").await;
        assert!(head.starts_with("HTTP/1.1 404"), "{head}");

        // A client that leaves takes its process along.
        let url = exec_url(&clients, &id, "echo $$; exec sleep 999", false).await;
        let mut connection = spdy(&url, "v4.channel.k8s.io").await;
        let streams = [
            open(&mut connection, "error").await,
            open(&mut connection, "stdin").await,
            open(&mut connection, "stderr").await,
        ];
        let mut stdout = open(&mut connection, "stdout").await;
        let mut line = [0; 2];
        stdout.reader.read_exact(&mut line).await.unwrap();
        drop((streams, stdout, connection));
        let (code, ..) = pod.exec(&id, "for i in $(seq 1 100); do grep -q [9]99 /proc/[0-9]*/cmdline || exit 0; sleep 0.05; done; exit 1").await;
        assert_eq!(code, 0);
    });
}

fn exec_with_a_terminal() {
    with_runtime(|place, clients| async move {
        let pod = Pod::run(&place, &clients, |_| ()).await;
        let id = pod.launch("one", "exec sleep 1000", |_| ()).await;
        let url = exec_url(&clients, &id, "read line; stty size; tty; echo \"<$line>\"", true).await;
        let mut connection = spdy(&url, "v4.channel.k8s.io").await;
        let mut error = open(&mut connection, "error").await;
        let mut stdin = open(&mut connection, "stdin").await;
        let mut stdout = open(&mut connection, "stdout").await;
        let mut resize = open(&mut connection, "resize").await;
        resize
            .writer
            .write_all(br#"{"Width":123,"Height":45}"#)
            .await
            .unwrap();
        // The size travels by another way than the input; give it the time a person would.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        stdin.writer.write_all(b"typed\n").await.unwrap();
        let (out, status) = tokio::join!(rest(&mut stdout), rest(&mut error));
        assert!(
            out.contains("45 123") && out.contains("/dev/pts/") && out.contains("<typed>"),
            "{out:?}"
        );
        assert_eq!(status, r#"{"metadata":{},"status":"Success"}"#);
    });
}

fn attach_over_spdy() {
    with_runtime(|place, clients| async move {
        let pod = Pod::run(&place, &clients, |_| ()).await;
        let id = pod
            .launch(
                "one",
                "while read line; do echo \"<$line>\"; done; echo ended",
                |config| {
                    config.stdin = true;
                    config.stdin_once = true;
                },
            )
            .await;
        let request = AttachRequest {
            container_id: id.clone(),
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        let url = clients
            .runtime
            .clone()
            .attach(request)
            .await
            .unwrap()
            .into_inner()
            .url;
        let mut connection = spdy(&url, "v4.channel.k8s.io").await;
        let mut error = open(&mut connection, "error").await;
        let mut stdin = open(&mut connection, "stdin").await;
        let mut stdout = open(&mut connection, "stdout").await;
        let _stderr = open(&mut connection, "stderr").await;
        stdin.writer.write_all(b"a\nb\n").await.unwrap();
        stdin.writer.shutdown().await.unwrap();
        let (out, status) = tokio::join!(rest(&mut stdout), rest(&mut error));
        assert_eq!(out, "<a>\n<b>\nended\n");
        assert!(status.contains("Success"), "{status}");

        let tty = pod
            .launch("two", "stty -echo; read line; echo \"<$line>\"; tty", |config| {
                config.stdin = true;
                config.tty = true;
            })
            .await;
        let request = AttachRequest {
            container_id: tty.clone(),
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true,
        };
        let url = clients
            .runtime
            .clone()
            .attach(request)
            .await
            .unwrap()
            .into_inner()
            .url;
        let mut connection = spdy(&url, "v4.channel.k8s.io").await;
        let _error = open(&mut connection, "error").await;
        let mut stdin = open(&mut connection, "stdin").await;
        let mut stdout = open(&mut connection, "stdout").await;
        let _resize = open(&mut connection, "resize").await;
        stdin.writer.write_all(b"typed\n").await.unwrap();
        let out = rest(&mut stdout).await;
        assert!(out.contains("<typed>\r\n/dev/pts/0"), "{out:?}");
    });
}

fn port_forward_over_spdy() {
    with_runtime(|place, clients| async move {
        let pod = Pod::run(&place, &clients, |_| ()).await;
        let id = pod.launch("one", "exec nc -l -p 8080 -e cat", |_| ()).await;
        pod.exec(&id, "for i in $(seq 1 100); do grep -q :1F90 /proc/net/tcp /proc/net/tcp6 && exit 0; sleep 0.02; done").await;
        let request = PortForwardRequest {
            pod_sandbox_id: pod.id.clone(),
            port: Vec::new(),
        };
        let url = clients
            .runtime
            .clone()
            .port_forward(request)
            .await
            .unwrap()
            .into_inner()
            .url;
        let mut connection = spdy(&url, "portforward.k8s.io").await;
        let mut pair = async |port: &str, id: &str| {
            let mut one = async |kind| {
                connection
                    .open(&[("streamtype", kind), ("port", port), ("requestid", id)])
                    .await
                    .unwrap()
            };
            (one("error").await, one("data").await)
        };
        let (mut error, mut data) = pair("8080", "0").await;
        data.writer
            .write_all(b"through the pod's loopback")
            .await
            .unwrap();
        data.writer.shutdown().await.unwrap();
        assert_eq!(rest(&mut data).await, "through the pod's loopback");
        assert_eq!(rest(&mut error).await, "");
        let (mut error, _data) = pair("8081", "1").await;
        let why = rest(&mut error).await;
        assert!(
            why.contains("error forwarding port 8081") && why.contains("refused"),
            "{why}"
        );
    });
}
