//! CRI limits as cgroup settings.

use cri::v1::LinuxContainerResources;
use linux::cgroup::Resources;

/// Zero means "not given" in CRI.
pub(crate) fn from_cri(resources: &LinuxContainerResources) -> Resources {
    let given = |value: i64| (value != 0).then_some(value);
    let unsigned = |value: i64| given(value).and_then(|value| u64::try_from(value).ok());
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    let memory_limit = given(resources.memory_limit_in_bytes);
    Resources {
        cpu_shares: unsigned(resources.cpu_shares),
        cpu_quota: given(resources.cpu_quota),
        cpu_period: unsigned(resources.cpu_period),
        cpuset_cpus: text(&resources.cpuset_cpus),
        cpuset_mems: text(&resources.cpuset_mems),
        memory_limit,
        // A memory limit without a word on swap means none.
        memory_swap: given(resources.memory_swap_limit_in_bytes).or(memory_limit),
        hugetlb: resources
            .hugepage_limits
            .iter()
            .map(|limit| (limit.page_size.clone(), limit.limit))
            .collect(),
        unified: resources
            .unified
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        ..Resources::default()
    }
}

/// What a container's status tells after an update: new values over the old.
pub(crate) fn merge(old: &mut LinuxContainerResources, new: &LinuxContainerResources) {
    let numbers = [
        (&mut old.cpu_period, new.cpu_period),
        (&mut old.cpu_quota, new.cpu_quota),
        (&mut old.cpu_shares, new.cpu_shares),
        (&mut old.memory_limit_in_bytes, new.memory_limit_in_bytes),
        (&mut old.oom_score_adj, new.oom_score_adj),
        (
            &mut old.memory_swap_limit_in_bytes,
            new.memory_swap_limit_in_bytes,
        ),
    ];
    for (old, new) in numbers {
        if new != 0 {
            *old = new;
        }
    }
    for (old, new) in [
        (&mut old.cpuset_cpus, &new.cpuset_cpus),
        (&mut old.cpuset_mems, &new.cpuset_mems),
    ] {
        if !new.is_empty() {
            old.clone_from(new);
        }
    }
    if !new.hugepage_limits.is_empty() {
        old.hugepage_limits.clone_from(&new.hugepage_limits);
    }
    old.unified.extend(
        new.unified
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_not_given_and_swap_follows_memory() {
        assert_eq!(
            from_cri(&LinuxContainerResources::default()),
            Resources::default()
        );
        let limited = LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: -1,
            memory_limit_in_bytes: 1 << 20,
            ..Default::default()
        };
        let got = from_cri(&limited);
        assert_eq!((got.cpu_shares, got.cpu_quota), (Some(512), Some(-1)));
        assert_eq!(
            (got.memory_limit, got.memory_swap),
            (Some(1 << 20), Some(1 << 20))
        );
    }

    #[test]
    fn an_update_leaves_what_it_does_not_mention() {
        let mut old = LinuxContainerResources {
            cpu_shares: 2,
            memory_limit_in_bytes: 5,
            ..Default::default()
        };
        merge(
            &mut old,
            &LinuxContainerResources {
                cpu_shares: 9,
                ..Default::default()
            },
        );
        assert_eq!((old.cpu_shares, old.memory_limit_in_bytes), (9, 5));
    }
}
