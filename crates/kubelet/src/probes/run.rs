//! Carrying one probe out. Follows upstream's `prober/prober.go`: three tries when the probe itself cannot be
//! made, events `Unhealthy` and `ProbeWarning`.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::results::{Outcome, ProbeKind};
use super::{grpc, http};
use crate::env::{EnvVar, expand_command};
use crate::events::Events;
use crate::pod::PodExt;
use crate::runtime::client::Runtime;

const TRIES: usize = 3;
/// As much of a command's output as an event shows.
const OUTPUT: usize = 10 * 1024;

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Success,
    Warning(String),
    Failure(String),
}

/// What a probe is made of.
pub struct Target<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub container_id: &'a str,
    pub pod_ip: &'a str,
}

/// Probes once; nothing when the probe could not be made.
pub async fn probe(
    runtime: &Runtime,
    events: &Events,
    kind: ProbeKind,
    spec: &Probe,
    target: &Target<'_>,
) -> Option<Outcome> {
    let about = events.container(target.pod, target.container);
    let mut error = String::new();
    for _ in 0..TRIES {
        match once(runtime, spec, target).await {
            Ok(Ended::Success) => return Some(Outcome::Success),
            Ok(Ended::Warning(text)) => {
                about.warning("ProbeWarning", format!("{} probe warning: {text}", kind.title()));
                return Some(Outcome::Success);
            }
            Ok(Ended::Failure(text)) => {
                about.warning("Unhealthy", format!("{} probe failed: {text}", kind.title()));
                return Some(Outcome::Failure);
            }
            Err(text) => error = text,
        }
    }
    about.warning(
        "Unhealthy",
        format!(
            "{} probe errored and resulted in unknown state: {error}",
            kind.title()
        ),
    );
    None
}

async fn once(runtime: &Runtime, spec: &Probe, target: &Target<'_>) -> Result<Ended, String> {
    let timeout = Duration::from_secs(
        spec.timeout_seconds
            .and_then(|t| u64::try_from(t).ok())
            .filter(|t| *t > 0)
            .unwrap_or(1),
    );
    if let Some(exec) = &spec.exec {
        let env: Vec<EnvVar> = target
            .container
            .env
            .iter()
            .flatten()
            .map(|e| EnvVar {
                name: e.name.clone(),
                value: e.value.clone().unwrap_or_default(),
            })
            .collect();
        let command = expand_command(exec.command.as_deref().unwrap_or_default(), &env);
        return run_command(runtime, target.container_id, command, timeout).await;
    }
    if let Some(get) = &spec.http_get {
        let request = http::Request::new(get, target.container, target.pod_ip, "probe")?;
        return http::probe(&request, timeout).await;
    }
    if let Some(tcp) = &spec.tcp_socket {
        let port = resolve_port(&tcp.port, target.container)?;
        let host = tcp
            .host
            .as_deref()
            .filter(|h| !h.is_empty())
            .unwrap_or(target.pod_ip);
        return Ok(match connect(host, port, timeout).await {
            Ok(_) => Ended::Success,
            Err(text) => Ended::Failure(text),
        });
    }
    if let Some(grpc) = &spec.grpc {
        let service = grpc.service.as_deref().unwrap_or_default();
        return Ok(grpc::probe(target.pod_ip, grpc.port, service, timeout).await);
    }
    Err(format!(
        "missing probe handler for {}:{}",
        target.pod.describe(),
        target.container.name
    ))
}

async fn run_command(
    runtime: &Runtime,
    id: &str,
    command: Vec<String>,
    timeout: Duration,
) -> Result<Ended, String> {
    match runtime.exec_sync(id, command.clone(), timeout).await {
        Ok(done) if done.exit_code == 0 => Ok(Ended::Success),
        Ok(done) => {
            let cut = done.output.len().min(OUTPUT);
            Ok(Ended::Failure(
                String::from_utf8_lossy(&done.output[..cut]).into_owned(),
            ))
        }
        Err(crate::error::Error::Runtime { status, .. })
            if status.code() == tonic::Code::DeadlineExceeded =>
        {
            Ok(Ended::Failure(format!(
                "command timed out: {:?} timed out after {}s",
                command.join(" "),
                timeout.as_secs()
            )))
        }
        Err(error) => Err(error.full()),
    }
}

/// Connects, in the words of Go's dialer when it cannot.
pub async fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    let address = join_host_port(host, port);
    match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(format!("dial tcp {address}: connect: connection refused"))
        }
        Ok(Err(error)) => Err(format!("dial tcp {address}: {error}")),
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

pub fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// A port by number, or by its name in the container.
pub fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_ref() == Some(name))
            .map(|p| p.container_port)
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("couldn't find port: {name}"))?,
    };
    u16::try_from(number)
        .ok()
        .filter(|p| *p > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}
