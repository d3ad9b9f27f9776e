//! The kubelet's HTTPS API: what the API server asks a node for.
//!
//! | path | what |
//! |---|---|
//! | `/healthz`, `/pods`, `/runningpods`, `/configz` | the kubelet itself |
//! | `/logs/` | files of the host's `/var/log` |
//! | `/checkpoint/{namespace}/{pod}/{container}` | a container written down, by a runtime that can |
//! | `/containerLogs/{namespace}/{pod}/{container}` | logs, followed or not |
//! | `/exec`, `/attach`, `/portForward`, `/run` | into containers |
//! | `/stats/summary`, `/metrics`, `/metrics/cadvisor`, `/metrics/resource` | figures |
//!
//! **Invariant:** who asks, and that they may, is known ([`auth`]) before anything is looked at.

pub mod auth;
mod cadvisor;
mod checkpoint;
mod host_logs;
pub mod logs;
pub mod metrics;
pub mod query;
pub mod review;
pub mod stats;
pub mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cri::v1::security_profile::ProfileType;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use wire::body::Body;
use wire::server::Handler;

use crate::config::Settings;
use crate::eviction::thresholds::Amount;
use crate::node::context::NodeContext;
use crate::pods::workers::Workers;
use crate::runtime::status::State;
use auth::Guard;
use query::Query;
use review::Reviews;

/// An answer that is no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: StatusCode,
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn answer(self) -> Response<Body> {
        text(self.code, self.message)
    }
}

/// What all answers are made from.
#[derive(Clone)]
pub struct Server {
    pub(crate) node: Arc<NodeContext>,
    pub(crate) workers: Arc<Workers>,
    guard: Arc<Guard>,
    reviews: Arc<Reviews>,
}

