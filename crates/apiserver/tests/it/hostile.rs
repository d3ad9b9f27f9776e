//! A real listener, and clients that send what they should not: each gets the right `Status` or a closed connection, and
//! everybody else is served meanwhile.

use super::*;
use access::authentication::x509::X509;
use apiserver::server::Server as ApiServer;
use jiff::Timestamp;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wire::certs::{Authority, Identity, Leaf};
use wire::server::Limits;
use wire::tls::{ServerTls, client_config};

/// Long enough for anything that is to happen.
const PATIENCE: Duration = Duration::from_secs(60);

struct Front {
    address: SocketAddr,
    authority: Authority,
    admin: Identity,
    server: ApiServer,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.server.shutdown();
    }
}

impl Front {
    async fn start(limits: Limits) -> Self {
        let now = Timestamp::now();
        let authority = Authority::generate("test", now).expect("an authority");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = listener.local_addr().expect("an address");
        let own = authority
            .issue(&Leaf::server("server", vec![], vec![address.ip()]), now)
            .expect("a leaf");
        let admin = authority
            .issue(&Leaf::client("admin", Some("system:masters")), now)
            .expect("a leaf");
        let x509 = X509::new(authority.certificate(), Arc::new(SystemClock)).expect("an authenticator");
        let config = Config {
            authenticators: vec![Arc::new(x509)],
            ..Config::new(Arc::new(store::Memory::new()), Arc::new(SystemClock))
        };
        let server = ApiServer::start(config).await.expect("starts");
        let tls = ServerTls::new(&own).expect("tls");
        let serving = server.clone();
        tokio::spawn(async move { serving.serve_with(listener, tls, limits).await });
        Self {
            address,
            authority,
            admin,
            server,
        }
    }

    async fn connect(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let mut config = client_config(self.authority.certificate(), Some(&self.admin)).expect("a config");
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.expect("connects");
        TlsConnector::from(Arc::new(config))
            .connect(self.address.ip().into(), stream)
            .await
            .expect("a handshake")
    }

    /// Sends bytes, and reads until the server has no more to say.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect(b"http/1.1").await;
        // A server that has read enough may hang up on the rest.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        rest(&mut stream).await
    }

    async fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, Json) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let answer = self.raw(&[head.as_bytes(), body].concat()).await;
        let code = answer.get(9..12).and_then(|code| code.parse().ok());
        let code = code.unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let start = body.find('{').unwrap_or(body.len());
        let mut documents = serde_json::Deserializer::from_str(&body[start..]).into_iter::<Json>();
        (code, documents.next().and_then(Result::ok).unwrap_or(Json::Null))
    }

    /// Somebody else is served.
    #[track_caller]
    fn serves(&self) -> impl Future<Output = ()> {
        let answer = tokio::time::timeout(PATIENCE, self.ask("GET", MAPS, "application/json", b""));
        async move {
            let (code, list) = answer.await.expect("others are answered");
            assert_eq!((code, &list["kind"]), (200, &json!("ConfigMapList")));
        }
    }
}

async fn rest(stream: &mut TlsStream<TcpStream>) -> String {
    let mut answer = Vec::new();
    let mut some = vec![0; 16 * 1024];
    loop {
        match tokio::time::timeout(PATIENCE, stream.read(&mut some)).await {
            Ok(Ok(read)) if read > 0 => answer.extend_from_slice(&some[..read]),
            // The end, with or without a farewell.
            Ok(_) => return String::from_utf8_lossy(&answer).into_owned(),
            Err(_) => panic!("not closed after {:?}", String::from_utf8_lossy(&answer)),
        }
    }
}

/// Method, path, content type and body; the code, and a part of the message.
type Case<'a> = (&'a str, &'a str, &'a str, &'a [u8], u16, &'a str);

