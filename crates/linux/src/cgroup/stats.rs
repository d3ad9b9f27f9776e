//! What a group has used.
//!
//! Working set follows the kubelet's definition: usage less the inactive file cache, never below zero.

use std::fs;
use std::path::Path;

use super::{CgroupPath, Cgroups, KernelCgroups, Version};
use crate::{Error, Result};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
    pub io: IoStats,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Nanoseconds since the group was made.
    pub usage: u64,
    pub user: u64,
    pub system: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    /// Nanoseconds.
    pub throttled: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    pub usage: u64,
    /// The most there has been.
    pub max_usage: u64,
    /// The kernel's own on behalf of the group.
    pub kernel: u64,
    /// How often the limit was met.
    pub limit_hits: u64,
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    pub cache: u64,
    pub mapped_file: u64,
    pub swap: u64,
    /// `None` when unlimited.
    pub limit: Option<u64>,
    pub page_faults: u64,
    pub major_page_faults: u64,
    /// Kills by the OOM killer so far.
    pub oom_kills: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidsStats {
    pub current: u64,
    /// `None` when unlimited.
    pub limit: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

pub(super) fn read(cgroups: &KernelCgroups, path: &CgroupPath) -> Result<Stats> {
    // One directory missing means the group is gone; single files may be missing by kernel option.
    if !cgroups.exists(path) {
        return Err(Error::kernel(
            "read cgroup statistics of",
            path,
            std::io::Error::from_raw_os_error(libc::ENOENT),
        ));
    }
    Ok(match cgroups.version {
        Version::V1 => Stats {
            cpu: cpu_v1(
                file(cgroups, "cpuacct", path, "cpuacct.usage").as_deref(),
                file(cgroups, "cpuacct", path, "cpuacct.stat").as_deref(),
                file(cgroups, "cpu", path, "cpu.stat").as_deref(),
            ),
            memory: memory_v1(
                file(cgroups, "memory", path, "memory.usage_in_bytes").as_deref(),
                file(cgroups, "memory", path, "memory.limit_in_bytes").as_deref(),
                file(cgroups, "memory", path, "memory.stat").as_deref(),
                file(cgroups, "memory", path, "memory.oom_control").as_deref(),
            )
            .with_extremes(
                file(cgroups, "memory", path, "memory.max_usage_in_bytes").as_deref(),
                file(cgroups, "memory", path, "memory.kmem.usage_in_bytes").as_deref(),
                number(file(cgroups, "memory", path, "memory.failcnt").as_deref()),
            ),
            pids: pids(cgroups, path),
            io: io_v1(
                file(
                    cgroups,
                    "blkio",
                    path,
                    "blkio.throttle.io_service_bytes_recursive",
                )
                .as_deref(),
                file(cgroups, "blkio", path, "blkio.throttle.io_serviced_recursive").as_deref(),
            ),
        },
        Version::V2 => Stats {
            cpu: cpu_v2(file(cgroups, "cpu", path, "cpu.stat").as_deref()),
            memory: memory_v2(
                file(cgroups, "memory", path, "memory.current").as_deref(),
                file(cgroups, "memory", path, "memory.max").as_deref(),
                file(cgroups, "memory", path, "memory.stat").as_deref(),
                file(cgroups, "memory", path, "memory.events").as_deref(),
                file(cgroups, "memory", path, "memory.swap.current").as_deref(),
            )
            .with_extremes(
                file(cgroups, "memory", path, "memory.peak").as_deref(),
                None,
                keyed(file(cgroups, "memory", path, "memory.events").as_deref(), "max"),
            ),
            pids: pids(cgroups, path),
            io: io_v2(file(cgroups, "io", path, "io.stat").as_deref()),
        },
    })
}

fn file(cgroups: &KernelCgroups, controller: &str, path: &CgroupPath, name: &str) -> Option<String> {
    let dir = cgroups.directory(controller, path)?;
    fs::read_to_string(Path::new(&dir).join(name)).ok()
}

fn pids(cgroups: &KernelCgroups, path: &CgroupPath) -> PidsStats {
    PidsStats {
        current: number(file(cgroups, "pids", path, "pids.current").as_deref()),
        limit: file(cgroups, "pids", path, "pids.max").and_then(|text| text.trim().parse().ok()),
    }
}

/// The value of `key` in lines of `key value`.
fn keyed(text: Option<&str>, key: &str) -> u64 {
    text.and_then(|text| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
            .and_then(|value| value.trim().parse().ok())
    })
    .unwrap_or(0)
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn cpu_v1(usage: Option<&str>, stat: Option<&str>, throttle: Option<&str>) -> CpuStats {
    // cpuacct.stat counts in USER_HZ, which is 100 on every architecture Linux has.
    const TICK: u64 = 10_000_000;
    CpuStats {
        usage: number(usage),
        user: keyed(stat, "user") * TICK,
        system: keyed(stat, "system") * TICK,
        periods: keyed(throttle, "nr_periods"),
        throttled_periods: keyed(throttle, "nr_throttled"),
        throttled: keyed(throttle, "throttled_time"),
    }
}

fn cpu_v2(stat: Option<&str>) -> CpuStats {
    CpuStats {
        usage: keyed(stat, "usage_usec") * 1000,
        user: keyed(stat, "user_usec") * 1000,
        system: keyed(stat, "system_usec") * 1000,
        periods: keyed(stat, "nr_periods"),
        throttled_periods: keyed(stat, "nr_throttled"),
        throttled: keyed(stat, "throttled_usec") * 1000,
    }
}

fn memory_v1(usage: Option<&str>, limit: Option<&str>, stat: Option<&str>, oom: Option<&str>) -> MemoryStats {
    // "Unlimited" is the largest multiple of the page size below 2^63.
    const UNLIMITED: u64 = 1 << 62;
    let usage = number(usage);
    let limit = number(limit);
    MemoryStats {
        usage,
        working_set: usage.saturating_sub(keyed(stat, "total_inactive_file")),
        rss: keyed(stat, "total_rss"),
        cache: keyed(stat, "total_cache"),
        mapped_file: keyed(stat, "total_mapped_file"),
        swap: keyed(stat, "total_swap"),
        limit: (limit > 0 && limit < UNLIMITED).then_some(limit),
        page_faults: keyed(stat, "total_pgfault"),
        major_page_faults: keyed(stat, "total_pgmajfault"),
        oom_kills: keyed(oom, "oom_kill"),
        ..MemoryStats::default()
    }
}

fn memory_v2(
    usage: Option<&str>,
    limit: Option<&str>,
    stat: Option<&str>,
    events: Option<&str>,
    swap: Option<&str>,
) -> MemoryStats {
    let usage = number(usage);
    MemoryStats {
        usage,
        working_set: usage.saturating_sub(keyed(stat, "inactive_file")),
        rss: keyed(stat, "anon"),
        cache: keyed(stat, "file"),
        mapped_file: keyed(stat, "file_mapped"),
        swap: number(swap),
        limit: limit.and_then(|text| text.trim().parse().ok()),
        page_faults: keyed(stat, "pgfault"),
        major_page_faults: keyed(stat, "pgmajfault"),
        oom_kills: keyed(events, "oom_kill"),
        kernel: keyed(stat, "kernel"),
        ..MemoryStats::default()
    }
}

impl MemoryStats {
    fn with_extremes(self, most: Option<&str>, kernel: Option<&str>, limit_hits: u64) -> Self {
        MemoryStats {
            max_usage: number(most),
            kernel: kernel.map_or(self.kernel, |kernel| number(Some(kernel))),
            limit_hits,
            ..self
        }
    }
}

fn io_v1(bytes: Option<&str>, operations: Option<&str>) -> IoStats {
    let sum = |text: Option<&str>, what: &str| -> u64 {
        text.unwrap_or("")
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ');
                (fields.nth(1) == Some(what))
                    .then(|| fields.next()?.parse::<u64>().ok())
                    .flatten()
            })
            .sum()
    };
    IoStats {
        read_bytes: sum(bytes, "Read"),
        write_bytes: sum(bytes, "Write"),
        reads: sum(operations, "Read"),
        writes: sum(operations, "Write"),
    }
}

