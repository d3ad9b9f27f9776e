//! Connections into nodes: `pods/log|exec|attach|portforward|proxy`, `nodes/proxy`, `services/proxy`.
//!
//! The request is authorized here and passed on to the node's kubelet (or to the pod itself) as it is; upgraded
//! connections are passed on as raw bytes, both ways.

use super::Exchange;
use crate::cache::Entry;
use crate::connect::{Backend, Target};
use crate::registry::{Resource, stored_error};
use crate::routes::Endpoint;
use access::admission::Operation;
use http::Response;
use machinery::status::ApiError;
use machinery::{Value, meta};
use std::fmt::Write as _;
use std::sync::Arc;
use wire::body::Body;

pub(super) async fn connect(
    exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let core = Arc::clone(&exchange.core);
    let options_object = Value::object();
    let subresource = exchange.info.subresource.clone();
    let (name, port_scheme) = split_name(&exchange.info.name);
    let entry = core
        .registry
        .get(resource, &exchange.info.namespace, &name, false)
        .await?;
    let object = entry.value(resource).map_err(stored_error)?;
    if subresource != "log" {
        let options = exchange.write_options("CreateOptions")?;
        let write = exchange.write(endpoint, resource, &options, &options_object, "");
        let attributes = write.attributes(Operation::Connect, &name, None);
        if core
            .registry
            .admission
            .handles(Operation::Connect, &attributes.target)
        {
            let mut shown = object.clone();
            core.registry
                .admission
                .admit(&attributes, Some(&mut shown))
                .await?;
            core.registry
                .admission
                .validate(&attributes, Some(&shown))
                .await?;
        }
    }
    let target = match (endpoint.name.as_str(), subresource.as_str()) {
        ("nodes", "proxy") => node_proxy(&exchange, &object, port_scheme)?,
        ("services", "proxy") => service_proxy(&exchange, &object, port_scheme).await?,
        ("pods", "proxy") => pod_proxy(&exchange, &object, port_scheme)?,
        ("pods", _) => pod_stream(&exchange, &entry, &object, &subresource).await?,
        _ => return Err(ApiError::not_found_path()),
    };
    let Exchange { request, .. } = exchange;
    core.connector.proxy(target, request).await
}

/// `[scheme:]name[:port]`.
fn split_name(name: &str) -> (String, (Option<String>, Option<String>)) {
    let parts: Vec<&str> = name.split(':').collect();
    match parts[..] {
        [scheme @ ("http" | "https"), name, port] => (
            name.to_owned(),
            (
                Some(scheme.to_owned()),
                (!port.is_empty()).then(|| port.to_owned()),
            ),
        ),
        [name, port] => (
            name.to_owned(),
            (None, (!port.is_empty()).then(|| port.to_owned())),
        ),
        _ => (name.to_owned(), (None, None)),
    }
}

type PortScheme = (Option<String>, Option<String>);

fn rest_of_path(exchange: &Exchange) -> String {
    let mut path = String::from("/");
    path.push_str(&exchange.info.rest.join("/"));
    if exchange.info.path.ends_with('/') && path.len() > 1 {
        path.push('/');
    }
    with_query(exchange, path)
}

fn with_query(exchange: &Exchange, mut path: String) -> String {
    if let Some(query) = exchange.request.uri().query() {
        path.push('?');
        path.push_str(query);
    }
    path
}

fn node_proxy(exchange: &Exchange, node: &Value, (_, port): PortScheme) -> Result<Target, ApiError> {
    let mut target = kubelet(node)?;
    if let Some(port) = port.and_then(|p| p.parse().ok()) {
        target.port = port;
    }
    target.path = rest_of_path(exchange);
    Ok(target)
}

