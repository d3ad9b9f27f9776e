//! `LimitRanger`: containers get the default requests and limits of their namespace's `LimitRange`s, and nothing asks
//! for less or more than those allow.

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::field::join_messages;
use machinery::quantity::Quantity;
use machinery::status::ApiError;
use machinery::{Value, meta};
use resources::quota::amounts::{self, Amounts};
use resources::quota::pod_resources::{self, From, Of, containers};
use std::sync::{Arc, OnceLock};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Amounts up to this are compared by the thousandth.
const MAX_MILLI_VALUE: i64 = i64::MAX / 1000;

#[derive(Default)]
pub(super) struct LimitRanger {
    objects: OnceLock<Arc<dyn Objects>>,
}

impl LimitRanger {
    async fn ranges(&self, attributes: &Attributes<'_>) -> Result<Vec<Arc<Value>>, ApiError> {
        let leaving = attributes
            .old
            .is_some_and(|old| meta::deletion_timestamp(old).is_some());
        match self.objects.get().filter(|_| !leaving) {
            Some(objects) => objects.list("", "limitranges", attributes.target.namespace).await,
            None => Ok(Vec::new()),
        }
    }
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        match operation {
            Operation::Create => target.is("", "pods") || target.is("", "persistentvolumeclaims"),
            Operation::Update => {
                target.is("", "persistentvolumeclaims")
                    || (target.group.is_empty()
                        && target.resource == "pods"
                        && target.subresource == "resize")
            }
            Operation::Delete | Operation::Connect => false,
        }
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        let Some(pod) = object.filter(|_| attributes.target.resource == "pods") else {
            return Ok(());
        };
        for range in self.ranges(attributes).await? {
            complete(pod, &range);
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let Some(object) = object else { return Ok(()) };
        for range in self.ranges(attributes).await? {
            let mut wrong = Vec::new();
            for limit in limits(&range) {
                if attributes.target.resource == "pods" {
                    judge_pod(limit, object, &mut wrong);
                } else {
                    judge_claim(limit, object, &mut wrong);
                }
            }
            if !wrong.is_empty() {
                return Err(attributes.forbidden(Some(object), join_messages(&wrong)));
            }
        }
        Ok(())
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }
}

fn limits(range: &Value) -> &[Value] {
    range
        .get_path(&["spec", "limits"])
        .and_then(Value::as_array)
        .unwrap_or_default()
}

