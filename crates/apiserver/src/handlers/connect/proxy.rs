//! `pods/proxy`, `services/proxy`, `nodes/proxy`: any request to what listens there.
//!
//! As upstream's reverse proxy: a bare `proxy` is redirected to `proxy/`, the backend is told where it is seen
//! (`X-Forwarded-Uri`), and `Location` and the links of HTML pages are rewritten so that they lead back here.

use super::{PortScheme, admit, encode_path, html, kubelet, proxied_path};
use crate::connect::{Backend, Failure, Target, wants_upgrade};
use crate::handlers::Exchange;
use crate::registry::{Resource, stored_error};
use crate::routes::Endpoint;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION};
use http::{HeaderMap, Method, Response, StatusCode, header};
use machinery::Value;
use machinery::field::quote;
use machinery::status::{ApiError, Reason};
use std::io::Read as _;
use std::net::IpAddr;
use std::sync::Arc;
use wire::body::Body;
use wire::server::Connection;

/// The largest page whose links are rewritten.
const PAGE_MOST: usize = 8 * 1024 * 1024;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

pub(super) async fn proxy(
    exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let core = Arc::clone(&exchange.core);
    let id = exchange.info.name.clone();
    let singular = endpoint.singular.as_str();
    let (name, port_scheme) = split_name(&id)
        .ok_or_else(|| ApiError::bad_request(format!("invalid {singular} request {}", quote(&id))))?;
    admit(&exchange, endpoint, resource, &id).await?;
    let mut target = match endpoint.name.as_str() {
        "nodes" => node(&object(&exchange, resource, &name).await?, port_scheme)?,
        "services" => service(&exchange, resource, &name, &id, port_scheme).await?,
        _ => pod(&object(&exchange, resource, &name).await?, port_scheme)?,
    };
    let path = proxied_path(&exchange).unwrap_or_default();
    let upgrade = wants_upgrade(exchange.headers());
    if path.is_empty() && !upgrade && matches!(*exchange.request.method(), Method::GET | Method::HEAD) {
        return to_slash(&exchange);
    }
    let seen_at = Seen::new(&exchange, &path, &target);
    target.path = with_query(&exchange, encode_path(if path.is_empty() { "/" } else { &path }));
    let Exchange { mut request, .. } = exchange;
    forward(&mut request, &seen_at);
    let place = target.place();
    let answer = core.connector.proxy(target, request).await.map_err(|failure| {
        let why = match failure {
            Failure::Dial(why) => format!("dial tcp {place}: {why}"),
            Failure::Request(why) => why,
        };
        if upgrade {
            ApiError::new(500, Reason::Unknown, format!("error dialing backend: {why}"))
        } else {
            ApiError::service_unavailable(format!("error trying to reach service: {why}"))
        }
    })?;
    if upgrade {
        return Ok(answer);
    }
    seen_at.rewrite(answer).await
}

/// `[[scheme]:]name[:port]`.
fn split_name(id: &str) -> Option<(String, PortScheme)> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts[..] {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => return None,
    };
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    (!name.is_empty() && matches!(scheme, "" | "http" | "https"))
        .then(|| (name.to_owned(), (some(scheme), some(port))))
}

async fn object(exchange: &Exchange, resource: &Resource, name: &str) -> Result<Value, ApiError> {
    let registry = &exchange.core.registry;
    let entry = registry
        .get(resource, &exchange.info.namespace, name, false)
        .await?;
    entry.value(resource).map_err(stored_error)
}

fn with_query(exchange: &Exchange, mut path: String) -> String {
    if let Some(query) = exchange.request.uri().query() {
        path.push('?');
        path.push_str(query);
    }
    path
}

/// A bare `proxy` is not the directory its pages' links start from.
fn to_slash(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let location = with_query(exchange, format!("{}/", exchange.request.uri().path()));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location = HeaderValue::try_from(location).map_err(|e| ApiError::bad_request(e.to_string()))?;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

fn backend(scheme: Option<&str>) -> Backend {
    if scheme == Some("https") {
        Backend::UntrustedTls
    } else {
        Backend::Plain
    }
}

fn node(node: &Value, (scheme, port): PortScheme) -> Result<Target, ApiError> {
    let mut target = kubelet(node)?;
    let asked = port.and_then(|p| p.parse().ok()).filter(|p| *p != target.port);
    if let Some(port) = asked {
        target.port = port;
        target.backend = backend(scheme.as_deref());
    }
    Ok(target)
}

/// Whether anything but this machine, its link or a group listens there.
fn is_global_unicast(ip: &str) -> bool {
    match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast())
        }
        Ok(IpAddr::V6(ip)) => {
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local())
        }
        Err(_) => false,
    }
}

