//! Whether a remote API service is there: its Service, somebody ready behind it, and an answer to discovery.
//!
//! Looked at again when its Service or endpoints change, and every half minute: a server can die without either.

use super::proxy::identify;
use super::remote::Remote;
use super::{GROUP, RESOURCE};
use crate::boot::Maker;
use crate::cache::{Filter, WatchReceiver, WatchStart};
use crate::connect::Connector;
use crate::registry::read::Reader;
use crate::registry::update::Change;
use crate::server::Core;
use access::Objects;
use http::header::ACCEPT;
use http::{HeaderValue, Request};
use jiff::Timestamp;
use machinery::status::{ApiError, Reason};
use machinery::user::UserInfo;
use machinery::{Value, codec};
use resources::apiextensions::custom_resource_definition::conditions::{Condition, set_condition};
use std::sync::Arc;
use std::time::Duration;
use wire::body::Body;

/// How long a check of a service that is there holds.
const EVERY: Duration = Duration::from_secs(30);
/// After a failure the next check comes soon, and then ever later.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Changes that come together are looked at once.
const TOGETHER: Duration = Duration::from_millis(200);
/// How long discovery may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest list of resources read.
const MAX_ANSWER: usize = 4 << 20;

/// What a check found.
struct Finding {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Finding {
    fn no(reason: &'static str, message: String) -> Self {
        Self {
            status: "False",
            reason,
            message,
        }
    }
}

/// Checks until the API service is gone.
pub(super) async fn run(core: Arc<Core>, remote: Arc<Remote>) {
    let gone = remote.gone.clone();
    tokio::select! {
        () = gone.cancelled() => {}
        () = check_on(&core, &remote) => {}
    }
}

async fn check_on(core: &Core, remote: &Remote) {
    let mut wait = FIRST_WAIT;
    let mut watches = watches(core, remote).await;
    loop {
        let finding = check(core, remote).await;
        let available = finding.status == "True";
        remote.set_available(available);
        if let Err(error) = say(core, remote, &finding).await {
            tracing::warn!(error = %error.message, api_service = %remote.name, "saying whether it is available");
        }
        wait = if available {
            FIRST_WAIT
        } else {
            (wait * 2).min(EVERY)
        };
        tokio::select! {
            () = tokio::time::sleep(if available { EVERY } else { wait }) => {}
            ended = changed(&mut watches) => {
                tokio::time::sleep(TOGETHER).await;
                if ended {
                    watches = self::watches(core, remote).await;
                }
            }
        }
    }
}

/// Watches of what the API service depends on.
async fn watches(core: &Core, remote: &Remote) -> Vec<WatchReceiver> {
    let mut watches = Vec::new();
    for (group, name) in [("", "services"), ("discovery.k8s.io", "endpointslices")] {
        let Some(resource) = core.routes.resource(group, name) else {
            continue;
        };
        let filter = Filter::all(&remote.service.namespace);
        let started = resource.watch(&core.registry.reflector, &filter, WatchStart::State);
        if let Ok(started) = started.await {
            watches.push(started.receiver);
        }
    }
    watches
}

/// Waits for a change; whether a watch ended.
async fn changed(watches: &mut [WatchReceiver]) -> bool {
    if watches.is_empty() {
        return std::future::pending().await;
    }
    let next = watches.iter_mut().map(|watch| Box::pin(watch.next()));
    let (events, ..) = futures::future::select_all(next).await;
    events.is_none()
}

async fn check(core: &Core, remote: &Remote) -> Finding {
    let objects = Reader {
        registry: Arc::clone(&core.registry),
        routes: Arc::clone(&core.routes),
    };
    match service_is_there(&objects, remote).await {
        Ok(()) => {}
        Err(finding) => return finding,
    }
    let path = if remote.group.is_empty() {
        format!("/api/{}", remote.version)
    } else {
        format!("/apis/{}/{}", remote.group, remote.version)
    };
    let target = match remote.target(&objects, path.clone()).await {
        Ok(target) => target,
        Err(why) => return Finding::no("FailedDiscoveryCheck", why),
    };
    let url = format!("https://{}{path}", target.place());
    let asked = async {
        let io = remote.connect(&target).await.map_err(|error| error.to_string())?;
        let mut request = Request::new(Body::empty());
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        identify(headers, &aggregator());
        let answer = Connector::over(Box::new(io), &target, request)
            .await
            .map_err(|failure| failure.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("bad status from {url}: {}", answer.status().as_u16()));
        }
        Ok(answer.into_body().limited(MAX_ANSWER).await.ok())
    };
    let missing = |why: String| {
        let message = format!("failing or missing response from {url}: {why}");
        Finding::no("FailedDiscoveryCheck", message)
    };
    match tokio::time::timeout(TIMEOUT, asked).await {
        Err(_) => missing(format!(
            "Get {url:?}: net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)"
        )),
        Ok(Err(why)) => missing(why),
        Ok(Ok(body)) => {
            // A server that is there, and says nothing we understand of what it serves, serves nothing we can tell.
            let list = body.and_then(|body| codec::json::decode_any(&body).ok());
            remote.learn(&list.map(|list| list.value).unwrap_or_default());
            Finding {
                status: "True",
                reason: "Passed",
                message: "all checks passed".to_owned(),
            }
        }
    }
}

