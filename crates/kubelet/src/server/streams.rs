//! `/exec`, `/attach`, `/portForward`: asks the runtime for a stream's address and passes the upgraded
//! connection on to it, byte by byte. Which protocol the two ends speak is theirs to know.

use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use wire::body::Body;
use wire::server::take_upgrade;

use super::query::Query;
use super::{Refusal, Server, text};
use crate::error::Error;
use crate::pod::PodExt;
use crate::runtime::status::State;
use cri::v1;

/// Which of a container's streams are asked for.
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    fn of(query: &Query) -> Result<Self, Refusal> {
        let flag = |a: &str, b: &str| query.flag(a) || query.flag(b);
        let tty = query.flag("tty");
        let wanted = Self {
            stdin: flag("input", "stdin"),
            stdout: flag("output", "stdout"),
            // A terminal has one output.
            stderr: flag("error", "stderr") && !tty,
            tty,
        };
        if wanted.stdin || wanted.stdout || wanted.stderr {
            Ok(wanted)
        } else {
            Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "you must specify at least 1 of stdin, stdout, stderr",
            ))
        }
    }
}

pub(super) async fn exec(
    server: &Server,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Body>,
) -> Response<Body> {
    let open = async {
        let wanted = Wanted::of(query)?;
        let container_id = running(server, namespace, pod, container)?;
        let request = v1::ExecRequest {
            container_id,
            cmd: query.all("command"),
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        };
        server.node.runtime.exec(request).await.map_err(failed)
    };
    match open.await {
        Ok(url) => pass_on(&url, request).await,
        Err(refusal) => refusal.answer(),
    }
}

pub(super) async fn attach(
    server: &Server,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Body>,
) -> Response<Body> {
    let open = async {
        let wanted = Wanted::of(query)?;
        let container_id = running(server, namespace, pod, container)?;
        let found = server.pod(namespace, pod)?;
        // Whether there is a terminal is the container's to say.
        let tty = found
            .find_container(container)
            .is_some_and(|(_, c)| c.tty == Some(true));
        let request = v1::AttachRequest {
            container_id,
            tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr && !tty,
        };
        server.node.runtime.attach(request).await.map_err(failed)
    };
    match open.await {
        Ok(url) => pass_on(&url, request).await,
        Err(refusal) => refusal.answer(),
    }
}

pub(super) async fn port_forward(
    server: &Server,
    namespace: &str,
    pod: &str,
    query: &Query,
    request: Request<Body>,
) -> Response<Body> {
    let open = async {
        let found = server.pod(namespace, pod)?;
        let status = server.workers.runtime_status(found.uid());
        let sandbox = status
            .and_then(|s| s.borrow().active_sandbox().map(|s| s.id.clone()))
            .ok_or_else(|| {
                Refusal::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("failed to find sandboxID for pod {}", found.describe()),
                )
            })?;
        let ports = ["port", "ports"]
            .iter()
            .flat_map(|name| query.all(name))
            .flat_map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>())
            .filter_map(|port| port.parse().ok())
            .collect();
        server
            .node
            .runtime
            .port_forward(&sandbox, ports)
            .await
            .map_err(failed)
    };
    match open.await {
        Ok(url) => pass_on(&url, request).await,
        Err(refusal) => refusal.answer(),
    }
}

/// Runs a command to its end and answers with its output.
pub(super) async fn run(
    server: &Server,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let id = match running(server, namespace, pod, container) {
        Ok(id) => id,
        Err(refusal) => return refusal.answer(),
    };
    let command = query
        .get("cmd")
        .unwrap_or_default()
        .split(' ')
        .map(str::to_owned)
        .collect();
    match server
        .node
        .runtime
        .exec_sync(&id, command, std::time::Duration::ZERO)
        .await
    {
        Ok(done) => super::with_type(StatusCode::OK, "text/plain", done.output.into()),
        Err(error) => failed(error).answer(),
    }
}

/// The id of the running container of this name.
fn running(server: &Server, namespace: &str, pod: &str, container: &str) -> Result<String, Refusal> {
    let found = server.pod(namespace, pod)?;
    let status = server.workers.runtime_status(found.uid());
    let id = status.and_then(|s| {
        let status = s.borrow();
        let container = status
            .containers
            .iter()
            .find(|c| c.name == container && c.state == State::Running)?;
        Some(container.id.clone())
    });
    id.ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_FOUND,
            format!("container not found ({container:?})"),
        )
    })
}

fn failed(error: Error) -> Refusal {
    let code = match &error {
        Error::Runtime { status, .. } if status.code() == tonic::Code::NotFound => StatusCode::NOT_FOUND,
        Error::Runtime { status, .. } if status.code() == tonic::Code::ResourceExhausted => {
            StatusCode::TOO_MANY_REQUESTS
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal::new(code, error.full())
}

/// Makes the same request at `url` and joins the two connections.
async fn pass_on(url: &str, mut request: Request<Body>) -> Response<Body> {
    match join(url, &mut request).await {
        Ok(answer) => answer,
        Err(message) => {
            tracing::warn!(message, "cannot pass a stream on to the runtime");
            text(StatusCode::BAD_GATEWAY, message)
        }
    }
}

async fn join(url: &str, request: &mut Request<Body>) -> Result<Response<Body>, String> {
    let uri: Uri = url
        .parse()
        .map_err(|e| format!("the runtime's address {url:?}: {e}"))?;
    let (Some(host), port) = (uri.host(), uri.port_u16().unwrap_or(80)) else {
        return Err(format!("the runtime's address {url:?} has no host"));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|e| format!("connecting to {url}: {e}"))?;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "setting a stream's options");
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| format!("connecting to {url}: {e}"))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a stream's connection to the runtime ended");
        }
    });
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut onward = Request::builder()
        .method(request.method().clone())
        .uri(path)
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|e| e.to_string())?;
    *onward.headers_mut() = request.headers().clone();
    onward.headers_mut().remove(header::CONTENT_LENGTH);
    onward.headers_mut().remove(header::TRANSFER_ENCODING);
    if let Some(authority) = uri
        .authority()
        .and_then(|a| header::HeaderValue::from_str(a.as_str()).ok())
    {
        onward.headers_mut().insert(header::HOST, authority);
    }
    let mut answer = sender
        .send_request(onward)
        .await
        .map_err(|e| format!("asking {url}: {e}"))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = answer.into_parts();
        return Ok(Response::from_parts(parts, Body::stream(body)));
    }
    let ours = take_upgrade(request).ok_or("unable to upgrade: the connection cannot be upgraded")?;
    let theirs = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let (mut ours, theirs) = match (ours.await, theirs.await) {
            (Ok(ours), Ok(theirs)) => (ours, theirs),
            (Err(error), _) => return tracing::debug!(%error, "a client went away before its stream began"),
            (_, Err(error)) => return tracing::debug!(%error, "the runtime went away before a stream began"),
        };
        let mut theirs = TokioIo::new(theirs);
        if let Err(error) = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await {
            tracing::debug!(%error, "a stream broke off");
        }
    });
    let (parts, _) = answer.into_parts();
    Ok(Response::from_parts(parts, Body::empty()))
}
