//! `healthCheckNodePort`: load balancers ask it whether this node has endpoints of a Service.
//!
//! The answer's form is upstream's: 200 or 503, the count in the body and in
//! `X-Load-Balancing-Endpoint-Weight`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use client::ObjectKey;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// One small server per Service that asks for one.
pub(super) struct HealthServers {
    node: String,
    servers: HashMap<ObjectKey, Server>,
}

struct Server {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl HealthServers {
    pub(super) fn new(node: String) -> Self {
        HealthServers {
            node,
            servers: HashMap::new(),
        }
    }

    /// The Service's port, if it has one, and how many ready endpoints are here.
    pub(super) fn set(&mut self, service: &ObjectKey, port: Option<u16>, endpoints: usize) {
        let Some(port) = port else {
            self.servers.remove(service);
            return;
        };
        if let Some(server) = self.servers.get(service).filter(|server| server.port == port) {
            server.endpoints.store(endpoints, Ordering::Relaxed);
            return;
        }
        let count = Arc::new(AtomicUsize::new(endpoints));
        let stop = CancellationToken::new();
        tokio::spawn({
            let (node, service, count, stop) =
                (self.node.clone(), service.clone(), count.clone(), stop.clone());
            async move {
                tokio::select! {
                    result = serve(port, &service, count) => {
                        if let Err(error) = result {
                            tracing::error!(node, %service, port, %error, "health check not served");
                        }
                    }
                    () = stop.cancelled() => {}
                }
            }
        });
        // The one before, if any, ends with its guard.
        self.servers.insert(
            service.clone(),
            Server {
                port,
                endpoints: count,
                _stop: stop.drop_guard(),
            },
        );
    }
}

async fn serve(port: u16, service: &ObjectKey, endpoints: Arc<AtomicUsize>) -> std::io::Result<()> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = match TcpListener::bind(any).await {
        Ok(listener) => listener,
        // A kernel without IPv6.
        Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await?,
    };
    loop {
        let (stream, _) = listener.accept().await?;
        let (service, endpoints) = (service.clone(), endpoints.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |_: http::Request<Incoming>| {
                let answer = answer(&service, endpoints.load(Ordering::Relaxed));
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "health check connection");
            }
        });
    }
}

fn answer(service: &ObjectKey, endpoints: usize) -> Response<Full<Bytes>> {
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\t\"localEndpoints\": \
         {endpoints},\n\t\"serviceProxyHealthy\": true\n}}",
        service.namespace, service.name
    );
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = if endpoints > 0 {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    headers.insert(
        http::header::X_CONTENT_TYPE_OPTIONS,
        http::HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        "X-Load-Balancing-Endpoint-Weight",
        http::HeaderValue::from(endpoints),
    );
    response
}
