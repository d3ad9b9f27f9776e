//! One metric of an autoscaler: what it asks for, and what its status says.

use super::Shell;
use super::calculate::{PodMetric, Target, Tolerances, of_average, of_pods, of_value};
use super::metrics;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use machinery::quantity::Quantity as Number;
use std::sync::Arc;

/// What is known of the target while its metrics are judged.
pub(super) struct Scene<'a> {
    pub(super) namespace: &'a str,
    pub(super) selector: &'a str,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) replicas: i32,
    pub(super) status_replicas: i32,
    pub(super) tolerances: Tolerances,
}

/// What a metric asks for.
pub(super) struct Opinion {
    pub(super) replicas: i32,
    pub(super) name: String,
    pub(super) status: MetricStatus,
}

/// Why a metric says nothing: a condition's reason and a message.
pub(super) struct Silence {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn quantity(milli: i64) -> Quantity {
    Quantity(Number::from_millis(milli).to_string())
}

fn milli(quantity: Option<&Quantity>) -> Option<i64> {
    Some(quantity?.0.parse::<Number>().ok()?.milli_value())
}

fn average(value: i64, utilization: Option<i32>) -> MetricValueStatus {
    MetricValueStatus {
        average_value: Some(quantity(value)),
        average_utilization: utilization,
        value: None,
    }
}

impl Shell {
    pub(super) async fn judge(&self, spec: &MetricSpec, scene: &Scene<'_>) -> Result<Opinion, Silence> {
        let silence = |reason| move |message| Silence { reason, message };
        match spec.type_.as_str() {
            "Resource" => self
                .judge_resource(spec, scene)
                .await
                .map_err(silence("FailedGetResourceMetric")),
            "ContainerResource" => self
                .judge_resource(spec, scene)
                .await
                .map_err(silence("FailedGetContainerResourceMetric")),
            "Pods" => self
                .judge_pods(spec, scene)
                .await
                .map_err(silence("FailedGetPodsMetric")),
            "Object" => self
                .judge_object(spec, scene)
                .await
                .map_err(silence("FailedGetObjectMetric")),
            "External" => self
                .judge_external(spec, scene)
                .await
                .map_err(silence("FailedGetExternalMetric")),
            other => Err(Silence {
                reason: "InvalidMetricSourceType",
                message: format!("unknown metric source type {other:?}"),
            }),
        }
    }

    async fn judge_resource(&self, spec: &MetricSpec, scene: &Scene<'_>) -> Result<Opinion, String> {
        let (resource, container, target) = match (&spec.resource, &spec.container_resource) {
            (Some(source), _) => (source.name.as_str(), None, &source.target),
            (None, Some(source)) => (
                source.name.as_str(),
                Some(source.container.as_str()),
                &source.target,
            ),
            (None, None) => {
                return Err("invalid resource metric source: it names no resource".to_owned());
            }
        };
        let prefix = if container.is_some() { "container " } else { "" };
        let context = |why: String| match &target.average_value {
            Some(_) => format!("failed to get {resource} usage: {why}"),
            None => format!("failed to get {resource} utilization: {why}"),
        };
        let (aim, name) = match (milli(target.average_value.as_ref()), target.average_utilization) {
            (Some(value), _) => (Target::Average(value), format!("{resource} {prefix}resource")),
            (None, Some(percent)) => (
                Target::Utilization(percent),
                format!("{resource} {prefix}resource utilization (percentage of request)"),
            ),
            (None, None) => {
                return Err(
                    "invalid resource metric source: neither an average utilization target nor an average value \
                     (usage) target was set"
                        .to_owned(),
                );
            }
        };
        let samples = metrics::resource(
            &self.context.client,
            scene.namespace,
            scene.selector,
            resource,
            container,
        )
        .await
        .map_err(context)?;
        let metric = PodMetric {
            resource,
            container,
            target: aim,
        };
        let proposal = of_pods(
            &metric,
            scene.replicas,
            scene.pods,
            samples,
            scene.tolerances,
            self.context.now(),
        )
        .map_err(context)?;
        let current = average(proposal.average, proposal.utilization);
        let mut status = MetricStatus {
            type_: spec.type_.clone(),
            ..MetricStatus::default()
        };
        match container {
            Some(container) => {
                status.container_resource = Some(ContainerResourceMetricStatus {
                    container: container.to_owned(),
                    current,
                    name: resource.to_owned(),
                });
            }
            None => {
                status.resource = Some(ResourceMetricStatus {
                    current,
                    name: resource.to_owned(),
                });
            }
        }
        Ok(Opinion {
            replicas: proposal.replicas,
            name,
            status,
        })
    }

