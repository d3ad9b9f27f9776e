//! Limits and shares, and how they are written on v1 and v2.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{CgroupPath, Cgroups, KernelCgroups, Version};
use crate::{Error, Result};

/// What a group may use; `None` leaves a value as it is, `-1` means unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// v1's `cpu.shares` (2 to 262144); on v2 converted to a weight.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period.
    pub cpu_quota: Option<i64>,
    pub cpu_period: Option<u64>,
    /// As in `0-3,7`.
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// Bytes.
    pub memory_limit: Option<i64>,
    /// Memory and swap together, in bytes, as in v1 and the OCI specification.
    pub memory_swap: Option<i64>,
    /// Bytes never reclaimed, tried to spare, throttled above: v2 only.
    pub memory_min: Option<i64>,
    pub memory_low: Option<i64>,
    pub memory_high: Option<i64>,
    pub pids_max: Option<i64>,
    /// Bytes by page size, as in `2MB`.
    pub hugetlb: BTreeMap<String, u64>,
    /// Further v2 files by name, written as they are.
    pub unified: BTreeMap<String, String>,
}

/// One value to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) controller: &'static str,
    pub(super) file: String,
    pub(super) value: String,
}

/// v2's `cpu.weight` for v1's shares: the range 2–262144 onto 1–10000, with 1024 shares giving 100.
pub fn cpu_weight(shares: u64) -> u64 {
    // The curve that newer runtimes agreed on; a straight line would give 1024 shares a weight of 39.
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

const LIMIT_V1: &str = "memory.limit_in_bytes";
const SWAP_V1: &str = "memory.memsw.limit_in_bytes";

pub(super) fn write(cgroups: &KernelCgroups, path: &CgroupPath, resources: &Resources) -> Result<()> {
    let mut settings = settings(cgroups.version, resources);
    let now = cgroups
        .directory("memory", path)
        .and_then(|dir| fs::read_to_string(dir.join(SWAP_V1)).ok())
        .and_then(|text| text.trim().parse().ok());
    widen_first(&mut settings, resources, now);
    for setting in settings {
        let Some(dir) = cgroups.directory(setting.controller, path) else {
            if setting.controller == "hugetlb" {
                continue;
            }
            return Err(Error::Unsupported {
                operation: "set cgroup limit",
                feature: format!("the {} controller", setting.controller),
            });
        };
        write_one(&dir, &setting)?;
    }
    Ok(())
}

/// A limit above what limit plus swap are now is refused by v1: then the latter goes first.
fn widen_first(settings: &mut [Setting], wish: &Resources, now: Option<i64>) {
    let grows = matches!((wish.memory_limit, now), (Some(limit), Some(now)) if limit > now);
    let place = |file: &str| settings.iter().position(|s| s.file == file);
    if grows
        && let (Some(limit), Some(swap)) = (place(LIMIT_V1), place(SWAP_V1))
        && limit < swap
    {
        settings.swap(limit, swap);
    }
}

fn write_one(dir: &Path, setting: &Setting) -> Result<()> {
    let file = dir.join(&setting.file);
    match fs::write(&file, &setting.value) {
        Ok(()) => Ok(()),
        // Swap accounting and huge page sizes are kernel options: no file, nothing to limit.
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound
                && dir.is_dir()
                && (setting.file.contains("swap")
                    || setting.file.contains("memsw")
                    || setting.controller == "hugetlb") =>
        {
            Ok(())
        }
        Err(error) => Err(Error::kernel(
            "write",
            format_args!("{:?} to {}", setting.value, file.display()),
            error,
        )),
    }
}

/// The writes that carry a wish out, in an order the kernel accepts.
pub(super) fn settings(version: Version, wish: &Resources) -> Vec<Setting> {
    let mut list = Settings(Vec::new());
    match version {
        Version::V1 => list.v1(wish),
        Version::V2 => list.v2(wish),
    }
    list.0
}

struct Settings(Vec<Setting>);

impl Settings {
    fn add(&mut self, controller: &'static str, file: impl Into<String>, value: impl ToString) {
        self.0.push(Setting {
            controller,
            file: file.into(),
            value: value.to_string(),
        });
    }

    fn v1(&mut self, wish: &Resources) {
        if let Some(shares) = wish.cpu_shares {
            self.add("cpu", "cpu.shares", shares.clamp(2, 262_144));
        }
        // The period first: a quota is checked against it.
        if let Some(period) = wish.cpu_period {
            self.add("cpu", "cpu.cfs_period_us", period);
        }
        if let Some(quota) = wish.cpu_quota {
            self.add("cpu", "cpu.cfs_quota_us", quota);
        }
        self.cpuset(wish);
        // The limit may not exceed limit plus swap at any moment: widen swap first when lifting the limit.
        let swap_first = wish.memory_limit == Some(-1) || wish.memory_swap == Some(-1);
        if let (true, Some(swap)) = (swap_first, wish.memory_swap) {
            self.add("memory", SWAP_V1, swap);
        }
        if let Some(limit) = wish.memory_limit {
            self.add("memory", LIMIT_V1, limit);
        }
        if let (false, Some(swap)) = (swap_first, wish.memory_swap) {
            self.add("memory", SWAP_V1, swap);
        }
        if let Some(pids) = wish.pids_max {
            self.add("pids", "pids.max", or_max(pids));
        }
        for (size, bytes) in &wish.hugetlb {
            self.add("hugetlb", format!("hugetlb.{size}.limit_in_bytes"), bytes);
        }
    }

    fn v2(&mut self, wish: &Resources) {
        if let Some(shares) = wish.cpu_shares {
            self.add("cpu", "cpu.weight", cpu_weight(shares));
        }
        match (wish.cpu_quota, wish.cpu_period) {
            (Some(quota), Some(period)) => self.add("cpu", "cpu.max", format!("{} {period}", or_max(quota))),
            (Some(quota), None) => self.add("cpu", "cpu.max", or_max(quota)),
            // The quota's part of the file cannot be left out; a period alone keeps "no quota".
            (None, Some(period)) => self.add("cpu", "cpu.max", format!("max {period}")),
            (None, None) => {}
        }
        self.cpuset(wish);
        for (file, value) in [
            ("memory.min", wish.memory_min),
            ("memory.low", wish.memory_low),
            ("memory.high", wish.memory_high),
            ("memory.max", wish.memory_limit),
        ] {
            if let Some(value) = value {
                self.add("memory", file, or_max(value));
            }
        }
        if let Some(both) = wish.memory_swap {
            let swap = match wish.memory_limit {
                Some(limit) if limit >= 0 && both >= 0 => (both - limit).max(0),
                _ => both,
            };
            self.add("memory", "memory.swap.max", or_max(swap));
        }
        if let Some(pids) = wish.pids_max {
            self.add("pids", "pids.max", or_max(pids));
        }
        for (size, bytes) in &wish.hugetlb {
            self.add("hugetlb", format!("hugetlb.{size}.max"), bytes);
        }
        for (file, value) in &wish.unified {
            self.add("memory", file.clone(), value);
        }
    }

    fn cpuset(&mut self, wish: &Resources) {
        if let Some(cpus) = &wish.cpuset_cpus {
            self.add("cpuset", "cpuset.cpus", cpus);
        }
        if let Some(mems) = &wish.cpuset_mems {
            self.add("cpuset", "cpuset.mems", mems);
        }
    }
}

fn or_max(value: i64) -> String {
    if value < 0 {
        "max".into()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v1_group_can_grow_and_shrink() {
        let wish = Resources {
            memory_limit: Some(50),
            memory_swap: Some(50),
            ..Resources::default()
        };
        let files = |now: i64| -> Vec<String> {
            let mut list = settings(Version::V1, &wish);
            widen_first(&mut list, &wish, Some(now));
            list.into_iter().map(|s| s.file).collect()
        };
        assert_eq!(files(40), [SWAP_V1, LIMIT_V1]);
        assert_eq!(files(60), [LIMIT_V1, SWAP_V1]);
    }
}