fn pod(pod: &Value, (scheme, port): PortScheme) -> Result<Target, ApiError> {
    let containers = pod
        .get_path(&["spec", "containers"])
        .and_then(Value::as_array)
        .unwrap_or_default();
    let backend = backend(scheme.as_deref());
    let port = match port {
        Some(port) => port
            .parse()
            .map_err(|_| ApiError::service_unavailable(unknown_port(&port)))?,
        None => containers
            .iter()
            .filter_map(|c| c.get("ports").and_then(Value::as_array)?.first())
            .find_map(|p| number(p, "containerPort"))
            .unwrap_or(if backend == Backend::Plain { 80 } else { 443 }),
    };
    let ip = pod.get_str_path(&["status", "podIP"]).unwrap_or_default();
    if !is_global_unicast(ip) {
        return Err(ApiError::bad_request("address not allowed"));
    }
    Ok(target(ip, port, backend))
}

fn unknown_port(port: &str) -> String {
    format!("error trying to reach service: dial tcp: lookup tcp/{port}: unknown port")
}

fn number(port: &Value, key: &str) -> Option<u16> {
    port.get(key)
        .and_then(Value::as_i64)
        .and_then(|p| u16::try_from(p).ok())
}

fn target(ip: &str, port: u16, backend: Backend) -> Target {
    Target {
        host: ip.to_owned(),
        port,
        backend,
        path: String::new(),
        node: String::new(),
    }
}

/// A ready pod behind the Service; addresses that are no pods of the namespace are not gone to.
async fn service(
    exchange: &Exchange,
    resource: &Resource,
    name: &str,
    id: &str,
    (scheme, port): PortScheme,
) -> Result<Target, ApiError> {
    let mut port = port.unwrap_or_default();
    if let Ok(wanted) = port.parse::<i64>() {
        let service = object(exchange, resource, name).await?;
        let ports = service
            .get_path(&["spec", "ports"])
            .and_then(Value::as_array)
            .unwrap_or_default();
        let found = ports
            .iter()
            .find(|p| p.get("port").and_then(Value::as_i64) == Some(wanted))
            .ok_or_else(|| {
                let message = format!("no service port {wanted} found for service {}", quote(name));
                ApiError::service_unavailable(message)
            })?;
        port = found
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
    }
    let core = &exchange.core;
    let (Some(endpoints), Some(pods)) = (
        core.routes.resource("", "endpoints"),
        core.routes.resource("", "pods"),
    ) else {
        return Err(ApiError::not_found_path());
    };
    let none = |what: &str| {
        ApiError::service_unavailable(format!("no endpoints available for service {}", quote(what)))
    };
    let object = object(exchange, &endpoints, name).await?;
    let subsets = object
        .get("subsets")
        .and_then(Value::as_array)
        .unwrap_or_default();
    if subsets.is_empty() {
        return Err(none(name));
    }
    let start = rand::random_range(0..subsets.len());
    for subset in subsets[start..].iter().chain(&subsets[..start]) {
        let list = |key: &str| subset.get(key).and_then(Value::as_array).unwrap_or_default();
        let number = list("ports")
            .iter()
            .find(|p| p.get("name").and_then(Value::as_str).unwrap_or_default() == port)
            .and_then(|p| number(p, "port"));
        let addresses = list("addresses");
        let (Some(number), false) = (number, addresses.is_empty()) else {
            continue;
        };
        let first = rand::random_range(0..addresses.len());
        for address in addresses[first..].iter().chain(&addresses[..first]) {
            if let Some(ip) = pod_address(exchange, &pods, address).await {
                return Ok(target(&ip, number, backend(scheme.as_deref())));
            }
        }
    }
    Err(none(id))
}

/// The address, if it is one of the pod's it says it is.
async fn pod_address(exchange: &Exchange, pods: &Resource, address: &Value) -> Option<String> {
    let ip = address.get("ip").and_then(Value::as_str)?;
    let namespace = &exchange.info.namespace;
    if address.get_str_path(&["targetRef", "namespace"]) != Some(namespace) {
        return None;
    }
    let name = address.get_str_path(&["targetRef", "name"])?;
    let entry = exchange
        .core
        .registry
        .get(pods, namespace, name, false)
        .await
        .ok()?;
    let pod = entry.value(pods).ok()?;
    let ips = pod.get_path(&["status", "podIPs"]).and_then(Value::as_array)?;
    ips.iter()
        .any(|p| p.get("ip").and_then(Value::as_str) == Some(ip))
        .then(|| ip.to_owned())
}

