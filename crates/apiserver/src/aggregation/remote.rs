//! A server that answers for a group and version, and the way to it.

use super::FrontProxy;
use crate::connect::Target;
use access::Objects;
use arc_swap::ArcSwapOption;
use base64::Engine as _;
use compact_str::CompactString;
use machinery::{Map, Value, meta};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// How long a connection may take to make.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Remote {
    /// The APIService's.
    pub name: CompactString,
    pub group: CompactString,
    pub version: CompactString,
    pub service: ServiceReference,
    pub group_priority: i64,
    pub version_priority: i64,
    /// What it was made of.
    pub spec: Value,
    /// Ends its checks.
    pub gone: CancellationToken,
    tls: Result<TlsConnector, String>,
    available: AtomicBool,
    /// What it serves, as an entry of aggregated discovery; as it was last told.
    pub resources: ArcSwapOption<Vec<Value>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceReference {
    pub namespace: String,
    pub name: String,
    pub port: u16,
}

impl Remote {
    /// Reads an APIService; nothing, if this server answers for it itself.
    pub(super) fn read(
        object: &Value,
        front_proxy: Option<&FrontProxy>,
        shutdown: &CancellationToken,
    ) -> Option<Self> {
        let spec = object.get("spec")?;
        let service = spec.get("service").filter(|service| !service.is_null())?;
        let text = |of: &Value, field: &str| {
            of.get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let number = |field: &str| spec.get(field).and_then(Value::as_i64).unwrap_or_default();
        let port = service.get("port").and_then(Value::as_i64);
        let conditions = object
            .get_path(&["status", "conditions"])
            .and_then(Value::as_array);
        let available = conditions
            .unwrap_or_default()
            .iter()
            .any(|condition| text(condition, "type") == "Available" && text(condition, "status") == "True");
        let insecure = spec.get("insecureSkipTLSVerify").and_then(Value::as_bool) == Some(true);
        Some(Self {
            name: meta::name(object).into(),
            group: text(spec, "group").into(),
            version: text(spec, "version").into(),
            service: ServiceReference {
                namespace: text(service, "namespace"),
                name: text(service, "name"),
                port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
            },
            group_priority: number("groupPriorityMinimum"),
            version_priority: number("versionPriority"),
            spec: spec.clone(),
            gone: shutdown.child_token(),
            tls: connector(&text(spec, "caBundle"), insecure, front_proxy),
            available: AtomicBool::new(available),
            resources: ArcSwapOption::empty(),
        })
    }

    pub(super) fn is_available(&self) -> bool {
        self.available.load(Ordering::Acquire)
    }

    pub(super) fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::Release);
    }

    /// Why no connection can be made, whoever listens.
    pub(super) fn misconfigured(&self) -> Option<&str> {
        self.tls.as_ref().err().map(String::as_str)
    }

    /// Where its Service leads.
    pub(super) async fn target(&self, objects: &dyn Objects, path: String) -> Result<Target, String> {
        let ServiceReference {
            namespace,
            name,
            port,
        } = &self.service;
        let found = objects.get("", "services", namespace, name).await;
        let service = found
            .map_err(|error| error.message)?
            .ok_or_else(|| format!("service {name:?} not found"))?;
        let text = |field: &str| {
            let text = service.get_str_path(&["spec", field]);
            text.unwrap_or_default().to_owned()
        };
        let host = match text("type").as_str() {
            "ExternalName" => text("externalName"),
            _ => text("clusterIP"),
        };
        if host.is_empty() || host == "None" {
            return Err(format!("service {name:?} has no address"));
        }
        Ok(Target {
            host,
            port: *port,
            backend: crate::connect::Backend::UntrustedTls,
            path,
            node: String::new(),
        })
    }

    /// A connection to it.
    pub(super) async fn connect(&self, target: &Target) -> std::io::Result<TlsStream<TcpStream>> {
        let tls = self
            .tls
            .as_ref()
            .map_err(|why| std::io::Error::other(why.as_str()))?;
        let name = format!("{}.{}.svc", self.service.name, self.service.namespace);
        let name = ServerName::try_from(name).map_err(std::io::Error::other)?;
        let connect = async {
            let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
            stream.set_nodelay(true)?;
            tls.connect(name, stream).await
        };
        let timed_out = || std::io::Error::new(std::io::ErrorKind::TimedOut, "connecting");
        tokio::time::timeout(DIAL_TIMEOUT, connect)
            .await
            .map_err(|_| timed_out())?
    }

    /// Takes in what it says it serves in this group and version.
    pub(super) fn learn(&self, list: &Value) {
        let list = list.get("resources").and_then(Value::as_array);
        self.resources
            .store(list.map(|list| Arc::new(resources(list, &self.group, &self.version))));
    }
}

