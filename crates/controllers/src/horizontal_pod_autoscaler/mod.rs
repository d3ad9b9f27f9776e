//! The horizontal pod autoscaler: every fifteen seconds each target gets as many replicas as its metrics ask for, no
//! faster and no further than it may.
//!
//! What the metrics ask for is in [`calculate`], what is made of it in [`normalize`]; metrics come from the metrics
//! APIs, whoever serves them. Scaling to and from zero is off, as upstream's `HPAScaleToZero` is by default.

mod calculate;
mod judge;
mod metrics;
mod normalize;

use crate::context::Context;
use crate::pods::message_of;
use calculate::Tolerances;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::informer::metadata::discover;
use client::informer::{Index, by_namespace};
use client::{Event, Informer, ObjectKey, Outcome, Resource};
use futures::future::BoxFuture;
use hashbrown::HashMap;
use judge::Scene;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, PostParams};
use machinery::quantity::Quantity;
use machinery::selector::LabelSelector;
use normalize::{Bounds, Memory};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;
const PERIOD: Duration = Duration::from_secs(15);
const TOLERANCE: f64 = 0.1;

struct Shell {
    context: Context,
    scalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    pods_by_namespace: Index<Pod>,
    memories: Mutex<HashMap<ObjectKey, Memory>>,
    /// By API version and kind.
    resources: Mutex<HashMap<(String, String), Resource>>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let scalers = context.informer::<HorizontalPodAutoscaler>();
    let pods = context.informer::<Pod>();
    let queue = context.queue::<ObjectKey>("horizontalpodautoscaler");
    let adds = queue.clone();
    scalers.subscribe(move |event| match event {
        // Its own writing of the status is no reason to look again before it is time.
        Event::Updated { old, new } if old.spec == new.spec => {}
        _ => adds.add(ObjectKey::of(&**event.object())),
    });
    let shell = Arc::new(Shell {
        pods_by_namespace: pods.index("namespace", by_namespace),
        scalers,
        pods,
        memories: Mutex::default(),
        resources: Mutex::default(),
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.scalers.synced().await;
        ready.pods.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

/// A status in the making.
struct Draft {
    status: HorizontalPodAutoscalerStatus,
    now: Time,
}

impl Draft {
    fn set(&mut self, kind: &str, holds: bool, reason: &str, message: impl Into<String>) {
        let status = if holds { "True" } else { "False" };
        let conditions = self.status.conditions.get_or_insert_default();
        let message = Some(message.into()).filter(|m| !m.is_empty());
        let reason = Some(reason.to_owned());
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            Some(known) => {
                if known.status != status {
                    known.last_transition_time = Some(self.now.clone());
                }
                status.clone_into(&mut known.status);
                known.reason = reason;
                known.message = message;
            }
            None => conditions.push(HorizontalPodAutoscalerCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason,
                message,
                last_transition_time: Some(self.now.clone()),
            }),
        }
    }
}

/// Why a target's size stays as it is.
struct Stop;

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(scaler) = self.scalers.get(key) else {
            self.memories.lock().remove(key);
            return Ok(Outcome::Done);
        };
        let spec = &scaler.spec;
        let mut draft = Draft {
            status: scaler.status.clone().unwrap_or_default(),
            now: Time(self.context.now()),
        };
        draft.status.observed_generation = scaler.metadata.generation;
        // What stops it stands in the conditions, and it looks again when it is time.
        if self.scale(key, &scaler, spec, &mut draft).await.is_err() {
            tracing::debug!(autoscaler = %key, "the target's size stays");
        }
        self.write(key, &scaler, draft.status).await?;
        Ok(Outcome::After(PERIOD))
    }

    async fn scale(
        &self,
        key: &ObjectKey,
        scaler: &HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        draft: &mut Draft,
    ) -> Result<(), Stop> {
        let about = reference(scaler);
        let recorder = &self.context.recorder;
        let (path, scale) = match self.target(key, spec).await {
            Ok(found) => found,
            Err(why) => {
                recorder.warning(&about, "FailedGetScale", why.clone());
                let message =
                    format!("the HPA controller was unable to get the target's current scale: {why}");
                draft.set("AbleToScale", false, "FailedGetScale", message);
                return Err(Stop);
            }
        };
        draft.set(
            "AbleToScale",
            true,
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        );
        let current = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let bounds = Bounds {
            current,
            min: spec.min_replicas.unwrap_or(1),
            max: spec.max_replicas,
        };
        let now = self.context.now();
        self.memories
            .lock()
            .entry(key.clone())
            .or_default()
            .begin(current, now);
        let mut metrics = draft.status.current_metrics.clone();
        let (wanted, reason) = if current == 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            draft.set("ScalingActive", false, "ScalingDisabled", message);
            (0, String::new())
        } else if current > bounds.max {
            (
                bounds.max,
                "Current number of replicas above Spec.MaxReplicas".to_owned(),
            )
        } else if current < bounds.min {
            (
                bounds.min,
                "Current number of replicas below Spec.MinReplicas".to_owned(),
            )
        } else {
            let (asked, name, statuses) = match self.ask(key, scaler, spec, &scale, draft).await {
                Ok(answer) => answer,
                Err(statuses) => {
                    draft.status.current_replicas = Some(current);
                    draft.status.current_metrics = Some(statuses);
                    return Err(Stop);
                }
            };
            metrics = Some(statuses);
            let reason = if asked > current {
                format!("{name} above target")
            } else {
                "All metrics below target".to_owned()
            };
            let mut memories = self.memories.lock();
            let memory = memories.entry(key.clone()).or_default();
            let normalized = memory.normalize(asked, bounds, spec.behavior.as_ref(), now);
            let (able, limited) = (normalized.able, normalized.limited);
            draft.set("AbleToScale", able.holds, able.reason, able.message);
            draft.set("ScalingLimited", limited.holds, limited.reason, limited.message);
            (normalized.replicas, reason)
        };
        draft.status.current_replicas = Some(current);
        draft.status.current_metrics = metrics;
        if wanted != current {
            if let Err(error) = self.resize(&path, wanted).await {
                let why = message_of(&error);
                recorder.warning(
                    &about,
                    "FailedRescale",
                    format!("New size: {wanted}; reason: {reason}; error: {why}"),
                );
                let message = format!("the HPA controller was unable to update the target scale: {why}");
                draft.set("AbleToScale", false, "FailedUpdateScale", message);
                return Err(Stop);
            }
            let message = format!("the HPA controller was able to update the target scale to {wanted}");
            draft.set("AbleToScale", true, "SucceededRescale", message);
            recorder.normal(
                &about,
                "SuccessfulRescale",
                format!("New size: {wanted}; reason: {reason}"),
            );
            let mut memories = self.memories.lock();
            let memory = memories.entry(key.clone()).or_default();
            memory.scaled(current, wanted, spec.behavior.as_ref(), now);
            draft.status.last_scale_time = Some(Time(now));
        }
        draft.status.desired_replicas = wanted;
        Ok(())
    }

    /// The most any metric asks for, which one that is, and how all stand. Where one says nothing, only upwards.
    async fn ask(
        &self,
        key: &ObjectKey,
        scaler: &HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        scale: &Scale,
        draft: &mut Draft,
    ) -> Result<(i32, String, Vec<MetricStatus>), Vec<MetricStatus>> {
        let about = reference(scaler);
        let recorder = &self.context.recorder;
        let status = scale.status.as_ref();
        let selector = status.and_then(|s| s.selector.as_deref()).unwrap_or("");
        if selector.is_empty() {
            recorder.warning(&about, "SelectorRequired", "selector is required");
            let message = "the HPA target's scale is missing a selector";
            draft.set("ScalingActive", false, "InvalidSelector", message);
            return Err(Vec::new());
        }
        let Ok(parsed) = LabelSelector::parse(selector) else {
            let message = "couldn't convert selector into a corresponding internal selector object";
            recorder.warning(&about, "InvalidSelector", message);
            draft.set("ScalingActive", false, "InvalidSelector", message);
            return Err(Vec::new());
        };
        let mut pods = self.pods_by_namespace.get(&key.namespace);
        pods.retain(|pod| {
            let labels = pod.metadata.labels.as_ref();
            parsed.matches_with(|name| labels?.get(name).map(String::as_str))
        });
        let replicas = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let scene = Scene {
            namespace: &key.namespace,
            selector,
            pods: &pods,
            replicas,
            status_replicas: status.map_or(0, |s| s.replicas),
            tolerances: tolerances(spec),
        };
        let specs = spec.metrics.as_deref().unwrap_or(&[]);
        let mut best: Option<(i32, String)> = None;
        let mut statuses = Vec::with_capacity(specs.len());
        let mut first = None;
        let mut silent = 0;
        for metric in specs {
            match self.judge(metric, &scene).await {
                Ok(opinion) => {
                    statuses.push(opinion.status);
                    if best.as_ref().is_none_or(|(most, _)| opinion.replicas > *most) {
                        best = Some((opinion.replicas, opinion.name));
                    }
                }
                Err(silence) => {
                    recorder.warning(&about, silence.reason, silence.message.clone());
                    first.get_or_insert(silence);
                    silent += 1;
                }
            }
        }
        let asked = best.as_ref().map_or(0, |(most, _)| *most);
        if let Some(first) = first
            && (best.is_none() || asked < replicas)
        {
            let why = &first.message;
            let message = format!("the HPA was unable to compute the replica count: {why}");
            draft.set("ScalingActive", false, first.reason, message);
            let total = specs.len();
            recorder.warning(
                &about,
                "FailedComputeMetricsReplicas",
                format!("invalid metrics ({silent} invalid out of {total}), first error is: {why}"),
            );
            return Err(statuses);
        }
        let Some((asked, name)) = best else {
            return Err(statuses);
        };
        let message = format!("the HPA was able to successfully calculate a replica count from {name}");
        draft.set("ScalingActive", true, "ValidMetricFound", message);
        Ok((asked, name, statuses))
    }

    /// The path of the target's scale, and what it says.
    async fn target(
        &self,
        key: &ObjectKey,
        spec: &HorizontalPodAutoscalerSpec,
    ) -> Result<(String, Scale), String> {
        let target = &spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or("v1");
        let resource = self.resource(version, &target.kind).await?;
        let path = format!(
            "{}/scale",
            resource.object_path(Some(&key.namespace), &target.name)
        );
        let request = http::Request::get(&path)
            .body(Vec::new())
            .map_err(|error| error.to_string())?;
        match self.context.client.request::<Scale>(request).await {
            Ok(scale) => Ok((path, scale)),
            Err(error) => Err(message_of(&error)),
        }
    }

    async fn resize(&self, path: &str, replicas: i32) -> Result<(), kube::Error> {
        let body = json!({"spec": {"replicas": replicas}}).to_string().into_bytes();
        let request = http::Request::patch(path)
            .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
            .body(body)
            .map_err(|error| kube::Error::Service(Box::new(error)))?;
        self.context.client.request::<Scale>(request).await.map(|_| ())
    }

    async fn resource(&self, api_version: &str, kind: &str) -> Result<Resource, String> {
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some(known) = self.resources.lock().get(&key) {
            return Ok(known.clone());
        }
        let found = discover(&self.context.client)
            .await
            .map_err(|error| error.to_string())?;
        let mut resources = self.resources.lock();
        for served in found.resources {
            let resource = served.resource;
            let of = (resource.api_version(), resource.kind.to_string());
            resources.insert(of, resource);
        }
        let known = resources.get(&key).cloned();
        known.ok_or_else(|| format!("no matches for kind {kind:?} in version {api_version:?}"))
    }

    /// The plural of a kind, with its group if it has one.
    async fn plural(&self, api_version: &str, kind: &str) -> Result<String, String> {
        let resource = self.resource(api_version, kind).await?;
        Ok(if resource.group.is_empty() {
            resource.plural.to_string()
        } else {
            format!("{}.{}", resource.plural, resource.group)
        })
    }

    async fn write(
        &self,
        key: &ObjectKey,
        scaler: &HorizontalPodAutoscaler,
        status: HorizontalPodAutoscalerStatus,
    ) -> Result<(), kube::Error> {
        if scaler.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api = Api::<HorizontalPodAutoscaler>::namespaced(self.context.client.clone(), &key.namespace);
        let mut written = scaler.clone();
        written.status = Some(status);
        match api
            .replace_status(&key.name, &PostParams::default(), &written)
            .await
        {
            Ok(written) => self.scalers.written(written),
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn tolerances(spec: &HorizontalPodAutoscalerSpec) -> Tolerances {
    let behavior = spec.behavior.as_ref();
    let of = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
        let text = rules.and_then(|r| r.tolerance.as_ref());
        let own = text.and_then(|t| t.0.parse::<Quantity>().ok());
        own.map_or(TOLERANCE, |q| q.as_f64())
    };
    Tolerances {
        down: of(behavior.and_then(|b| b.scale_down.as_ref())),
        up: of(behavior.and_then(|b| b.scale_up.as_ref())),
    }
}
