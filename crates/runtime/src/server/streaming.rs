//! The streaming server: where the addresses lead that `Exec`, `Attach` and `PortForward` give out.
//!
//! It listens on loopback alone, and an address holds for one request within one minute: whoever knows it
//! may do what CRI was asked for, and nothing else.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::Status;
use wire::streams::{Kind, Upgrade};

use super::sessions;
use crate::pods::Engine;

const VALID_FOR: Duration = Duration::from_secs(60);
/// As many addresses as may be given out and not yet used.
const MAX_PENDING: usize = 1000;

/// What an address stands for.
#[derive(Clone, Debug)]
pub(super) enum Task {
    Exec(ExecRequest),
    Attach(AttachRequest),
    PortForward(PortForwardRequest),
}

#[derive(Clone, Debug)]
pub(crate) struct Streaming {
    address: SocketAddr,
    pending: Arc<Mutex<HashMap<String, (Instant, Task)>>>,
}

impl Streaming {
    /// Listens on a port of its own until `stop` turns true.
    pub(crate) async fn start(
        engine: Arc<Engine>,
        stop: watch::Receiver<bool>,
    ) -> std::io::Result<Streaming> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let streaming = Streaming {
            address: listener.local_addr()?,
            pending: Arc::default(),
        };
        tokio::spawn(accept(listener, streaming.clone(), engine, stop));
        Ok(streaming)
    }

    pub(crate) fn exec(&self, request: ExecRequest) -> Result<String, Status> {
        if request.tty && request.stderr {
            return Err(Status::invalid_argument("tty and stderr cannot both be true"));
        }
        if !(request.stdin || request.stdout || request.stderr) {
            return Err(Status::invalid_argument(
                "one of stdin, stdout, or stderr must be set",
            ));
        }
        self.address_for("exec", Task::Exec(request))
    }

    pub(crate) fn attach(&self, request: AttachRequest) -> Result<String, Status> {
        if request.tty && request.stderr {
            return Err(Status::invalid_argument("tty and stderr cannot both be true"));
        }
        if !(request.stdin || request.stdout || request.stderr) {
            return Err(Status::invalid_argument(
                "one of stdin, stdout, and stderr must be set",
            ));
        }
        self.address_for("attach", Task::Attach(request))
    }

    pub(crate) fn port_forward(&self, request: PortForwardRequest) -> Result<String, Status> {
        self.address_for("portforward", Task::PortForward(request))
    }

    fn address_for(&self, kind: &str, task: Task) -> Result<String, Status> {
        let token = hex::encode(rand::random::<[u8; 16]>());
        let now = Instant::now();
        let mut pending = self.pending.lock();
        pending.retain(|_, (until, _)| *until > now);
        if pending.len() >= MAX_PENDING {
            return Err(Status::resource_exhausted(
                "maximum number of in-flight requests exceeded",
            ));
        }
        pending.insert(token.clone(), (now + VALID_FOR, task));
        Ok(format!("http://{}/{kind}/{token}", self.address))
    }

    fn take(&self, token: &str) -> Option<Task> {
        let (until, task) = self.pending.lock().remove(token)?;
        (until > Instant::now()).then_some(task)
    }
}

async fn accept(
    listener: TcpListener,
    streaming: Streaming,
    engine: Arc<Engine>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // The sender gone is as good as a word.
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, streaming.clone(), engine.clone()));
            }
            Err(error) => {
                // Out of descriptors, mostly: connections must be given time to close.
                tracing::warn!(%error, "accepting a streaming connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, streaming: Streaming, engine: Arc<Engine>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "setting a stream's options");
    }
    let service = service_fn(move |request| {
        let response = answer(request, &streaming, &engine);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.with_upgrades().await {
        tracing::debug!(%error, "a streaming connection ended");
    }
}

fn answer(mut request: Request<Incoming>, streaming: &Streaming, engine: &Arc<Engine>) -> Response<String> {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    }
    let token = request.uri().path().rsplit('/').next().unwrap_or_default();
    let Some(task) = streaming.take(token) else {
        return plain(StatusCode::NOT_FOUND, "the address is unknown, used or expired");
    };
    let kind = match task {
        Task::PortForward(_) => Kind::PortForward,
        Task::Exec(_) | Task::Attach(_) => Kind::RemoteCommand,
    };
    let upgrade = match Upgrade::negotiate(request.headers(), kind) {
        Ok(upgrade) => upgrade,
        Err(refused) => return refused.response(),
    };
    let response = upgrade.response().map(|()| String::new());
    let upgraded = hyper::upgrade::on(&mut request);
    let engine = engine.clone();
    tokio::spawn(async move {
        let ended = match upgraded.await {
            Ok(upgraded) => sessions::run(&engine, task, &upgrade, Box::new(TokioIo::new(upgraded))).await,
            Err(error) => Err(std::io::Error::other(error)),
        };
        // The client's end is the usual one.
        if let Err(error) = ended {
            tracing::debug!(%error, "a stream ended");
        }
    });
    response
}

fn plain(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = status;
    response
}
