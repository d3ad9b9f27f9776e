//! A job's own rules: which failures of pods end the job or do not count, and which successes suffice.

use super::indexes;
use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use std::collections::BTreeSet;

/// What the failure of a pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// One more towards the limit.
    Counts,
    Ignored,
    FailsIndex,
    FailsJob(String),
}

pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Failure {
    let Some(policy) = policy else {
        return Failure::Counts;
    };
    let name = format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or(""),
        pod.metadata.name.as_deref().unwrap_or("")
    );
    for (at, rule) in policy.rules.iter().enumerate() {
        let action = rule.action.as_str();
        let message = if let Some(codes) = &rule.on_exit_codes {
            let Some(container) = on_exit_codes(pod, codes) else {
                continue;
            };
            let code = exit_code(container).unwrap_or(0);
            let container = &container.name;
            format!(
                "Container {container} for pod {name} failed with exit code {code} matching {action} rule at index {at}"
            )
        } else if let Some(patterns) = &rule.on_pod_conditions {
            let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
            let matching = conditions.into_iter().flatten().find(|c| {
                let mut of_type = patterns.iter().filter(|p| p.type_ == c.type_);
                of_type.any(|p| p.status.as_deref().unwrap_or("True") == c.status)
            });
            let Some(condition) = matching else { continue };
            let kind = &condition.type_;
            format!("Pod {name} has condition {kind} matching {action} rule at index {at}")
        } else {
            continue;
        };
        return match action {
            "Ignore" => Failure::Ignored,
            "FailIndex" => Failure::FailsIndex,
            "FailJob" => Failure::FailsJob(message),
            _ => Failure::Counts,
        };
    }
    Failure::Counts
}

fn exit_code(container: &ContainerStatus) -> Option<i32> {
    container.state.as_ref()?.terminated.as_ref().map(|t| t.exit_code)
}

fn on_exit_codes<'a>(
    pod: &'a Pod,
    rule: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten();
    let mut all = containers.chain(status.init_container_statuses.iter().flatten());
    all.find(|container| {
        let named = rule.container_name.as_ref().is_none_or(|n| *n == container.name);
        let Some(code) = exit_code(container).filter(|c| *c != 0) else {
            return false;
        };
        let listed = rule.values.contains(&code);
        named
            && match rule.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
    })
}

/// Which rule says that these successes suffice.
pub(super) fn success(
    policy: Option<&SuccessPolicy>,
    completions: i32,
    succeeded: &BTreeSet<i32>,
) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let rules = &policy?.rules;
    let at = rules.iter().position(|rule| {
        let enough = |count: usize| {
            rule.succeeded_count
                .is_some_and(|n| i64::from(n) <= i64::try_from(count).unwrap_or(0))
        };
        match &rule.succeeded_indexes {
            Some(text) => {
                let wanted = indexes::parse(text, completions);
                let done = wanted.intersection(succeeded).count();
                !wanted.is_empty() && (done == wanted.len() || enough(done))
            }
            None => enough(succeeded.len()),
        }
    })?;
    Some(format!("Matched rules at index {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn failures() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1]}},
        ]}))
        .expect("policy");
        let check = |code: i32, conditions: Value, expected: Failure| {
            let state = json!({"terminated": {"exitCode": code}});
            let container = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            let status = json!({"containerStatuses": [container], "conditions": conditions});
            let pod = json!({"metadata": {"name": "p", "namespace": "d"}, "status": status});
            let pod: Pod = serde_json::from_value(pod).expect("pod");
            assert_eq!(judge(Some(&policy), &pod), expected, "{code}");
        };
        let message = "Container c for pod d/p failed with exit code 42 matching FailJob rule at index 1";
        check(42, json!([]), Failure::FailsJob(message.to_owned()));
        check(
            42,
            json!([{"type": "DisruptionTarget", "status": "True"}]),
            Failure::Ignored,
        );
        check(7, json!([]), Failure::FailsIndex);
        check(1, json!([]), Failure::Counts);
    }

    #[test]
    fn successes() {
        let check = |rules: Value, done: &str, expected: bool| {
            let policy: SuccessPolicy = serde_json::from_value(json!({ "rules": rules })).expect("policy");
            let done = indexes::parse(done, 10);
            assert_eq!(success(Some(&policy), 10, &done).is_some(), expected, "{rules}");
        };
        check(json!([{"succeededCount": 2}]), "1,5", true);
        check(json!([{"succeededIndexes": "0-2"}]), "0,1", false);
        check(
            json!([{"succeededIndexes": "0-2", "succeededCount": 2}]),
            "0,1",
            true,
        );
        check(json!([{"succeededIndexes": "0"}]), "0,7", true);
    }
}