fn io_v2(stat: Option<&str>) -> IoStats {
    let sum = |key: &str| -> u64 {
        stat.unwrap_or("")
            .split_whitespace()
            .filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
            .sum()
    };
    IoStats {
        read_bytes: sum("rbytes"),
        write_bytes: sum("wbytes"),
        reads: sum("rios"),
        writes: sum("wios"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn working_set_is_usage_without_inactive_file_cache() {
        let v1 = memory_v1(
            Some("1000\n"),
            Some("9223372036854771712\n"),
            Some("inactive_file 1\ntotal_inactive_file 300\ntotal_rss 500\n"),
            Some("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        );
        assert_eq!(
            (v1.working_set, v1.rss, v1.limit, v1.oom_kills),
            (700, 500, None, 2)
        );
        let v2 = memory_v2(
            Some("100"),
            Some("max"),
            Some("anon 5\ninactive_file 300\n"),
            Some("oom 3\noom_kill 1\noom_group_kill 9\n"),
            None,
        );
        assert_eq!((v2.working_set, v2.rss, v2.limit, v2.oom_kills), (0, 5, None, 1));
    }

    #[test]
    fn io_is_summed_over_devices() {
        let v1 = io_v1(Some("8:0 Read 5\n8:0 Write 6\n8:16 Read 7\nTotal 18\n"), None);
        assert_eq!((v1.read_bytes, v1.write_bytes), (12, 6));
        let v2 = io_v2(Some(
            "8:0 rbytes=5 wbytes=6 rios=1 wios=2\n8:16 rbytes=7 wbytes=1 rios=1 wios=1\n",
        ));
        assert_eq!(
            (v2.read_bytes, v2.write_bytes, v2.reads, v2.writes),
            (12, 7, 2, 3)
        );
    }
}