/// Where clients see what the backend serves.
struct Seen {
    /// What stands here before the backend's path.
    prefix: String,
    uri: String,
    /// Names of the backend in its own pages: as it is dialled, and as the client called us.
    hosts: [String; 2],
    peer: Option<IpAddr>,
}

impl Seen {
    fn new(exchange: &Exchange, path: &str, target: &Target) -> Self {
        let whole = &exchange.info.path;
        let prefix = whole.strip_suffix(path).unwrap_or(whole).trim_end_matches('/');
        let host = exchange.headers().get(HOST).and_then(|h| h.to_str().ok());
        let host = host.or_else(|| exchange.request.uri().authority().map(|a| a.as_str()));
        let connection = exchange.request.extensions().get::<Arc<Connection>>();
        Self {
            prefix: prefix.to_owned(),
            uri: format!("{prefix}{path}"),
            hosts: [target.place(), host.unwrap_or_default().to_owned()],
            peer: connection.map(|c| c.peer.ip()),
        }
    }

    /// Makes what leads to the backend lead here.
    async fn rewrite(&self, answer: Response<Body>) -> Result<Response<Body>, ApiError> {
        let (mut parts, body) = answer.into_parts();
        // Whom the backend lets in says nothing about whom we do.
        for name in [
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            header::ACCESS_CONTROL_ALLOW_METHODS,
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
        ] {
            parts.headers.remove(name);
        }
        if let Some(location) = parts.headers.get(LOCATION).and_then(|l| l.to_str().ok()) {
            let location = html::rewrite_url(location, &self.prefix, &self.hosts);
            let location = HeaderValue::try_from(location).map_err(ApiError::internal)?;
            parts.headers.insert(LOCATION, location);
            return Ok(Response::from_parts(parts, body));
        }
        if !is_page(&parts.headers) {
            return Ok(Response::from_parts(parts, body));
        }
        let page = body
            .limited(PAGE_MOST)
            .await
            .map_err(|e| ApiError::service_unavailable(format!("error trying to reach service: {e}")))?;
        let page = if parts.headers.remove(header::CONTENT_ENCODING).is_some() {
            let mut plain = Vec::new();
            flate2::read::MultiGzDecoder::new(&page[..])
                .take(PAGE_MOST as u64)
                .read_to_end(&mut plain)
                .map_err(ApiError::internal)?;
            plain
        } else {
            page.to_vec()
        };
        let page = html::rewrite(&String::from_utf8_lossy(&page), &self.prefix, &self.hosts);
        parts.headers.remove(CONTENT_LENGTH);
        Ok(Response::from_parts(parts, Body::from(page)))
    }
}

/// HTML, plain or in the one compression everybody speaks; what else there is passes as it is.
fn is_page(headers: &HeaderMap) -> bool {
    let html = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(';').next().unwrap_or_default().trim() == "text/html");
    html && headers.get(header::CONTENT_ENCODING).is_none_or(|e| e == "gzip")
}

fn forward(request: &mut http::Request<Body>, seen: &Seen) {
    let headers = request.headers_mut();
    if let Ok(uri) = HeaderValue::try_from(encode_path(&seen.uri)) {
        headers.insert(FORWARDED_URI, uri);
    }
    if let Some(peer) = seen.peer {
        let before = headers.get(&FORWARDED_FOR).and_then(|v| v.to_str().ok());
        let all = before.map_or_else(|| peer.to_string(), |before| format!("{before}, {peer}"));
        if let Ok(all) = HeaderValue::try_from(all) {
            headers.insert(FORWARDED_FOR, all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_scheme_and_port() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(split_name("a"), Some(("a".to_owned(), (None, None))));
        assert_eq!(split_name("a:80"), Some(("a".to_owned(), (None, some("80")))));
        assert_eq!(
            split_name("https:a:p"),
            Some(("a".to_owned(), (some("https"), some("p"))))
        );
        assert_eq!(
            split_name("https:a:"),
            Some(("a".to_owned(), (some("https"), None)))
        );
        assert_eq!(split_name("ftp:a:1"), None);
        assert_eq!(split_name("a:b:c:d"), None);
        assert_eq!(split_name(":80"), None);
    }

    #[test]
    fn only_addresses_of_others_are_gone_to() {
        for (ip, want) in [
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("::1", false),
            ("fe80::1", false),
            ("", false),
        ] {
            assert_eq!(is_global_unicast(ip), want, "{ip}");
        }
    }
}