/// Who may ask for everything.
fn aggregator() -> UserInfo {
    UserInfo {
        name: "system:kube-aggregator".to_owned(),
        groups: vec!["system:masters".to_owned()],
        ..UserInfo::default()
    }
}

async fn service_is_there(objects: &dyn Objects, remote: &Remote) -> Result<(), Finding> {
    let (namespace, name, port) = (
        remote.service.namespace.as_str(),
        remote.service.name.as_str(),
        remote.service.port,
    );
    let unknown = |reason, error: ApiError| Finding {
        status: "Unknown",
        reason,
        message: format!(
            "service/{name} in {namespace:?} cannot be checked due to: {}",
            error.message
        ),
    };
    let service = objects
        .get("", "services", namespace, name)
        .await
        .map_err(|error| unknown("ServiceAccessError", error))?;
    let Some(service) = service else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return Err(Finding::no("ServiceNotFound", message));
    };
    if service.get_str_path(&["spec", "type"]) != Some("ClusterIP") {
        return Ok(());
    }
    let list = |of: &Value, path: &[&str]| -> Vec<Value> {
        let list = of.get_path(path).and_then(Value::as_array);
        list.unwrap_or_default().to_vec()
    };
    let ports = list(&service, &["spec", "ports"]);
    let found = ports
        .iter()
        .find(|known| known.get("port").and_then(Value::as_i64) == Some(i64::from(port)));
    let Some(found) = found else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Err(Finding::no("ServicePortError", message));
    };
    let port_name = found.get("name").and_then(Value::as_str).unwrap_or_default();
    let slices = objects
        .list("discovery.k8s.io", "endpointslices", namespace)
        .await
        .map_err(|error| unknown("EndpointsAccessError", error))?;
    let label = ["metadata", "labels", "kubernetes.io/service-name"];
    let mut slices = slices
        .iter()
        .filter(|slice| slice.get_str_path(&label) == Some(name))
        .peekable();
    if slices.peek().is_none() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Err(Finding::no("EndpointsNotFound", message));
    }
    let active = slices.any(|slice| {
        let ready = |endpoint: &Value| {
            let ready = endpoint.get_path(&["conditions", "ready"]);
            ready.and_then(Value::as_bool) != Some(false)
        };
        let named = |port: &Value| port.get("name").and_then(Value::as_str).unwrap_or_default() == port_name;
        list(slice, &["endpoints"]).iter().any(ready) && list(slice, &["ports"]).iter().any(named)
    });
    if active {
        return Ok(());
    }
    let message = format!(
        "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
    );
    Err(Finding::no("MissingEndpoints", message))
}

/// Writes the condition, if it is another.
async fn say(core: &Core, remote: &Remote, finding: &Finding) -> Result<(), ApiError> {
    let Some(resource) = core.routes.resource(GROUP, RESOURCE) else {
        return Ok(());
    };
    let change = Say {
        condition: Condition {
            kind: "Available",
            status: finding.status,
            reason: finding.reason,
            message: &finding.message,
        },
        now: core.registry.clock.now(),
    };
    let entry = core.registry.get(&resource, "", &remote.name, true).await;
    if let Ok(stored) = entry
        && let Ok(stored) = stored.value(&resource)
        && change.apply(Some(&stored)).is_ok_and(|new| new == stored)
    {
        return Ok(());
    }
    let maker = Maker::new(core);
    let options = Value::object();
    let write = maker.write(&resource, "", &remote.name, &options);
    match core.registry.update_raw(&write, &change).await {
        Err(error) if error.reason != Reason::NotFound => Err(error),
        _ => Ok(()),
    }
}

struct Say<'a> {
    condition: Condition<'a>,
    now: Timestamp,
}

impl Change for Say<'_> {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        let gone = || ApiError::not_found(&machinery::gvk::GroupResource::new(GROUP, RESOURCE), "");
        let mut object = live.ok_or_else(gone)?.clone();
        set_condition(&mut object, &self.condition, self.now);
        Ok(object)
    }
}