impl Server {
    pub fn new(node: Arc<NodeContext>, workers: Arc<Workers>, guard: Guard) -> Self {
        let reviews = Reviews::new(node.client.clone(), node.clock.clone(), &node.settings.node_name);
        Self {
            node,
            workers,
            guard: Arc::new(guard),
            reviews: Arc::new(reviews),
        }
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let now = self.node.clock.now();
        if let Err(refusal) = self.guard.check(&request, now, &self.reviews).await {
            return refusal.answer();
        }
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let get = request.method() == Method::GET;
        match segments[..] {
            ["healthz"] if get => text(StatusCode::OK, "ok"),
            ["pods"] if get => self.pods(),
            ["runningpods"] if get => self.running_pods(),
            ["configz"] if get => self.configz(),
            ["logs", ..] if get => host_logs::answer(&path).await,
            ["checkpoint", namespace, pod, container] if request.method() == Method::POST => {
                checkpoint::answer(&self, namespace, pod, container, &query).await
            }
            ["metrics"] if get => metrics::kubelet(&self),
            ["metrics", "cadvisor"] if get => cadvisor::answer(&self).await,
            ["metrics", "resource"] if get => metrics::resource(&self).await,
            ["stats", "summary"] if get => stats::summary(&self).await,
            ["containerLogs", namespace, pod, container] if get => {
                logs::container_logs(&self, namespace, pod, container, &query)
            }
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                streams::exec(&self, namespace, pod, container, &query, request).await
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                streams::attach(&self, namespace, pod, container, &query, request).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                streams::port_forward(&self, namespace, pod, &query, request).await
            }
            ["run", namespace, pod, container] | ["run", namespace, pod, _, container]
                if request.method() == Method::POST =>
            {
                streams::run(&self, namespace, pod, container, &query).await
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    /// A pod that is here.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Refusal> {
        let missing = || Refusal::new(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist"));
        self.workers.find(namespace, name).ok_or_else(missing)
    }

    fn pods(&self) -> Response<Body> {
        let items: Vec<Pod> = self
            .workers
            .pods()
            .iter()
            .map(|pod| {
                let mut pod = Pod::clone(pod);
                if let Some(status) = self
                    .node
                    .status
                    .get(pod.metadata.uid.as_deref().unwrap_or_default())
                {
                    pod.status = Some(status);
                }
                pod
            })
            .collect();
        json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    /// What the runtime runs, whatever the API server thinks of it.
    fn running_pods(&self) -> Response<Body> {
        let mut items = Vec::new();
        for pod in self.workers.pods() {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let Some(status) = self.workers.runtime_status(uid) else {
                continue;
            };
            let status = status.borrow();
            let running = status.containers.iter().filter(|c| c.state == State::Running);
            let containers: Vec<_> = running
                .map(|c| json!({"name": c.name, "image": c.image, "resources": {}}))
                .collect();
            if status.active_sandbox().is_some() || !containers.is_empty() {
                items.push(json!({
                    "metadata": {"name": status.name, "namespace": status.namespace, "uid": status.uid},
                    "spec": {"containers": containers},
                    "status": {},
                }));
            }
        }
        json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    fn configz(&self) -> Response<Body> {
        let settings = &self.node.settings;
        json_answer(&json!({"kubeletconfig": {
            "port": settings.port,
            "clusterDomain": settings.cluster_domain,
            "clusterDNS": settings.cluster_dns,
            "maxPods": settings.max_pods,
            "podPidsLimit": settings.pod_pids_limit.unwrap_or(-1),
            "resolvConf": settings.resolv_conf.display().to_string(),
            "allowedUnsafeSysctls": settings.allowed_sysctls,
            "crashLoopBackOff": {"maxContainerRestartPeriod": format!("{}s", settings.max_restart_period.as_secs())},
            "evictionHard": eviction(settings, true),
            "evictionMaxPodGracePeriod": settings.eviction.max_pod_grace,
            "evictionPressureTransitionPeriod": format!("{}s", settings.eviction.transition.as_secs()),
            "evictionSoft": eviction(settings, false),
            "imageGCHighThresholdPercent": settings.image_gc.high_percent,
            "imageGCLowThresholdPercent": settings.image_gc.low_percent,
            "imageMinimumGCAge": format!("{}s", settings.image_gc.min_age.as_secs()),
            "nodeStatusMaxImages": settings.max_images,
            "registerWithTaints": settings.taints,
            "seccompDefault": settings.seccomp_default == ProfileType::RuntimeDefault,
            "staticPodPath": settings.static_pods.as_ref().map(|p| p.display().to_string()),
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": self.node.cgroups.is_some(),
            "containerLogMaxSize": format!("{}Mi", settings.logs.max_bytes >> 20),
            "containerLogMaxFiles": settings.logs.max_files,
            "nodeStatusUpdateFrequency": format!("{}s", settings.status_update_frequency.as_secs()),
            "nodeStatusReportFrequency": format!("{}s", settings.status_report_frequency.as_secs()),
            "nodeLeaseDurationSeconds": settings.lease_duration.as_secs(),
            "containerRuntimeEndpoint": format!("unix://{}", settings.cri_socket.display()),
        }}))
    }
}

/// Thresholds by signal, as the configuration says them.
fn eviction(settings: &Settings, hard: bool) -> BTreeMap<&'static str, String> {
    let thresholds = settings
        .eviction
        .thresholds
        .iter()
        .filter(|t| t.is_hard() == hard);
    thresholds
        .map(|threshold| {
            let least = match threshold.least {
                Amount::Bytes(bytes) => bytes.to_string(),
                Amount::Percent(percent) => format!("{percent}%"),
            };
            (threshold.signal.name(), least)
        })
        .collect()
}

impl Handler for Server {
    fn handle(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().answer(request))
    }
}

pub(crate) fn text(code: StatusCode, words: impl Into<String>) -> Response<Body> {
    with_type(code, "text/plain; charset=utf-8", Bytes::from(words.into()))
}

pub(crate) fn json_answer(value: &serde_json::Value) -> Response<Body> {
    with_type(StatusCode::OK, "application/json", Bytes::from(value.to_string()))
}

pub(crate) fn with_type(code: StatusCode, kind: &'static str, bytes: Bytes) -> Response<Body> {
    let mut answer = Response::new(Body::chunks([bytes]));
    *answer.status_mut() = code;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
}
