//! Quality of service: the class of a pod, and how ready the kernel is to kill its containers.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod::{PodExt, is_sidecar};
use crate::quantity::{amount, request};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

const RESOURCES: [&str; 2] = ["cpu", "memory"];
const GUARANTEED_SCORE: i64 = -997;
const BEST_EFFORT_SCORE: i64 = 1000;
/// Pods of at least this priority belong to the system.
const SYSTEM_NODE_CRITICAL: i32 = 2_000_001_000;

/// The pod's class. What the API server has recorded is never contradicted.
pub fn class(pod: &Pod) -> Class {
    match pod.status().qos_class.as_deref() {
        Some("Guaranteed") => return Class::Guaranteed,
        Some("Burstable") => return Class::Burstable,
        Some("BestEffort") => return Class::BestEffort,
        _ => {}
    }
    compute(pod)
}

fn compute(pod: &Pod) -> Class {
    let level = pod.spec().resources.as_ref().filter(|r| {
        r.requests.as_ref().is_some_and(|l| !l.is_empty()) || r.limits.as_ref().is_some_and(|l| !l.is_empty())
    });
    let lists: Vec<_> = match level {
        Some(resources) => vec![Some(resources)],
        None => pod
            .containers()
            .iter()
            .chain(pod.init_containers())
            .map(|c| c.resources.as_ref())
            .collect(),
    };
    let mut any = false;
    let mut guaranteed = true;
    for resources in lists {
        for name in RESOURCES {
            let requested = amount(resources.and_then(|r| r.requests.as_ref()), name).unwrap_or(0);
            let limited = amount(resources.and_then(|r| r.limits.as_ref()), name).unwrap_or(0);
            any |= requested > 0 || limited > 0;
            // The API server sets a missing request to the limit.
            guaranteed &= limited > 0 && (requested == limited || requested == 0);
        }
    }
    match (any, guaranteed) {
        (false, _) => Class::BestEffort,
        (true, true) => Class::Guaranteed,
        (true, false) => Class::Burstable,
    }
}

/// `oom_score_adj` of a container: the smaller its share of the machine's memory, the likelier its death.
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    if pod.spec().priority.unwrap_or(0) >= SYSTEM_NODE_CRITICAL {
        return GUARANTEED_SCORE;
    }
    match class(pod) {
        Class::Guaranteed => return GUARANTEED_SCORE,
        Class::BestEffort => return BEST_EFFORT_SCORE,
        Class::Burstable => {}
    }
    let capacity = memory_capacity.max(1);
    let score = |requested: i64| 1000 - (1000 * i128::from(requested) / i128::from(capacity)) as i64;
    let mut adjust = score(request(container, "memory").unwrap_or(0));
    if is_sidecar(container) && pod.init_containers().iter().any(|c| c.name == container.name) {
        let least = pod
            .containers()
            .iter()
            .map(|c| request(c, "memory").unwrap_or(0))
            .min();
        adjust = adjust.min(score(least.unwrap_or(0)));
    }
    if adjust < 1000 + GUARANTEED_SCORE {
        return 1000 + GUARANTEED_SCORE;
    }
    if adjust == BEST_EFFORT_SCORE {
        adjust - 1
    } else {
        adjust
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn classes() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        let cases = [
            (json!([{"name": "a"}]), Class::BestEffort),
            (
                json!([{"name": "a", "resources": {"requests": {"cpu": "1"}}}]),
                Class::Burstable,
            ),
            (
                json!([{"name": "a", "resources": {"limits": full, "requests": full}}]),
                Class::Guaranteed,
            ),
            (
                json!([{"name": "a", "resources": {"limits": full, "requests": full}}, {"name": "b"}]),
                Class::Burstable,
            ),
            (
                json!([{"name": "a", "resources": {"limits": full, "requests": {"cpu": "500m", "memory": "1Gi"}}}]),
                Class::Burstable,
            ),
            (
                json!([{"name": "a", "resources": {"requests": {"ephemeral-storage": "1Gi"}}}]),
                Class::BestEffort,
            ),
        ];
        for (containers, expected) in cases {
            assert_eq!(class(&pod(containers.clone())), expected, "{containers}");
        }
    }

    #[test]
    fn scores() {
        let capacity = 4 << 30;
        let p = pod(json!([{"name": "a", "resources": {"requests": {"memory": "2Gi"}}}, {"name": "b"}]));
        assert_eq!(oom_score_adj(&p, &p.containers()[0], capacity), 500);
        assert_eq!(oom_score_adj(&p, &p.containers()[1], capacity), 999);
        let p = pod(json!([{"name": "a"}]));
        assert_eq!(oom_score_adj(&p, &p.containers()[0], capacity), 1000);
    }
}