    async fn judge_pods(&self, spec: &MetricSpec, scene: &Scene<'_>) -> Result<Opinion, String> {
        let Some(source) = &spec.pods else {
            return Err("invalid pods metric source".to_owned());
        };
        let target = milli(source.target.average_value.as_ref())
            .ok_or_else(|| "invalid pods metric source: no average value is aimed at".to_owned())?;
        let samples = metrics::pods(
            &self.context.client,
            scene.namespace,
            scene.selector,
            &source.metric,
        )
        .await?;
        let metric = PodMetric {
            resource: "",
            container: None,
            target: Target::Average(target),
        };
        let proposal = of_pods(
            &metric,
            scene.replicas,
            scene.pods,
            samples,
            scene.tolerances,
            self.context.now(),
        )?;
        Ok(Opinion {
            replicas: proposal.replicas,
            name: format!("pods metric {}", source.metric.name),
            status: MetricStatus {
                type_: spec.type_.clone(),
                pods: Some(PodsMetricStatus {
                    current: average(proposal.average, None),
                    metric: source.metric.clone(),
                }),
                ..MetricStatus::default()
            },
        })
    }

    async fn judge_object(&self, spec: &MetricSpec, scene: &Scene<'_>) -> Result<Opinion, String> {
        let Some(source) = &spec.object else {
            return Err("invalid object metric source".to_owned());
        };
        let object = &source.described_object;
        let plural = self
            .plural(object.api_version.as_deref().unwrap_or("v1"), &object.kind)
            .await?;
        let usage = metrics::object(
            &self.context.client,
            scene.namespace,
            &plural,
            object,
            &source.metric,
        )
        .await?;
        let (replicas, current) = outside(&source.target, usage, scene).ok_or_else(|| {
            "invalid object metric source: neither a value target nor an average value target was set"
                .to_owned()
        })?;
        Ok(Opinion {
            replicas,
            name: format!("{} metric {}", object.kind, source.metric.name),
            status: MetricStatus {
                type_: spec.type_.clone(),
                object: Some(ObjectMetricStatus {
                    current,
                    described_object: object.clone(),
                    metric: source.metric.clone(),
                }),
                ..MetricStatus::default()
            },
        })
    }

    async fn judge_external(&self, spec: &MetricSpec, scene: &Scene<'_>) -> Result<Opinion, String> {
        let Some(source) = &spec.external else {
            return Err("invalid external metric source".to_owned());
        };
        let name = &source.metric.name;
        let usage = metrics::external(&self.context.client, scene.namespace, &source.metric)
            .await
            .map_err(|why| format!("failed to get {name} external metric: {why}"))?;
        let (replicas, current) = outside(&source.target, usage, scene).ok_or_else(|| {
            "invalid external metric source: neither a value target nor an average value target was set"
                .to_owned()
        })?;
        Ok(Opinion {
            replicas,
            name: format!("external metric {name}"),
            status: MetricStatus {
                type_: spec.type_.clone(),
                external: Some(ExternalMetricStatus {
                    current,
                    metric: source.metric.clone(),
                }),
                ..MetricStatus::default()
            },
        })
    }
}

/// What a metric that is no pod's asks for; `None` if nothing is aimed at.
fn outside(target: &MetricTarget, usage: i64, scene: &Scene<'_>) -> Option<(i32, MetricValueStatus)> {
    if let Some(each) = milli(target.average_value.as_ref()) {
        let (replicas, now) = of_average(usage, each, scene.status_replicas, scene.tolerances);
        return Some((replicas, average(now, None)));
    }
    let value = milli(target.value.as_ref())?;
    let replicas = of_value(usage, value, scene.replicas, scene.pods, scene.tolerances);
    let status = MetricValueStatus {
        value: Some(quantity(usage)),
        ..MetricValueStatus::default()
    };
    Some((replicas, status))
}
