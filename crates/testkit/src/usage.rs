//! The resource metrics API of a cluster of hollow nodes: what the pods of an application use together is set by the
//! test, and shared evenly by those that are ready.

use crate::hollow::is_ready;
use client::{Body, Informer};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use k8s_openapi::api::core::v1::Pod;
use machinery::clock::Clock;
use machinery::selector::LabelSelector;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const PATH: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/";

/// How much each application uses; clones are the same one.
#[derive(Clone)]
pub struct Usage(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    /// Thousandths of a core, by the label `app`.
    cores: Mutex<BTreeMap<String, i64>>,
}

impl Usage {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared {
            clock,
            cores: Mutex::default(),
        }))
    }

    /// All pods labelled `app=<app>` together use so many thousandths of a core from now on.
    pub fn set(&self, app: &str, millicores: i64) {
        self.0.cores.lock().insert(app.to_owned(), millicores);
    }

    pub fn get(&self, app: &str) -> i64 {
        self.0.cores.lock().get(app).copied().unwrap_or(0)
    }

    /// The answer to a request for pod metrics; `None` if it is a request for something else.
    pub(crate) fn answer(&self, request: &Request<Body>, pods: &Informer<Pod>) -> Option<Response<Body>> {
        let namespace = request.uri().path().strip_prefix(PATH)?.strip_suffix("/pods")?;
        if request.method() != Method::GET {
            return None;
        }
        let query = request.uri().query().unwrap_or("");
        let selector = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("labelSelector="));
        let selector = LabelSelector::parse(&decoded(selector.unwrap_or(""))).ok()?;
        let selected = |pod: &&Arc<Pod>| {
            let labels = pod.metadata.labels.as_ref();
            is_ready(pod)
                && pod.metadata.namespace.as_deref() == Some(namespace)
                && selector.matches_with(|key| labels?.get(key).map(String::as_str))
        };
        let all = pods.list();
        let items: Vec<Value> = all
            .iter()
            .filter(selected)
            .map(|pod| self.of(pod, &all))
            .collect();
        let list = json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items});
        let mut response = Response::new(
            Full::from(list.to_string())
                .map_err(|never| match never {})
                .boxed_unsync(),
        );
        *response.status_mut() = StatusCode::OK;
        let json = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(http::header::CONTENT_TYPE, json);
        Some(response)
    }

    fn of(&self, pod: &Pod, all: &[Arc<Pod>]) -> Value {
        let app = |pod: &Pod| pod.metadata.labels.as_ref().and_then(|l| l.get("app")).cloned();
        let sharing = all.iter().filter(|p| is_ready(p) && app(p) == app(pod)).count();
        let cores = self.get(&app(pod).unwrap_or_default()) / i64::try_from(sharing.max(1)).unwrap_or(1);
        let containers = pod.spec.iter().flat_map(|s| &s.containers);
        let containers: Vec<Value> = containers
            .map(|c| json!({"name": c.name, "usage": {"cpu": format!("{cores}m"), "memory": "10Mi"}}))
            .collect();
        json!({"metadata": {"name": pod.metadata.name, "namespace": pod.metadata.namespace},
            "timestamp": self.0.clock.now(), "window": "15s", "containers": containers})
    }
}

/// Takes percent-encoding out of a query's value.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = (byte == b'%').then(|| after.get(..2)).flatten();
        let value = hex.and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &after[2..];
            }
            None => {
                bytes.push(if byte == b'+' { b' ' } else { byte });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
