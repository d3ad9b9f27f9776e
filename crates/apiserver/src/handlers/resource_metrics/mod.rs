//! The resource-metrics API, `metrics.k8s.io/v1beta1`: what nodes and pods use now, for `kubectl top` and the
//! autoscaler. What a metrics server serves elsewhere is served here, with nothing to install.
//!
//! ```text
//! request ─► pods or nodes from the cache ─► their kubelets' /stats/summary ─► usage between two readings
//! ```
//!
//! **Invariant:** nothing is read unless somebody asks. A node that was read lately ([`FRESH`]) is told of as it was then;
//! one read within [`STALE`] is read once more; any other is read twice, [`FIRST_WINDOW`] apart.
//! Nodes that do not answer, and pods that began a moment ago, are left out, as a metrics server does.

mod present;
mod readings;

use super::{Exchange, connect};
use crate::cache::{Filter, PageRequest};
use crate::connect::Connector;
use crate::registry::{Resource, stored_error};
use crate::request::Verb;
use crate::request::query::ListOptions;
use crate::routes::{Endpoint, GroupTable, VersionTable};
use crate::server::Core;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use http::{Request, Response};
use machinery::Value;
use machinery::gvk::{GroupResource, GroupVersionKind};
use machinery::meta;
use machinery::status::ApiError;
use parking_lot::Mutex;
use readings::{NodeUsage, Summary};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use wire::body::Body;

pub(crate) const GROUP: &str = "metrics.k8s.io";
pub(super) const VERSION: &str = "v1beta1";

/// A reading this young is not repeated. Shorter than the autoscaler's period.
const FRESH: Duration = Duration::from_secs(10);
/// A reading older than this is too old to tell present use from.
const STALE: Duration = Duration::from_secs(60);
/// The time between two readings of a node that nobody asked about lately.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// How long a kubelet may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nodes read at a time.
const AT_ONCE: usize = 32;
const SUMMARY_MOST: usize = 64 * 1024 * 1024;

/// The group as it is discovered.
pub(crate) fn group() -> GroupTable {
    let endpoint = |name: &str, kind: &str, namespaced: bool| {
        Arc::new(Endpoint {
            group: GROUP.into(),
            version: VERSION.into(),
            name: name.into(),
            kind: GroupVersionKind::new(GROUP, VERSION, kind),
            namespaced,
            verbs: vec!["get".into(), "list".into()],
            resource: None,
            index: 0,
            singular: "".into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            storage_version_hash: String::new(),
            subresources: Vec::new(),
            warning: None,
            custom: None,
        })
    };
    GroupTable {
        name: GROUP.into(),
        versions: vec![VersionTable {
            name: VERSION.into(),
            endpoints: vec![
                endpoint("nodes", "NodeMetrics", false),
                endpoint("pods", "PodMetrics", true),
            ],
        }],
    }
}

/// What is remembered of the nodes that were asked about.
#[derive(Default)]
pub(crate) struct ResourceMetrics {
    nodes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Known>>>>,
}

#[derive(Default)]
struct Known {
    last: Option<(Instant, Summary)>,
    shown: Option<Arc<NodeUsage>>,
}

/// What has to be read before a node's usage can be told.
#[derive(Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    OneReading,
    TwoReadings,
}

fn needs(age: Option<Duration>, has_usage: bool) -> Needs {
    match age {
        Some(age) if age < FRESH && has_usage => Needs::Nothing,
        Some(age) if age >= FIRST_WINDOW && age <= STALE => Needs::OneReading,
        _ => Needs::TwoReadings,
    }
}

pub(super) async fn answer(exchange: Exchange, endpoint: &Endpoint) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(true, false)?;
    let resource = stored(&exchange, &endpoint.name)?;
    let options = ListOptions::parse(&exchange.query, false)?;
    let (namespace, name) = (&exchange.info.namespace, &exchange.info.name);
    let objects = match exchange.info.verb {
        Verb::List => {
            let filter = Filter::new(&resource, namespace, name, &options)?;
            list(&exchange, &resource, &filter).await?
        }
        _ => vec![get(&exchange, &resource, namespace, name).await?],
    };
    let kind = endpoint.kind.kind.as_str();
    let mut items = if endpoint.namespaced {
        of_pods(&exchange, objects).await?
    } else {
        of_nodes(&exchange, objects).await
    };
    if exchange.info.verb == Verb::List {
        return Ok(present::list(&output, kind, items));
    }
    let item = items.pop().ok_or_else(|| {
        let wanted = GroupResource::new(GROUP, &endpoint.name);
        let name = if endpoint.namespaced {
            format!("{namespace}/{name}")
        } else {
            name.to_string()
        };
        ApiError::not_found(&wanted, &name)
    })?;
    Ok(present::one(&output, kind, item))
}

/// The stored resource of the same name in the core group.
fn stored(exchange: &Exchange, name: &str) -> Result<Arc<Resource>, ApiError> {
    let found = exchange.core.routes.resource("", name);
    found.ok_or_else(ApiError::not_found_path)
}

async fn list(exchange: &Exchange, resource: &Resource, filter: &Filter) -> Result<Vec<Value>, ApiError> {
    let registry = &exchange.core.registry;
    let page = registry.list(resource, filter, &PageRequest::default()).await?;
    let objects = page.entries.iter().map(|e| e.value(resource));
    objects.collect::<Result<_, _>>().map_err(stored_error)
}