fn pod_proxy(exchange: &Exchange, pod: &Value, (scheme, port): PortScheme) -> Result<Target, ApiError> {
    let ip = pod.get_str_path(&["status", "podIP"]).unwrap_or_default();
    if ip.is_empty() {
        return Err(ApiError::bad_request("address not allowed"));
    }
    let containers = pod
        .get_path(&["spec", "containers"])
        .and_then(Value::as_array)
        .unwrap_or_default();
    let mut ports = containers
        .iter()
        .filter_map(|c| c.get("ports"))
        .filter_map(Value::as_array)
        .flatten();
    let port = match port {
        Some(port) => match port.parse() {
            Ok(number) => number,
            Err(_) => ports
                .find(|p| p.get("name").and_then(Value::as_str) == Some(&port))
                .and_then(number)
                .ok_or_else(|| ApiError::bad_request(format!("no port named {port:?}")))?,
        },
        None => ports.next().and_then(number).unwrap_or(80),
    };
    Ok(Target {
        host: ip.to_owned(),
        port,
        backend: if scheme.as_deref() == Some("https") {
            Backend::UntrustedTls
        } else {
            Backend::Plain
        },
        path: rest_of_path(exchange),
        node: String::new(),
    })
}

fn number(port: &Value) -> Option<u16> {
    port.get("containerPort")
        .and_then(Value::as_i64)
        .and_then(|p| u16::try_from(p).ok())
}

async fn service_proxy(
    exchange: &Exchange,
    service: &Value,
    (scheme, port): PortScheme,
) -> Result<Target, ApiError> {
    let core = &exchange.core;
    let ports = service
        .get_path(&["spec", "ports"])
        .and_then(Value::as_array)
        .unwrap_or_default();
    let wanted = ports.iter().find(|p| match &port {
        None => true,
        Some(port) => {
            p.get("name").and_then(Value::as_str) == Some(port)
                || p.get("port")
                    .and_then(Value::as_i64)
                    .map(|n| n.to_string())
                    .as_ref()
                    == Some(port)
        }
    });
    let name = wanted
        .and_then(|p| p.get("name"))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let Some(endpoints) = core.routes.resource("", "endpoints") else {
        return Err(ApiError::not_found_path());
    };
    let entry = core
        .registry
        .get(&endpoints, &exchange.info.namespace, meta::name(service), false)
        .await;
    let none = || {
        ApiError::service_unavailable(format!(
            "no endpoints available for service {:?}",
            meta::name(service)
        ))
    };
    let object = entry
        .map_err(|_| none())?
        .value(&endpoints)
        .map_err(stored_error)?;
    let subsets = object
        .get("subsets")
        .and_then(Value::as_array)
        .unwrap_or_default();
    for subset in subsets {
        let list = |key: &str| subset.get(key).and_then(Value::as_array).unwrap_or_default();
        let port = list("ports")
            .iter()
            .find(|p| p.get("name").and_then(Value::as_str).unwrap_or_default() == name);
        let address = list("addresses")
            .first()
            .and_then(|a| a.get("ip"))
            .and_then(Value::as_str);
        if let (Some(port), Some(ip)) = (port, address)
            && let Some(port) = port
                .get("port")
                .and_then(Value::as_i64)
                .and_then(|p| u16::try_from(p).ok())
        {
            return Ok(Target {
                host: ip.to_owned(),
                port,
                backend: if scheme.as_deref() == Some("https") {
                    Backend::UntrustedTls
                } else {
                    Backend::Plain
                },
                path: rest_of_path(exchange),
                node: String::new(),
            });
        }
    }
    Err(none())
}

async fn pod_stream(exchange: &Exchange, entry: &Entry, pod: &Value, what: &str) -> Result<Target, ApiError> {
    let core = &exchange.core;
    let name = &entry.meta.name;
    let node_name = pod.get_str_path(&["spec", "nodeName"]).unwrap_or_default();
    if node_name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    let mut path = String::new();
    let namespace = &entry.meta.namespace;
    match what {
        "portforward" => path = format!("/portForward/{namespace}/{name}"),
        "log" => {
            let container = container(exchange, pod, name, false)?;
            // Writing to a String cannot fail.
            write!(path, "/containerLogs/{namespace}/{name}/{container}").map_err(ApiError::internal)?;
        }
        _ => {
            let container = container(exchange, pod, name, true)?;
            write!(path, "/{what}/{namespace}/{name}/{container}").map_err(ApiError::internal)?;
        }
    }
    let Some(nodes) = core.routes.resource("", "nodes") else {
        return Err(ApiError::not_found_path());
    };
    let node = core.registry.get(&nodes, "", node_name, false).await?;
    let mut target = kubelet(&node.value(&nodes).map_err(stored_error)?)?;
    target.path = if what == "log" {
        with_query(exchange, path)
    } else {
        with_streams(exchange, path)
    };
    Ok(target)
}

