//! What a pod may learn about itself: fields and resources, as environment variables and in volumes. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::error::{Error, Result};
use crate::pod::PodExt;
use crate::quantity::{limit, milli, request, value};

/// A pod and what the node knows about it.
pub struct PodFacts<'a> {
    pub pod: &'a Pod,
    pub pod_ips: &'a [String],
    pub host_ips: &'a [String],
    /// What stands in for a missing limit; thousandths for CPU.
    pub allocatable: &'a BTreeMap<String, i64>,
}

/// The value of `fieldRef`.
pub fn field(facts: &PodFacts<'_>, path: &str) -> Result<String> {
    let pod = facts.pod;
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.annotations" => &pod.metadata.annotations,
            "metadata.labels" => &pod.metadata.labels,
            _ => {
                return Err(Error::Pod(format!(
                    "fieldPath {path:?} does not support subscript"
                )));
            }
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    Ok(match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => text(&pod.spec().node_name),
        "spec.serviceAccountName" => text(&pod.spec().service_account_name),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(Error::Pod(format!("unsupported fieldPath: {path}"))),
    })
}

/// `key="value"`, one a line, sorted.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", quote(v)))
        .collect();
    lines.join("\n")
}

/// As Go quotes a string.
fn quote(text: &str) -> String {
    let mut result = String::from('"');
    for c in text.chars() {
        match c {
            '"' => result.push_str("\\\""),
            '\\' => result.push_str("\\\\"),
            '\n' => result.push_str("\\n"),
            '\r' => result.push_str("\\r"),
            '\t' => result.push_str("\\t"),
            '\u{7}' => result.push_str("\\a"),
            '\u{8}' => result.push_str("\\b"),
            '\u{b}' => result.push_str("\\v"),
            '\u{c}' => result.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => result.push_str(&format!("\\x{:02x}", c as u32)),
            c => result.push(c),
        }
    }
    result.push('"');
    result
}

/// The value of `resourceFieldRef`; `own` is the container that asks.
pub fn resource(facts: &PodFacts<'_>, selector: &ResourceFieldSelector, own: &Container) -> Result<String> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let found;
    let container = if name.is_empty() || name == own.name {
        own
    } else {
        found = facts
            .pod
            .init_containers()
            .iter()
            .chain(facts.pod.containers())
            .find(|c| c.name == name)
            .ok_or_else(|| Error::Pod(format!("container {name} not found")))?;
        found
    };
    let path = selector.resource.as_str();
    let (list, name) = path.split_once('.').unwrap_or(("", path));
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let amount = match list {
        "limits" if known => {
            let given = limit(container, name).filter(|l| *l != 0);
            given.or_else(|| {
                facts
                    .allocatable
                    .get(name)
                    .copied()
                    .filter(|_| !name.starts_with("hugepages-"))
            })
        }
        "requests" if known => request(container, name),
        _ => return Err(Error::Pod(format!("unsupported container resource : {path}"))),
    };
    let zero = Quantity("0".to_owned());
    let divisor = selector.divisor.as_ref().unwrap_or(&zero);
    let divisor = match (
        if name == "cpu" {
            milli(divisor)
        } else {
            value(divisor)
        },
        name,
    ) {
        (0, "cpu") => 1000,
        (0, _) => 1,
        (d, _) => d,
    };
    let amount = amount.unwrap_or(0);
    Ok((amount.div_euclid(divisor) + i64::from(amount.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u",
                         "labels": {"b": "2", "a": "x\"y\n"}, "annotations": {"k": "v"}},
            "spec": {"nodeName": "node", "containers": [{"name": "c", "resources": {
                "limits": {"cpu": "1500m"}, "requests": {"memory": "64Mi"}}}]}
        }))
        .unwrap();
        let allocatable = BTreeMap::from([("memory".to_owned(), 1 << 30), ("cpu".to_owned(), 4000)]);
        let facts = PodFacts {
            pod: &pod,
            pod_ips: &["10.0.0.1".to_owned(), "fd00::1".to_owned()],
            host_ips: &["192.0.2.1".to_owned()],
            allocatable: &allocatable,
        };
        let cases = [
            ("metadata.labels", "a=\"x\\\"y\\n\"\nb=\"2\""),
            ("metadata.labels['b']", "2"),
            ("metadata.annotations['none']", ""),
            ("status.podIPs", "10.0.0.1,fd00::1"),
            ("status.hostIP", "192.0.2.1"),
            ("spec.nodeName", "node"),
        ];
        for (path, expected) in cases {
            assert_eq!(field(&facts, path).unwrap(), expected, "{path}");
        }
        assert!(field(&facts, "spec.foo").is_err());
        let resources = [
            ("limits.cpu", "", "2"),
            ("limits.cpu", "1m", "1500"),
            ("requests.memory", "1Mi", "64"),
            ("limits.memory", "", "1073741824"),
            ("requests.cpu", "", "0"),
        ];
        for (name, divisor, expected) in resources {
            let selector = ResourceFieldSelector {
                resource: name.into(),
                divisor: (!divisor.is_empty()).then(|| Quantity(divisor.into())),
                ..Default::default()
            };
            assert_eq!(
                resource(&facts, &selector, &pod.containers()[0]).unwrap(),
                expected,
                "{name}/{divisor}"
            );
        }
    }
}
