//! CPU and memory of a spec as the kernel counts them. Follows upstream's `cm/helpers_linux.go`.

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::PodExt;
use crate::qos;
use crate::quantity::{amount, limit, pod_limits, pod_requests, request, value};

pub const MIN_SHARES: i64 = 2;
pub const MAX_SHARES: i64 = 262_144;
pub const SHARES_PER_CPU: i64 = 1024;
/// Microseconds.
pub const QUOTA_PERIOD: i64 = 100_000;
const MIN_QUOTA_PERIOD: i64 = 1000;
/// Below this a quota is raised to the least the kernel takes.
pub const MIN_MILLI_LIMIT: i64 = 10;

pub fn milli_to_shares(milli: i64) -> i64 {
    if milli == 0 {
        return MIN_SHARES;
    }
    (milli * SHARES_PER_CPU / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// Microseconds per period; zero for none.
pub fn milli_to_quota(milli: i64, period: i64) -> i64 {
    if milli == 0 {
        return 0;
    }
    (milli * period / 1000).max(MIN_QUOTA_PERIOD)
}

pub fn quota_to_milli(quota: i64, period: i64) -> i64 {
    if quota <= 0 || period <= 0 {
        0
    } else {
        quota * 1000 / period
    }
}

fn linux_resources(
    cpu_request: Option<i64>,
    cpu_limit: i64,
    memory_limit: i64,
) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_shares: milli_to_shares(cpu_request.unwrap_or(cpu_limit)),
        cpu_quota: milli_to_quota(cpu_limit, QUOTA_PERIOD),
        cpu_period: QUOTA_PERIOD,
        memory_limit_in_bytes: memory_limit,
        ..Default::default()
    }
}

/// What one container gets. A limit given for the whole pod holds for a container without its own.
pub fn container(pod: &Pod, container: &Container, memory_capacity: i64) -> v1::LinuxContainerResources {
    let level = pod.spec().resources.as_ref().and_then(|r| r.limits.as_ref());
    let limited = |name| {
        limit(container, name)
            .filter(|l| *l != 0)
            .or_else(|| amount(level, name))
            .unwrap_or(0)
    };
    let mut resources = linux_resources(request(container, "cpu"), limited("cpu"), limited("memory"));
    resources.oom_score_adj = qos::oom_score_adj(pod, container, memory_capacity);
    resources.hugepage_limits = hugepages(container);
    resources
}

fn hugepages(container: &Container) -> Vec<v1::HugepageLimit> {
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    limits
        .into_iter()
        .flatten()
        .filter_map(|(name, limit)| {
            let size = value(&Quantity(name.strip_prefix("hugepages-")?.to_owned()));
            Some(v1::HugepageLimit {
                page_size: page_size(size),
                limit: u64::try_from(value(limit)).ok()?,
            })
        })
        .collect()
}

/// `2MB`, `1GB`: the kernel's names.
fn page_size(bytes: i64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB"];
    let mut size = bytes;
    let mut unit = 0;
    while size >= 1024 && size % 1024 == 0 && unit + 1 < units.len() {
        size /= 1024;
        unit += 1;
    }
    format!("{size}{}", units[unit])
}

/// The pod without its overhead, as the sandbox is told.
pub fn sandbox(pod: &Pod) -> v1::LinuxContainerResources {
    let mut bare = pod.clone();
    if let Some(spec) = &mut bare.spec {
        spec.overhead = None;
    }
    let (requests, limits) = (pod_requests(&bare), pod_limits(&bare));
    let get = |name: &str| limits.get(name).copied().unwrap_or(0);
    linux_resources(requests.get("cpu").copied(), get("cpu"), get("memory"))
}

pub fn overhead(pod: &Pod) -> v1::LinuxContainerResources {
    match &pod.spec().overhead {
        None => v1::LinuxContainerResources::default(),
        Some(list) => {
            let cpu = amount(Some(list), "cpu").unwrap_or(0);
            linux_resources(Some(cpu), cpu, amount(Some(list), "memory").unwrap_or(0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shares_and_quota() {
        for (milli, shares, quota) in [(0, 2, 0), (1, 2, 1000), (100, 102, 10_000), (2000, 2048, 200_000)] {
            assert_eq!(
                (milli_to_shares(milli), milli_to_quota(milli, QUOTA_PERIOD)),
                (shares, quota),
                "{milli}"
            );
        }
        assert_eq!(milli_to_shares(1_000_000), MAX_SHARES);
        assert_eq!(page_size(2 << 20), "2MB");
    }

    #[test]
    fn a_container_takes_its_request_or_limit() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}},
            {"name": "b", "resources": {"requests": {"cpu": "250m"}}}
        ]}}))
        .unwrap();
        let a = container(&pod, &pod.containers()[0], 1 << 30);
        assert_eq!(
            (a.cpu_shares, a.cpu_quota, a.memory_limit_in_bytes),
            (512, 50_000, 64 << 20)
        );
        let b = container(&pod, &pod.containers()[1], 1 << 30);
        assert_eq!((b.cpu_shares, b.cpu_quota, b.memory_limit_in_bytes), (256, 0, 0));
    }
}
