//! Where metrics come from: the resource, custom and external metrics APIs, whoever serves them.

use super::calculate::{Sample, Samples};
use client::labels::Matcher;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ListParams;
use machinery::quantity::Quantity;
use serde::Deserialize;
use std::collections::BTreeMap;

const RESOURCE_API: &str = "/apis/metrics.k8s.io/v1beta1";
const CUSTOM_API: &str = "/apis/custom.metrics.k8s.io/v1beta2";
const EXTERNAL_API: &str = "/apis/external.metrics.k8s.io/v1beta1";

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PodUsage {
    metadata: Named,
    timestamp: Timestamp,
    #[serde(default)]
    window: String,
    #[serde(default)]
    containers: Vec<ContainerUsage>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct ContainerUsage {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Value {
    #[serde(default)]
    described_object: Option<Named>,
    #[serde(default = "epoch")]
    timestamp: Timestamp,
    value: String,
}

fn epoch() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn milli(text: &str) -> Option<i64> {
    text.parse::<Quantity>().ok().map(|q| q.milli_value())
}

async fn list<T>(client: &kube::Client, path: &str, labels: &str, more: &str) -> Result<List<T>, kube::Error>
where
    T: for<'de> Deserialize<'de>,
{
    let mut params = ListParams::default();
    if !labels.is_empty() {
        params = params.labels(labels);
    }
    let request = kube::core::Request::new(path)
        .list(&params)
        .map_err(kube::Error::BuildRequest)?;
    let (mut parts, body) = request.into_parts();
    if !more.is_empty() {
        let uri = format!("{}&{more}", parts.uri);
        parts.uri = uri
            .parse()
            .map_err(|error| kube::Error::Service(Box::new(error)))?;
    }
    client.request(http::Request::from_parts(parts, body)).await
}

/// What each selected pod uses of a resource, in all or in one container.
pub(super) async fn resource(
    client: &kube::Client,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<Samples, String> {
    let context = |why: String| format!("unable to get metrics for resource {resource}: {why}");
    let path = format!("{RESOURCE_API}/namespaces/{namespace}/pods");
    let found: List<PodUsage> = list(client, &path, selector, "").await.map_err(|error| {
        let why = crate::pods::message_of(&error);
        context(format!(
            "unable to fetch metrics from resource metrics API: {why}"
        ))
    })?;
    if found.items.is_empty() {
        return Err(context(
            "no metrics returned from resource metrics API".to_owned(),
        ));
    }
    let samples = found.items.iter().filter_map(|pod| {
        let sample = Sample {
            value: used(pod, resource, container)?,
            at: pod.timestamp,
            window: window(&pod.window),
        };
        Some((pod.metadata.name.clone(), sample))
    });
    Ok(samples.collect())
}

/// A pod of which one container says nothing has said nothing.
fn used(pod: &PodUsage, resource: &str, container: Option<&str>) -> Option<i64> {
    let of = |c: &ContainerUsage| milli(c.usage.get(resource)?);
    match container {
        Some(name) => of(pod.containers.iter().find(|c| c.name == name)?),
        None => pod.containers.iter().map(of).sum(),
    }
}

/// Durations as Go writes them; the metrics servers write seconds.
fn window(text: &str) -> SignedDuration {
    text.parse().unwrap_or(SignedDuration::from_mins(1))
}

/// What each selected pod says of a metric of its own.
pub(super) async fn pods(
    client: &kube::Client,
    namespace: &str,
    selector: &str,
    metric: &MetricIdentifier,
) -> Result<Samples, String> {
    let name = &metric.name;
    let path = format!("{CUSTOM_API}/namespaces/{namespace}/pods/*/{name}");
    let more = metric_selector(metric.selector.as_ref());
    let found: List<Value> = list(client, &path, selector, &more).await.map_err(|error| {
        format!(
            "unable to get metric {name}: unable to fetch metrics from custom metrics API: {}",
            crate::pods::message_of(&error)
        )
    })?;
    if found.items.is_empty() {
        return Err(format!(
            "unable to get metric {name}: no metrics returned from custom metrics API"
        ));
    }
    let samples = found.items.into_iter().filter_map(|value| {
        let sample = Sample {
            value: milli(&value.value)?,
            at: value.timestamp,
            window: SignedDuration::from_mins(1),
        };
        Some((value.described_object?.name, sample))
    });
    Ok(samples.collect())
}

/// What is said of one object; `plural` is its resource, with its group.
pub(super) async fn object(
    client: &kube::Client,
    namespace: &str,
    plural: &str,
    object: &CrossVersionObjectReference,
    metric: &MetricIdentifier,
) -> Result<i64, String> {
    let path = if plural == "namespaces" {
        format!("{CUSTOM_API}/namespaces/{}/metrics/{}", object.name, metric.name)
    } else {
        format!(
            "{CUSTOM_API}/namespaces/{namespace}/{plural}/{}/{}",
            object.name, metric.name
        )
    };
    let context = |why: String| {
        format!(
            "unable to get metric {}: {} on {namespace} {}/{why}",
            metric.name, object.kind, object.name
        )
    };
    let more = metric_selector(metric.selector.as_ref());
    let found: List<Value> = list(client, &path, "", &more).await.map_err(|error| {
        context(format!(
            "unable to fetch metrics from custom metrics API: {}",
            crate::pods::message_of(&error)
        ))
    })?;
    let value = found.items.first().and_then(|v| milli(&v.value));
    value.ok_or_else(|| context("no metrics returned from custom metrics API".to_owned()))
}

/// The sum of what is said of something outside the cluster.
pub(super) async fn external(
    client: &kube::Client,
    namespace: &str,
    metric: &MetricIdentifier,
) -> Result<i64, String> {
    let name = &metric.name;
    let path = format!("{EXTERNAL_API}/namespaces/{namespace}/{name}");
    let labels = selector_text(metric.selector.as_ref());
    let context = |why: String| format!("unable to get external metric {namespace}/{name}/{labels}: {why}");
    let found: List<Value> = list(client, &path, &labels, "").await.map_err(|error| {
        context(format!(
            "unable to fetch metrics from external metrics API: {}",
            crate::pods::message_of(&error)
        ))
    })?;
    if found.items.is_empty() {
        return Err(context(
            "no metrics returned from external metrics API".to_owned(),
        ));
    }
    let values = found.items.iter().filter_map(|v| milli(&v.value));
    Ok(values.fold(0, i64::saturating_add))
}

fn selector_text(selector: Option<&LabelSelector>) -> String {
    match selector.map(|s| Matcher::of(Some(s))) {
        Some(Matcher::Labels(selector)) => selector.to_string(),
        _ => String::new(),
    }
}

fn metric_selector(selector: Option<&LabelSelector>) -> String {
    let text = selector_text(selector);
    if text.is_empty() {
        return text;
    }
    let mut query = "metricLabelSelector=".to_owned();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            query.push(char::from(byte));
        } else {
            query.push_str(&format!("%{byte:02X}"));
        }
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn usage_of_a_pod() {
        let pod: PodUsage = serde_json::from_value(json!({"metadata": {"name": "p"},
            "timestamp": "2026-01-01T00:00:00Z", "window": "15s",
            "containers": [{"name": "a", "usage": {"cpu": "250m"}}, {"name": "b", "usage": {"cpu": "1500000n"}}]}))
        .expect("usage");
        assert_eq!(used(&pod, "cpu", None), Some(252));
        assert_eq!(used(&pod, "cpu", Some("a")), Some(250));
        assert_eq!(used(&pod, "cpu", Some("c")), None);
        assert_eq!(used(&pod, "memory", None), None);
        assert_eq!(window(&pod.window), SignedDuration::from_secs(15));
    }

    #[test]
    fn metric_selectors_are_escaped() {
        let selector = LabelSelector {
            match_labels: Some([("a/b".to_owned(), "c".to_owned())].into()),
            match_expressions: None,
        };
        assert_eq!(metric_selector(Some(&selector)), "metricLabelSelector=a%2Fb%3Dc");
        assert_eq!(metric_selector(None), "");
    }
}