const KIND: &str = "application/json";

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_objects_are_told_why() {
    let front = Front::start(Limits::default()).await;
    let (code, _) = front
        .ask("POST", MAPS, KIND, br#"{"metadata":{"name":"a"}}"#)
        .await;
    assert_eq!(code, 201);
    let strict = &format!("{MAPS}?fieldValidation=Strict");
    let one = &format!("{MAPS}/a");
    let long = [
        br#"{"metadata":{"name":"big"},"data":{"k":""#.as_slice(),
        &vec![b'x'; 4 << 20],
        br#""}}"#,
    ]
    .concat();
    let deep = [
        br#"{"metadata":{"name":"deep"},"data":"#.as_slice(),
        &vec![b'['; 100_000],
    ]
    .concat();
    let annotations = format!(
        r#"{{"metadata":{{"name":"b","annotations":{{"k":"{}"}}}}}}"#,
        "x".repeat(300 << 10)
    );
    let cases: &[Case<'_>] = &[
        (
            "POST",
            MAPS,
            KIND,
            b"",
            400,
            "the object provided is unrecognized (must be of type ConfigMap)",
        ),
        (
            "POST",
            MAPS,
            KIND,
            br#"{"metadata":{"name":"#,
            400,
            "unexpected end of JSON input",
        ),
        (
            "POST",
            MAPS,
            KIND,
            b"\xff\xfe\x00",
            400,
            "must be of type ConfigMap",
        ),
        // Go reads invalid UTF-8 as U+FFFD, and that is no name.
        (
            "POST",
            MAPS,
            KIND,
            b"{\"metadata\":{\"name\":\"\xff\"}}",
            422,
            "metadata.name: Invalid value",
        ),
        (
            "POST",
            MAPS,
            KIND,
            br#"{"metadata":{"name":"a\u0000b"}}"#,
            422,
            "metadata.name: Invalid value",
        ),
        (
            "POST",
            MAPS,
            KIND,
            br#"{"metadata":{"name":"b","generation":9223372036854775808}}"#,
            400,
            "cannot unmarshal number 9223372036854775808 into Go struct field ObjectMeta.metadata.generation of type int64",
        ),
        (
            "POST",
            DEPLOYMENTS,
            KIND,
            br#"{"metadata":{"name":"b"},"spec":{"replicas":2147483648}}"#,
            400,
            "cannot unmarshal number 2147483648 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "POST",
            DEPLOYMENTS,
            KIND,
            br#"{"metadata":{"name":"b"},"spec":{"replicas":1e400}}"#,
            400,
            "cannot unmarshal number 1e400",
        ),
        (
            "POST",
            strict,
            KIND,
            br#"{"metadata":{"name":"b","name":"c"}}"#,
            400,
            r#"duplicate field "metadata.name""#,
        ),
        (
            "POST",
            strict,
            KIND,
            br#"{"metadata":{"name":"b"},"spec":{}}"#,
            400,
            r#"unknown field "spec""#,
        ),
        (
            "POST",
            MAPS,
            KIND,
            br#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"b"}}"#,
            400,
            "Secret in version \"v1\" cannot be handled as a ConfigMap",
        ),
        (
            "POST",
            MAPS,
            KIND,
            br#"{"kind":"ConfigMap","apiVersion":"v2","metadata":{"name":"b"}}"#,
            400,
            "no kind \"ConfigMap\" is registered for version \"v2\"",
        ),
        (
            "POST",
            MAPS,
            KIND,
            br#"{"metadata":{"name":"b","namespace":"other"}}"#,
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "PUT",
            one,
            KIND,
            br#"{"metadata":{"name":"b"}}"#,
            400,
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (
            "POST",
            MAPS,
            "text/plain",
            b"{}",
            415,
            "the body of the request was in an unknown format",
        ),
        (
            "POST",
            MAPS,
            "application/vnd.kubernetes.protobuf",
            b"k8s\0\x0a\xff\xff\xff\xff\x7f",
            400,
            "must be of type ConfigMap",
        ),
        ("PATCH", one, KIND, b"{}", 415, "application/apply-patch+yaml"),
        (
            "PATCH",
            one,
            "application/json-patch+json",
            br#"[{"op":"burn","path":"/x"}]"#,
            422,
            "the server rejected our request",
        ),
        (
            "POST",
            MAPS,
            KIND,
            &long,
            413,
            "Request entity too large: limit is 3145728",
        ),
        ("POST", MAPS, KIND, &deep, 400, "exceeded max depth"),
        (
            "POST",
            MAPS,
            KIND,
            annotations.as_bytes(),
            422,
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        ("GET", &format!("{MAPS}/a%00b"), KIND, b"", 404, "not found"),
        ("GET", &format!("{MAPS}?limit=x"), KIND, b"", 400, ""),
        (
            "GET",
            &format!("{MAPS}?labelSelector=%2C%2C%3D"),
            KIND,
            b"",
            400,
            "unable to parse requirement",
        ),
        (
            "GET",
            &format!("{MAPS}?continue=%FF%00"),
            KIND,
            b"",
            400,
            "continue key is not valid",
        ),
        (
            "GET",
            &format!("{MAPS}?resourceVersion=-1"),
            KIND,
            b"",
            422,
            "resourceVersion: Invalid value",
        ),
    ];
    for (method, path, kind, body, code, message) in cases {
        let (got, status) = front.ask(method, path, kind, body).await;
        let said = status["message"].as_str().unwrap_or_default();
        assert!(
            got == *code && status["kind"] == "Status" && said.contains(message),
            "{method} {path} {:?}: wanted {code} {message:?}, got {got} {status}",
            String::from_utf8_lossy(&body[..body.len().min(80)])
        );
    }
    front.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_label_maps_are_taken_or_refused_and_cost_their_size() {
    let front = Front::start(Limits::default()).await;
    let labels: Vec<String> = (0..20_000).map(|n| format!(r#""l{n}":"v""#)).collect();
    let body = format!(
        r#"{{"metadata":{{"name":"labels","labels":{{{}}}}}}}"#,
        labels.join(",")
    );
    let (code, _) = front.ask("POST", MAPS, KIND, body.as_bytes()).await;
    assert_eq!(code, 201);
    let (code, list) = front
        .ask("GET", &format!("{MAPS}?labelSelector=l19999%3Dv"), KIND, b"")
        .await;
    assert_eq!((code, list["items"].as_array().map(Vec::len)), (200, Some(1)));
    let wrong: Vec<String> = (0..20_000).map(|n| format!(r#""l{n}":"-""#)).collect();
    let body = format!(
        r#"{{"metadata":{{"name":"wrong","labels":{{{}}}}}}}"#,
        wrong.join(",")
    );
    let (code, status) = front.ask("POST", MAPS, KIND, body.as_bytes()).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    front.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_no_http_are_refused_or_hung_up_on() {
    let front = Front::start(Limits::default()).await;
    let header = format!(
        "GET /version HTTP/1.1\r\nhost: x\r\nlong: {}\r\n\r\n",
        "x".repeat(2 << 20)
    );
    let many = format!(
        "GET /version HTTP/1.1\r\nhost: x\r\n{}\r\n",
        "a: b\r\n".repeat(5000)
    );
    let uri = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(2 << 20));
    for (bytes, codes) in [
        (&b"\x16\x03\x01\x00\x00"[..], &["400", ""][..]),
        (b"GET / HTTP/9.9\r\n\r\n", &["400", "505", ""]),
        (
            b"GET /version HTTP/1.1\r\nhost: x\r\nbad\0name: x\r\n\r\n",
            &["400", ""],
        ),
        (
            b"POST /api HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
            &["400", ""],
        ),
        (header.as_bytes(), &["431", "400", ""]),
        (many.as_bytes(), &["431", "400", ""]),
        (uri.as_bytes(), &["414", "431", "400", ""]),
    ] {
        let answer = front.raw(bytes).await;
        let code = answer.get(9..12).unwrap_or_default();
        assert!(
            codes.contains(&code),
            "{:?}: {answer:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
        );
    }
    front.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_bodies_leave_nothing_behind() {
    let front = Front::start(Limits::default()).await;
    let head = format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: {KIND}\r\n");
    for _ in 0..50 {
        let mut stream = front.connect(b"http/1.1").await;
        let half = format!("{head}content-length: 1000\r\n\r\n{{\"metadata\":{{\"name\":\"half\"}}}}");
        stream.write_all(half.as_bytes()).await.expect("writes");
        stream.flush().await.expect("flushes");
    }
    let chunked = format!(
        "{head}transfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\n{{\"met\r\nnonsense\r\n\r\n"
    );
    let answer = front.raw(chunked.as_bytes()).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
    front.serves().await;
    let (code, _) = front.ask("GET", &format!("{MAPS}/half"), KIND, b"").await;
    assert_eq!(code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_hung_up_on_while_others_are_served() {
    let limits = Limits {
        head: Duration::from_millis(1500),
        ..Limits::default()
    };
    let front = Arc::new(Front::start(limits).await);
    let slow: Vec<_> = (0..60)
        .map(|n| {
            let front = Arc::clone(&front);
            tokio::spawn(async move {
                let protocol: &[u8] = if n % 2 == 0 { b"http/1.1" } else { b"h2" };
                let mut stream = front.connect(protocol).await;
                let bytes = b"GET /version HTTP/1.1\r\nhost: x\r\nslow: yes\r\n";
                for byte in bytes.iter().take(10) {
                    if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                rest(&mut stream).await;
            })
        })
        .collect();
    front.serves().await;
    for client in slow {
        client.await.expect("hung up on");
    }
    front.serves().await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// Header fields, each written out.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.extend([0, name.len() as u8]);
        out.extend(name.as_bytes());
        out.push(value.len() as u8);
        out.extend(value.as_bytes());
    }
    out
}

fn get() -> Vec<u8> {
    fields(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "x"),
        (":path", MAPS),
    ])
}

/// Floods with what `more` makes until the server hangs up; how many times it could be sent.
async fn flood(front: &Front, begin: Vec<u8>, mut more: impl FnMut(u32) -> Vec<u8>, most: u32) -> u32 {
    let mut stream = front.connect(b"h2").await;
    let start = [PREFACE, &frame(SETTINGS, 0, 0, b""), &begin].concat();
    stream.write_all(&start).await.expect("writes");
    let (mut reading, mut writing) = tokio::io::split(stream);
    let reader = tokio::spawn(async move {
        let mut some = vec![0; 16 * 1024];
        while matches!(reading.read(&mut some).await, Ok(read) if read > 0) {}
    });
    let mut sent = 0;
    while sent < most && !reader.is_finished() {
        let bytes = more(sent);
        let written = tokio::time::timeout(PATIENCE, writing.write_all(&bytes)).await;
        if !matches!(written, Ok(Ok(()))) {
            break;
        }
        sent += 1;
        if sent % 64 == 0 && writing.flush().await.is_err() {
            break;
        }
    }
    tokio::time::timeout(PATIENCE, reader)
        .await
        .expect("the server hangs up")
        .expect("reads");
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_opened_and_reset_rapidly_end_the_connection() {
    let front = Front::start(Limits::default()).await;
    let most = 200_000;
    let reset = |n: u32| {
        let stream = 2 * n + 1;
        let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get());
        [open, frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
    };
    let sent = flood(&front, Vec::new(), reset, most).await;
    assert!(sent < most, "never hung up on");
    front.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_never_end_end_the_connection() {
    let front = Front::start(Limits::default()).await;
    let most = 100_000;
    let begin = frame(HEADERS, END_STREAM, 1, &get());
    let more = |n: u32| {
        frame(
            CONTINUATION,
            0,
            1,
            &fields(&[(&format!("x-{n}"), "y".repeat(100).as_str())]),
        )
    };
    let sent = flood(&front, begin, more, most).await;
    assert!(sent < most, "never hung up on");
    // Empty ones, which hold nothing that could be too much.
    let begin = frame(HEADERS, END_STREAM, 1, &get());
    let sent = flood(&front, begin, |_| frame(CONTINUATION, 0, 1, b""), most).await;
    assert!(sent < most, "never hung up on");
    front.serves().await;
}