fn connector(bundle: &str, insecure: bool, front_proxy: Option<&FrontProxy>) -> Result<TlsConnector, String> {
    let identity = front_proxy.map(|proxy| &proxy.identity);
    let config = if insecure {
        wire::tls::untrusting_client_config_as(identity)
    } else {
        let pem = base64::engine::general_purpose::STANDARD
            .decode(bundle)
            .map_err(|error| format!("caBundle: {error}"))?;
        wire::tls::client_config(&String::from_utf8_lossy(&pem), identity)
    };
    let config = config.map_err(|error| error.to_string())?;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The entries of an `APIResourceList` as those of aggregated discovery, with subresources where they belong.
fn resources(list: &[Value], group: &str, version: &str) -> Vec<Value> {
    let text = |of: &Value, field: &str| {
        of.get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let kind = |entry: &Value| {
        let own = |field: &str, default: &str| {
            let given = text(entry, field);
            if given.is_empty() {
                default.to_owned()
            } else {
                given
            }
        };
        let parts = [
            ("group", own("group", group)),
            ("kind", text(entry, "kind")),
            ("version", own("version", version)),
        ];
        parts.into_iter().collect::<Map>()
    };
    let mut out: Vec<Value> = Vec::new();
    for entry in list {
        let name = text(entry, "name");
        let Some((of, subresource)) = name.split_once('/') else {
            let mut map = Map::new();
            map.insert("resource", name);
            map.insert("responseKind", kind(entry));
            let namespaced = entry.get("namespaced").and_then(Value::as_bool) == Some(true);
            map.insert("scope", if namespaced { "Namespaced" } else { "Cluster" });
            map.insert("singularResource", text(entry, "singularName"));
            for field in ["verbs", "shortNames", "categories"] {
                if let Some(value) = entry.get(field).filter(|value| !value.is_null()) {
                    map.insert(field, value.clone());
                }
            }
            out.push(map.into());
            continue;
        };
        let Some(parent) = out.iter_mut().find(|known| text(known, "resource") == of) else {
            continue;
        };
        let mut map = Map::new();
        map.insert("responseKind", kind(entry));
        map.insert("subresource", subresource);
        if let Some(verbs) = entry.get("verbs") {
            map.insert("verbs", verbs.clone());
        }
        match parent.get_mut("subresources").and_then(Value::as_array_mut) {
            Some(known) => known.push(map.into()),
            None => {
                parent
                    .make_object()
                    .insert("subresources", vec![Value::from(map)]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Value {
        machinery::codec::json::decode_any(text.as_bytes()).unwrap().value
    }

    #[test]
    fn a_list_of_resources_is_told_as_aggregated_discovery() {
        let list = object(
            r#"[{"name":"flunders","singularName":"flunder","namespaced":true,"kind":"Flunder","verbs":["get","list"],"shortNames":["fl"]},
                {"name":"flunders/status","namespaced":true,"kind":"Flunder","verbs":["get"]},
                {"name":"flunders/scale","group":"autoscaling","version":"v1","kind":"Scale","verbs":["get"]}]"#,
        );
        let got = resources(list.as_array().unwrap(), "wardle.example.com", "v1alpha1");
        let want = object(
            r#"[{"resource":"flunders","responseKind":{"group":"wardle.example.com","kind":"Flunder","version":"v1alpha1"},
                "scope":"Namespaced","singularResource":"flunder","verbs":["get","list"],"shortNames":["fl"],"subresources":[
                {"subresource":"status","responseKind":{"group":"wardle.example.com","kind":"Flunder","version":"v1alpha1"},"verbs":["get"]},
                {"subresource":"scale","responseKind":{"group":"autoscaling","kind":"Scale","version":"v1"},"verbs":["get"]}]}]"#,
        );
        assert!(Value::Array(got.clone()).semantic_eq(&want), "{got:?}");
    }

    #[test]
    fn only_what_has_a_service_is_remote() {
        let read = |text: &str| Remote::read(&object(text), None, &CancellationToken::new());
        assert!(read(r#"{"metadata":{"name":"v1."},"spec":{"version":"v1"}}"#).is_none());
        let remote = read(
            r#"{"metadata":{"name":"v1.g"},"spec":{"group":"g","version":"v1","insecureSkipTLSVerify":true,
                "service":{"namespace":"n","name":"s","port":8443}},
                "status":{"conditions":[{"type":"Available","status":"True"}]}}"#,
        )
        .unwrap();
        assert!(remote.is_available() && remote.misconfigured().is_none());
        assert_eq!(remote.service.port, 8443);
        let wrong = read(
            r#"{"metadata":{"name":"v1.g"},"spec":{"group":"g","version":"v1","caBundle":"!","service":{"namespace":"n","name":"s"}}}"#,
        );
        assert!(wrong.unwrap().misconfigured().is_some());
    }
}