fn kind(limit: &Value) -> &str {
    limit.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Gives containers the defaults of a range, and notes on the pod what was given.
fn complete(pod: &mut Value, range: &Value) {
    let mut defaults = [("requests", Amounts::new()), ("limits", Amounts::new())];
    for limit in limits(range).iter().filter(|limit| kind(limit) == "Container") {
        defaults[0].1.extend(amounts::read(limit.get("defaultRequest")));
        defaults[1].1.extend(amounts::read(limit.get("default")));
    }
    let mut given = Vec::new();
    for (field, title) in [("containers", "container"), ("initContainers", "init container")] {
        let list = pod.get_path_mut(&["spec", field]).and_then(Value::as_array_mut);
        for container in list.into_iter().flatten() {
            let name = container
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            for (of, default) in &defaults {
                let said = amounts::read(container.get_path(&["resources", of]));
                let missing: Vec<&str> = default
                    .keys()
                    .filter(|name| !said.contains_key(*name))
                    .map(String::as_str)
                    .collect();
                for name in &missing {
                    container.set_path(&["resources", of, name], default[*name].to_string());
                }
                if !missing.is_empty() {
                    let what = of.trim_end_matches('s');
                    given.push(format!("{} {what} for {title} {name}", missing.join(", ")));
                }
            }
        }
    }
    if !given.is_empty() {
        let text = format!("LimitRanger plugin set: {}", given.join("; "));
        meta::metadata_mut(pod)
            .object_entry("annotations")
            .insert(ANNOTATION, text);
    }
}

fn judge_pod(limit: &Value, pod: &Value, wrong: &mut Vec<String>) {
    match kind(limit) {
        "Container" => {
            for container in ["containers", "initContainers"]
                .iter()
                .flat_map(|field| containers(pod, field))
            {
                let list = |of| amounts::read(container.get_path(&["resources", of]));
                judge(limit, &list("requests"), &list("limits"), wrong);
            }
        }
        "Pod" => {
            let requests = pod_resources::total(pod, Of::Requests, From::Spec);
            let limits = pod_resources::total(pod, Of::Limits, From::Spec);
            judge(limit, &requests, &limits, wrong);
        }
        _ => {}
    }
}

fn judge_claim(limit: &Value, claim: &Value, wrong: &mut Vec<String>) {
    if kind(limit) != "PersistentVolumeClaim" {
        return;
    }
    let requests = amounts::read(claim.get_path(&["spec", "resources", "requests"]));
    for (name, least) in amounts::read(limit.get("min")) {
        wrong.extend(too_little(kind(limit), &name, least, &requests, &Amounts::new()));
    }
    for (name, most) in amounts::read(limit.get("max")) {
        let head = format!("maximum {name} usage per {} is {most}", kind(limit));
        match requests.get(&name) {
            None => wrong.push(format!("{head}.  No request is specified")),
            Some(asked) if exceeds(*asked, most) => {
                wrong.push(format!("{head}, but request is {asked}"));
            }
            Some(_) => {}
        }
    }
}

fn judge(limit: &Value, requests: &Amounts, limits: &Amounts, wrong: &mut Vec<String>) {
    let of = kind(limit);
    for (name, least) in amounts::read(limit.get("min")) {
        wrong.extend(too_little(of, &name, least, requests, limits));
    }
    for (name, most) in amounts::read(limit.get("max")) {
        wrong.extend(too_much(of, &name, most, requests, limits));
    }
    for (name, ratio) in amounts::read(limit.get("maxLimitRequestRatio")) {
        wrong.extend(too_far_apart(of, &name, ratio, requests, limits));
    }
}

fn too_little(of: &str, name: &str, least: Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let head = format!("minimum {name} usage per {of} is {least}");
    match (requests.get(name), limits.get(name)) {
        (None, _) => Some(format!("{head}.  No request is specified")),
        (Some(request), _) if exceeds(least, *request) => Some(format!("{head}, but request is {request}")),
        (_, Some(limit)) if exceeds(least, *limit) => Some(format!("{head}, but limit is {limit}")),
        _ => None,
    }
}

fn too_much(of: &str, name: &str, most: Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let head = format!("maximum {name} usage per {of} is {most}");
    match (requests.get(name), limits.get(name)) {
        (_, None) => Some(format!("{head}.  No limit is specified")),
        (_, Some(limit)) if exceeds(*limit, most) => Some(format!("{head}, but limit is {limit}")),
        (Some(request), _) if exceeds(*request, most) => Some(format!("{head}, but request is {request}")),
        _ => None,
    }
}

fn too_far_apart(
    of: &str,
    name: &str,
    ratio: Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let head = format!("{name} max limit to request ratio per {of} is {ratio}");
    let known = |list: &Amounts| list.get(name).copied().filter(|amount| !amount.is_zero());
    let Some(request) = known(requests) else {
        return Some(format!("{head}, but no request is specified or request is 0"));
    };
    let Some(limit) = known(limits) else {
        return Some(format!("{head}, but no limit is specified or limit is 0"));
    };
    let observed = limit.as_f64() / request.as_f64();
    (observed > ratio.as_f64()).then(|| format!("{head}, but provided ratio is {observed:.6}"))
}

/// Compared by the thousandth, or by whole units when thousandths would not fit.
fn exceeds(one: Quantity, other: Quantity) -> bool {
    if one.value() <= MAX_MILLI_VALUE && other.value() <= MAX_MILLI_VALUE {
        one.milli_value() > other.milli_value()
    } else {
        one.value() > other.value()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{create, object};
    use super::*;

    fn range(limit: &str) -> Vec<(&'static str, Value)> {
        vec![(
            "limitranges",
            object(&format!(
                r#"{{"metadata":{{"name":"r"}},"spec":{{"limits":[{limit}]}}}}"#
            )),
        )]
    }

    #[test]
    fn containers_get_the_defaults() {
        let mut pod = object(
            r#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}]}}"#,
        );
        let limit = r#"{"type":"Container","default":{"cpu":"2","memory":"1Gi"},"defaultRequest":{"cpu":"100m","memory":"1Mi"}}"#;
        create(
            &LimitRanger::default(),
            range(limit),
            ("", "pods", "ns"),
            &mut pod,
        )
        .unwrap();
        let container = &containers(&pod, "containers")[0];
        let list = |of| amounts::pretty(&amounts::read(container.get_path(&["resources", of])));
        assert_eq!(list("requests"), "cpu=1,memory=1Mi");
        assert_eq!(list("limits"), "cpu=2,memory=1Gi");
        assert_eq!(
            meta::annotation(&pod, ANNOTATION),
            Some("LimitRanger plugin set: memory request for container c; cpu, memory limit for container c")
        );
    }

    #[test]
    fn limits_are_enforced_in_upstreams_words() {
        let check = |limit: &str, resources: &str, expected: &str| {
            let mut pod = object(&format!(
                r#"{{"metadata":{{"name":"p"}},"spec":{{"containers":[{{"name":"c","resources":{resources}}}]}}}}"#
            ));
            let result = create(
                &LimitRanger::default(),
                range(limit),
                ("", "pods", "ns"),
                &mut pod,
            );
            let message = result.err().map_or(String::new(), |error| error.message);
            assert_eq!(
                message.trim_start_matches(r#"pods "p" is forbidden: "#),
                expected,
                "{limit} {resources}"
            );
        };
        let least = r#"{"type":"Container","min":{"cpu":"50m"}}"#;
        check(least, r#"{"requests":{"cpu":"50m"}}"#, "");
        check(
            least,
            r#"{"requests":{"cpu":"10m"}}"#,
            "minimum cpu usage per Container is 50m, but request is 10m",
        );
        check(
            least,
            "{}",
            "minimum cpu usage per Container is 50m.  No request is specified",
        );
        let most = r#"{"type":"Pod","max":{"cpu":"1","memory":"1Gi"}}"#;
        check(
            most,
            r#"{"limits":{"cpu":"2"}}"#,
            "[maximum cpu usage per Pod is 1, but limit is 2, maximum memory usage per Pod is 1Gi.  No limit is specified]",
        );
        let ratio = r#"{"type":"Container","maxLimitRequestRatio":{"cpu":"2"}}"#;
        check(ratio, r#"{"requests":{"cpu":"1"},"limits":{"cpu":"2"}}"#, "");
        check(
            ratio,
            r#"{"requests":{"cpu":"1"},"limits":{"cpu":"3"}}"#,
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
        );
    }
}
