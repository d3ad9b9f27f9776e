//! The sample application of `demo`: a small web server that runs from an image holding nothing but this
//! executable. It shows what reached it from its ConfigMap and Secret, and asks its own Service by DNS name.

use anyhow::{Context, bail};
use bytes::Bytes;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// The port the application listens on in its container.
pub(crate) const PORT: u16 = 8080;
/// Where the Secret is mounted.
pub(crate) const SECRET_PATH: &str = "/etc/demo/password";

/// Serves until killed.
pub(crate) async fn run() -> anyhow::Result<()> {
    let listener = TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, PORT)).await?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = terminate.recv() => return Ok(()),
        };
        tokio::spawn(async move {
            // A client that goes away ends its own connection and nothing else.
            if let Err(error) = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await
            {
                eprintln!("connection: {error}");
            }
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let (status, text) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/" => (StatusCode::OK, greeting()),
        "/peer" => match ask_peer(request.uri().query().unwrap_or_default()).await {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}\n")),
        },
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    Ok(response)
}

fn greeting() -> String {
    let from_environment = |name: &str| std::env::var(name).unwrap_or_else(|_| format!("<no {name}>"));
    let secret = match std::fs::read(SECRET_PATH) {
        Ok(bytes) => format!("a secret of {} bytes", bytes.len()),
        Err(error) => format!("no secret ({error})"),
    };
    format!(
        "{} from {}, with {secret}\n",
        from_environment("GREETING"),
        from_environment("POD_NAME")
    )
}

/// `/peer?<host>`: resolves the host with the pod's own resolv.conf and fetches its `/`.
async fn ask_peer(host: &str) -> anyhow::Result<String> {
    let conf = std::fs::read_to_string("/etc/resolv.conf").context("/etc/resolv.conf")?;
    let server: IpAddr = conf
        .lines()
        .find_map(|line| line.strip_prefix("nameserver "))
        .context("/etc/resolv.conf names no server")?
        .trim()
        .parse()?;
    let address = resolve(SocketAddr::new(server, 53), host).await?;
    let body = fetch(SocketAddr::new(address, 80), "/").await?;
    Ok(format!("{host} is {address} and says: {body}"))
}

/// Asks one DNS server for the first IPv4 address of a name.
pub(crate) async fn resolve(server: SocketAddr, host: &str) -> anyhow::Result<IpAddr> {
    let mut question = Message::query();
    question.add_query(Query::query(
        Name::from_utf8(format!("{}.", host.trim_end_matches('.')))?,
        RecordType::A,
    ));
    question.metadata.recursion_desired = true;
    let local: SocketAddr = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(&question.to_vec()?).await?;
    let mut buffer = vec![0; 4096];
    let length = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut buffer))
        .await
        .with_context(|| format!("no answer from the DNS server {server}"))??;
    let answer = Message::from_vec(&buffer[..length])?;
    for record in &answer.answers {
        if let RData::A(address) = &record.data {
            return Ok(IpAddr::V4(address.0));
        }
    }
    bail!(
        "{server} knows no address of {host} ({})",
        answer.metadata.response_code
    )
}

/// One HTTP GET; the body of a 200.
pub(crate) async fn fetch(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let work = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get(path)
            .header(http::header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        connection.abort();
        let text = String::from_utf8_lossy(&body).into_owned();
        if status != StatusCode::OK {
            bail!("{address}{path} answers {status}: {text}");
        }
        Ok(text)
    };
    tokio::time::timeout(Duration::from_secs(3), work)
        .await
        .with_context(|| format!("no answer from {address} within 3 s"))?
}
