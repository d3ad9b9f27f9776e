//! Node selectors: which nodes a pod's `nodeSelector` and node affinity, or a volume's, allow.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use std::collections::BTreeMap;

/// A node as selectors see it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub name: &'a str,
    pub labels: Option<&'a BTreeMap<String, String>>,
}

/// The selector that a pod's node affinity requires.
pub fn required(spec: &PodSpec) -> Option<&NodeSelector> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()
}

/// Whether the node is one the pod's `nodeSelector` and required affinity allow.
pub fn required_matches(spec: &PodSpec, node: Subject<'_>) -> bool {
    let selected = spec.node_selector.as_ref().is_none_or(|wanted| {
        let label = |key: &String| node.labels.and_then(|l| l.get(key));
        wanted.iter().all(|(k, v)| label(k) == Some(v))
    });
    selected && required(spec).is_none_or(|selector| selector_matches(selector, node))
}

/// Whether one of the selector's terms matches.
pub fn selector_matches(selector: &NodeSelector, node: Subject<'_>) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| term_matches(term, node))
}

/// Whether all of a term matches; an empty one matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: Subject<'_>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| node.labels.and_then(|l| l.get(key)).map(String::as_str);
    expressions.iter().all(|r| requirement_matches(r, label(&r.key)))
        && fields.iter().all(|r| {
            let value = (r.key == "metadata.name").then_some(node.name);
            requirement_matches(r, value)
        })
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or(&[]);
    let among = |value: &str| values.iter().any(|v| v == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let limit = values.first().and_then(|v| number(v));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => matches!((value.and_then(number), limit), (Some(value), Some(limit)) if value > limit),
        "Lt" => matches!((value.and_then(number), limit), (Some(value), Some(limit)) if value < limit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requirements() {
        let labels = [("zone", "a"), ("cores", "8")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let node = Subject {
            name: "n",
            labels: Some(&labels),
        };
        let need = |key: &str, operator: &str, values: &[&str]| json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]});
        for (selector, expected) in [
            (need("zone", "In", &["a", "b"]), true),
            (need("zone", "NotIn", &["a"]), false),
            (need("none", "NotIn", &["a"]), true),
            (need("zone", "Exists", &[]), true),
            (need("none", "DoesNotExist", &[]), true),
            (need("cores", "Gt", &["4"]), true),
            (need("cores", "Lt", &["4"]), false),
            (json!({"nodeSelectorTerms": [{}]}), false),
            (
                json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}),
                true,
            ),
        ] {
            let spec = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}}, "containers": []});
            let spec: PodSpec = serde_json::from_value(spec).expect("spec");
            assert_eq!(required_matches(&spec, node), expected, "{selector}");
        }
    }
}