/// The kubelet's names for what streams are wanted.
fn with_streams(exchange: &Exchange, path: String) -> String {
    let query = &exchange.query;
    let mut out: Vec<String> = Vec::new();
    for (ours, theirs) in [
        ("stdin", "input"),
        ("stdout", "output"),
        ("stderr", "error"),
        ("tty", "tty"),
    ] {
        if query.flag(ours) {
            out.push(format!("{theirs}=1"));
        }
    }
    for value in query.all("command") {
        out.push(format!("command={}", encode(value)));
    }
    let ports: Vec<&str> = query.all("ports").collect();
    if !ports.is_empty() {
        out.push(format!("port={}", encode(&ports.join(","))));
    }
    if out.is_empty() {
        path
    } else {
        format!("{path}?{}", out.join("&"))
    }
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The container asked for, or the only one.
fn container(exchange: &Exchange, pod: &Value, pod_name: &str, running: bool) -> Result<String, ApiError> {
    let names = |key: &str| -> Vec<String> {
        let list = pod
            .get_path(&["spec", key])
            .and_then(Value::as_array)
            .unwrap_or_default();
        list.iter()
            .filter_map(|c| c.get("name"))
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let (containers, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    match exchange.query.get("container") {
        Some(wanted) => {
            if [&containers, &init, &ephemeral]
                .iter()
                .any(|l| l.iter().any(|n| n == wanted))
            {
                Ok(wanted.to_owned())
            } else {
                Err(ApiError::bad_request(format!(
                    "container {wanted} is not valid for pod {pod_name}"
                )))
            }
        }
        None => match containers.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {pod_name}"
            ))),
            [first, ..] => {
                let by_annotation = meta::annotation(pod, "kubectl.kubernetes.io/default-container");
                if running && let Some(name) = by_annotation {
                    return Ok(name.to_owned());
                }
                if running {
                    return Ok(first.clone());
                }
                let mut message = format!(
                    "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                    containers.join(" ")
                );
                if !init.is_empty() {
                    message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                if !ephemeral.is_empty() {
                    message.push_str(&format!(
                        " or one of the ephemeral containers: [{}]",
                        ephemeral.join(" ")
                    ));
                }
                Err(ApiError::bad_request(message))
            }
        },
    }
}

/// Where a node's kubelet listens.
fn kubelet(node: &Value) -> Result<Target, ApiError> {
    const PREFERRED: [&str; 5] = [
        "Hostname",
        "InternalDNS",
        "InternalIP",
        "ExternalDNS",
        "ExternalIP",
    ];
    const DEFAULT_PORT: u16 = 10250;
    let addresses = node
        .get_path(&["status", "addresses"])
        .and_then(Value::as_array)
        .unwrap_or_default();
    let text = |a: &Value, key: &str| a.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    // A host's name need not be known to us; its address is reached without asking anybody.
    let order = ["InternalIP", "ExternalIP"].into_iter().chain(PREFERRED);
    let host = order
        .filter_map(|kind| addresses.iter().find(|a| text(a, "type") == kind))
        .map(|a| text(a, "address"))
        .find(|a| !a.is_empty());
    let host = host.ok_or_else(|| ApiError::internal("no preferred addresses found; known addresses: []"))?;
    let port = node
        .get_path(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"])
        .and_then(Value::as_i64);
    Ok(Target {
        host,
        port: port
            .and_then(|p| u16::try_from(p).ok())
            .filter(|p| *p != 0)
            .unwrap_or(DEFAULT_PORT),
        backend: Backend::Kubelet,
        path: String::new(),
        node: meta::name(node).to_owned(),
    })
}
