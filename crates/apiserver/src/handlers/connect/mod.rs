//! Connections into nodes: `pods/log|exec|attach|portforward|proxy`, `nodes/proxy`, `services/proxy`.
//!
//! The request is authorized here and passed on to the node's kubelet (or to the pod itself); upgraded connections
//! are passed on as raw bytes, both ways.

mod html;
mod log;
mod proxy;

use super::Exchange;
use crate::cache::Entry;
use crate::connect::{Backend, Failure, Target};
use crate::registry::{Resource, Write, stored_error};
use crate::routes::Endpoint;
use access::admission::{self, Operation};
use http::Response;
use machinery::gvk::GroupVersionKind;
use machinery::schema::Shape;
use machinery::status::{ApiError, Reason};
use machinery::{Value, meta};
use std::sync::Arc;
use wire::body::Body;

pub(super) async fn connect(
    exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    match exchange.info.subresource.as_str() {
        "log" => log::log(exchange, resource).await,
        "proxy" => proxy::proxy(exchange, endpoint, resource).await,
        _ => streams(exchange, endpoint, resource).await,
    }
}

/// `exec`, `attach`, `portforward`: nothing but upgrades.
async fn streams(
    exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let core = Arc::clone(&exchange.core);
    let (namespace, name) = (exchange.info.namespace.clone(), exchange.info.name.clone());
    admit(&exchange, endpoint, resource, &name).await?;
    let entry = core.registry.get(resource, &namespace, &name, false).await?;
    let pod = entry.value(resource).map_err(stored_error)?;
    let path = match exchange.info.subresource.as_str() {
        "portforward" => format!("/portForward/{namespace}/{name}"),
        what => {
            let container = container(&exchange, &pod, &name, true)?;
            format!("/{what}/{namespace}/{name}/{container}")
        }
    };
    let mut target = kubelet_of(&exchange, &entry, &pod).await?;
    target.path = with_streams(&exchange, path);
    if !crate::connect::wants_upgrade(exchange.headers()) {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let Exchange { request, .. } = exchange;
    let place = target.place();
    core.connector.proxy(target, request).await.map_err(|failure| {
        let message = match failure {
            Failure::Dial(why) => format!("error dialing backend: dial tcp {place}: {why}"),
            Failure::Request(why) => why,
        };
        ApiError::new(500, Reason::Unknown, message)
    })
}

/// Asks admission about a connection: what is admitted are the options, in the kind of the subresource.
async fn admit(
    exchange: &Exchange,
    endpoint: &Endpoint,
    resource: &Arc<Resource>,
    name: &str,
) -> Result<(), ApiError> {
    let Some(sub) = endpoint.subresource(&exchange.info.subresource) else {
        return Err(ApiError::not_found_path());
    };
    let empty = Value::object();
    let options = exchange.write_options("CreateOptions")?;
    let write: Write<'_> = exchange.write(endpoint, resource, &options, &empty, "");
    let of_resource = write.attributes(Operation::Connect, name, None);
    let attributes = admission::Attributes {
        target: admission::Target {
            kind: &sub.kind.kind,
            kind_group: &sub.kind.group,
            kind_version: &sub.kind.version,
            ..of_resource.target
        },
        versions: None,
        ..of_resource
    };
    let chain = &exchange.core.registry.admission;
    if !chain.handles(Operation::Connect, &attributes.target) {
        return Ok(());
    }
    let mut shown = connect_options(exchange, &sub.kind);
    chain.admit(&attributes, Some(&mut shown)).await?;
    chain.validate(&attributes, Some(&shown)).await
}

/// A kind of options, its flags, its texts, its lists of texts.
type OptionsRow = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

/// Options of connections that no table has, for no object holds them.
const OPTIONS: [OptionsRow; 5] = [
    ("NodeProxyOptions", &[], &["path"], &[]),
    (
        "PodAttachOptions",
        &["stdin", "stdout", "stderr", "tty"],
        &["container"],
        &[],
    ),
    (
        "PodExecOptions",
        &["stdin", "stdout", "stderr", "tty"],
        &["container"],
        &["command"],
    ),
    ("PodProxyOptions", &[], &["path"], &[]),
    ("ServiceProxyOptions", &[], &["path"], &[]),
];

/// The query as an options object of a kind, field by field.
fn connect_options(exchange: &Exchange, kind: &GroupVersionKind) -> Value {
    let types = api::types();
    let mut options = Value::object();
    crate::object::set_kind(&mut options, &kind.api_version(), &kind.kind);
    let query = &exchange.query;
    if let Some((_, flags, texts, lists)) = OPTIONS.iter().find(|(name, ..)| *name == kind.kind) {
        for flag in flags.iter().copied().filter(|name| query.flag(name)) {
            options.set_path(&[flag], true);
        }
        for text in texts.iter().copied() {
            if let Some(given) = query.raw(text) {
                options.set_path(&[text], given);
            }
        }
        for list in lists.iter().copied() {
            let given: Vec<String> = query.all(list).map(str::to_owned).collect();
            options.set_path(&[list], given);
        }
        return options;
    }
    let fields = api::kind(kind).and_then(|ty| types.as_struct(ty));
    for field in fields.into_iter().flat_map(|s| s.fields()) {
        let name = field.name.as_str();
        if matches!(name, "kind" | "apiVersion") || exchange.query.raw(name).is_none() {
            continue;
        }
        let value = match types.shape(field.ty) {
            Shape::Bool => Value::Bool(exchange.query.flag(name)),
            Shape::List(list) => {
                let number = matches!(types.shape(list.item), Shape::Int32 | Shape::Int64);
                let items = exchange
                    .query
                    .all(name)
                    .flat_map(|v| v.split(if number { ',' } else { '\0' }));
                let item = |text: &str| match text.parse::<i64>() {
                    Ok(n) if number => Value::Int(n),
                    _ => Value::from(text),
                };
                Value::Array(items.map(item).collect())
            }
            _ => Value::from(exchange.query.raw(name).unwrap_or_default()),
        };
        options.make_object().insert(name, value);
    }
    if let Some(path) = proxied_path(exchange) {
        options.make_object().insert("path", path);
    }
    options
}

/// What follows `proxy` in the path, if anything does.
fn proxied_path(exchange: &Exchange) -> Option<String> {
    let info = &exchange.info;
    if info.subresource != "proxy" || (info.rest.is_empty() && !info.path.ends_with('/')) {
        return None;
    }
    let mut path = format!("/{}", info.rest.join("/"));
    if info.path.ends_with('/') && path.len() > 1 {
        path.push('/');
    }
    Some(path)
}

/// The kubelet of the pod's node.
async fn kubelet_of(exchange: &Exchange, entry: &Entry, pod: &Value) -> Result<Target, ApiError> {
    let node_name = pod.get_str_path(&["spec", "nodeName"]).unwrap_or_default();
    if node_name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned",
            entry.meta.name
        )));
    }
    let core = &exchange.core;
    let Some(nodes) = core.routes.resource("", "nodes") else {
        return Err(ApiError::not_found_path());
    };
    let node = core.registry.get(&nodes, "", node_name, false).await?;
    kubelet(&node.value(&nodes).map_err(stored_error)?)
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

/// A path in a URL, with what is not allowed there escaped as Go escapes it.
fn encode_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A scheme and a port, where the name says any.
type PortScheme = (Option<String>, Option<String>);

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
pub(super) fn kubelet(node: &Value) -> Result<Target, ApiError> {
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