/// An object that may be gone; the error then speaks of this group.
async fn get(
    exchange: &Exchange,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<Value, ApiError> {
    let registry = &exchange.core.registry;
    let entry = registry.get(resource, namespace, name, false).await;
    let entry = entry.map_err(|error| match error.code {
        404 => {
            let wanted = GroupResource::new(GROUP, &resource.info.resource);
            ApiError::not_found(&wanted, name)
        }
        _ => error,
    })?;
    entry.value(resource).map_err(stored_error)
}

async fn of_nodes(exchange: &Exchange, nodes: Vec<Value>) -> Vec<present::Item> {
    let usage = usage(exchange, &nodes).await;
    nodes
        .into_iter()
        .filter_map(|node| {
            let used = usage.get(meta::name(&node))?.node?;
            Some(present::node(&node, &used))
        })
        .collect()
}

async fn of_pods(exchange: &Exchange, pods: Vec<Value>) -> Result<Vec<present::Item>, ApiError> {
    let node_of = |pod: &Value| {
        pod.get_str_path(&["spec", "nodeName"])
            .unwrap_or_default()
            .to_owned()
    };
    let running: Vec<Value> = pods
        .into_iter()
        .filter(|pod| pod.get_str_path(&["status", "phase"]) == Some("Running") && !node_of(pod).is_empty())
        .collect();
    let names: BTreeSet<String> = running.iter().map(node_of).collect();
    let resource = stored(exchange, "nodes")?;
    let mut nodes = Vec::with_capacity(names.len());
    for name in &names {
        // A pod may outlive its node.
        if let Ok(node) = get(exchange, &resource, "", name).await {
            nodes.push(node);
        }
    }
    let usage = usage(exchange, &nodes).await;
    let items = running.iter().filter_map(|pod| {
        let used = usage
            .get(node_of(pod).as_str())?
            .pod(meta::namespace(pod), meta::name(pod))?;
        (used.uid == meta::uid(pod)).then(|| present::pod(pod, &used.containers))
    });
    Ok(items.collect())
}

/// What the nodes that answer use, by name.
async fn usage(exchange: &Exchange, nodes: &[Value]) -> HashMap<String, Arc<NodeUsage>> {
    let questions: Vec<_> = nodes.iter().map(|node| ask(&exchange.core, node)).collect();
    let answers = futures::stream::iter(questions).buffer_unordered(AT_ONCE);
    answers.filter_map(std::future::ready).collect().await
}

fn ask<'a>(core: &'a Core, node: &'a Value) -> BoxFuture<'a, Option<(String, Arc<NodeUsage>)>> {
    async move {
        let name = meta::name(node);
        match core.resource_metrics.usage(&core.connector, node, name).await {
            Ok(usage) => Some((name.to_owned(), usage)),
            Err(why) => {
                tracing::debug!(node = name, %why, "a node's usage is not known");
                None
            }
        }
    }
    .boxed()
}

impl ResourceMetrics {
    async fn usage(&self, connector: &Connector, node: &Value, name: &str) -> Result<Arc<NodeUsage>, String> {
        let known = {
            let mut nodes = self.nodes.lock();
            nodes.retain(|_, known| known.try_lock().map_or(true, |known| !known.is_stale()));
            Arc::clone(nodes.entry(name.to_owned()).or_default())
        };
        // Whoever comes meanwhile waits here, and is then told the same.
        let mut known = known.lock().await;
        let age = known.last.as_ref().map(|(at, _)| at.elapsed());
        match needs(age, known.shown.is_some()) {
            Needs::Nothing => {}
            Needs::OneReading => known.read(connector, node).await?,
            Needs::TwoReadings => {
                known.last = None;
                known.read(connector, node).await?;
                tokio::time::sleep(FIRST_WINDOW).await;
                known.read(connector, node).await?;
            }
        }
        known
            .shown
            .clone()
            .ok_or_else(|| "it was read only once".to_owned())
    }
}

impl Known {
    /// Of no use for the next answer, so not worth its memory.
    fn is_stale(&self) -> bool {
        self.last.as_ref().is_none_or(|(at, _)| at.elapsed() > STALE)
    }

    async fn read(&mut self, connector: &Connector, node: &Value) -> Result<(), String> {
        let summary = tokio::time::timeout(PATIENCE, fetch(connector, node))
            .await
            .map_err(|_| "no answer in time".to_owned())??;
        self.shown = self
            .last
            .as_ref()
            .map(|(_, before)| Arc::new(NodeUsage::between(before, &summary)));
        self.last = Some((Instant::now(), summary));
        Ok(())
    }
}

async fn fetch(connector: &Connector, node: &Value) -> Result<Summary, String> {
    let mut target = connect::kubelet(node).map_err(|error| error.message)?;
    target.path = "/stats/summary?only_cpu_and_memory=true".to_owned();
    let request = Request::new(Body::empty());
    let answer = connector
        .proxy(target, request)
        .await
        .map_err(|e| e.to_string())?;
    let code = answer.status();
    let body = answer.into_body().limited(SUMMARY_MOST).await;
    let body = body.map_err(|e| e.to_string())?;
    if !code.is_success() {
        return Err(format!("{code}: {}", String::from_utf8_lossy(&body)));
    }
    serde_json::from_slice(&body).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_as_rarely_as_can_be() {
        let check = |age: Option<u64>, has_usage: bool, expected: Needs| {
            assert_eq!(
                needs(age.map(Duration::from_secs), has_usage),
                expected,
                "{age:?}"
            );
        };
        check(None, false, Needs::TwoReadings);
        check(Some(0), false, Needs::TwoReadings);
        check(Some(9), true, Needs::Nothing);
        check(Some(9), false, Needs::OneReading);
        check(Some(15), true, Needs::OneReading);
        check(Some(60), true, Needs::OneReading);
        check(Some(61), true, Needs::TwoReadings);
    }
}
