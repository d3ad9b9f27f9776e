//! Control groups of the recording fake: a v2 machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Group, Recorder, refused};
use crate::cgroup::{CgroupPath, Cgroups, DeviceRule, OomWatch, PidsStats, Resources, Stats, Version};
use crate::{Error, Result};

impl Recorder {
    /// With these controllers available.
    pub fn with_controllers<'a>(mut self, controllers: impl IntoIterator<Item = &'a str>) -> Self {
        self.controllers = controllers.into_iter().map(str::to_owned).collect();
        self
    }
}

fn is_below(path: &CgroupPath, root: &CgroupPath) -> bool {
    root.is_root()
        || path == root
        || path
            .as_str()
            .strip_prefix(root.as_str())
            .is_some_and(|rest| rest.starts_with('/'))
}

impl Cgroups for Recorder {
    fn version(&self) -> Version {
        Version::V2
    }

    fn controllers(&self) -> &BTreeSet<String> {
        &self.controllers
    }

    fn create(&self, path: &CgroupPath) -> Result<()> {
        self.call(format!("cgroup-create {path}"), |state| {
            for step in path.ancestry() {
                state.cgroups.entry(step).or_default();
            }
            Ok(())
        })
    }

    fn exists(&self, path: &CgroupPath) -> bool {
        self.state.lock().cgroups.contains_key(path)
    }

    fn remove(&self, path: &CgroupPath) -> Result<()> {
        self.call(format!("cgroup-remove {path}"), |state| {
            for (_, group) in state.cgroups.extract_if(.., |known, _| is_below(known, path)) {
                for pid in group.processes {
                    state.processes.remove(&pid);
                }
            }
            Ok(())
        })
    }

    fn kill(&self, path: &CgroupPath) -> Result<usize> {
        self.call(format!("cgroup-kill {path}"), |state| {
            let mut count = 0;
            for (_, group) in state
                .cgroups
                .iter_mut()
                .filter(|(known, _)| is_below(known, path))
            {
                for pid in std::mem::take(&mut group.processes) {
                    state.processes.remove(&pid);
                    count += 1;
                }
            }
            Ok(count)
        })
    }

    fn set(&self, path: &CgroupPath, resources: &Resources) -> Result<()> {
        let line = format!("cgroup-set {path}");
        self.call(line.clone(), |state| {
            let group = state
                .cgroups
                .get_mut(path)
                .ok_or_else(|| refused(&line, libc::ENOENT))?;
            group.resources = resources.clone();
            Ok(())
        })
    }

    fn allow_devices(&self, path: &CgroupPath, rules: &[DeviceRule]) -> Result<()> {
        self.call(format!("cgroup-devices {path} {}", rules.len()), |_| Ok(()))
    }

    fn stats(&self, path: &CgroupPath) -> Result<Stats> {
        let state = self.state.lock();
        let Group { resources, processes } = state
            .cgroups
            .get(path)
            .ok_or_else(|| refused(&format!("cgroup-stats {path}"), libc::ENOENT))?;
        let limit = resources.pids_max.and_then(|max| u64::try_from(max).ok());
        Ok(Stats {
            pids: PidsStats {
                current: processes.len() as u64,
                limit,
            },
            ..Stats::default()
        })
    }

    fn processes(&self, path: &CgroupPath) -> Result<Vec<u32>> {
        let state = self.state.lock();
        Ok(state
            .cgroups
            .get(path)
            .map_or_else(Vec::new, |g| g.processes.iter().copied().collect()))
    }

    fn processes_below(&self, path: &CgroupPath) -> Result<Vec<u32>> {
        let state = self.state.lock();
        let below = state.cgroups.iter().filter(|(known, _)| is_below(known, path));
        Ok(below
            .flat_map(|(_, group)| group.processes.iter().copied())
            .collect())
    }

    fn add_process(&self, path: &CgroupPath, pid: u32) -> Result<()> {
        let line = format!("cgroup-add {path} {pid}");
        self.call(line.clone(), |state| {
            for group in state.cgroups.values_mut() {
                group.processes.remove(&pid);
            }
            let group = state
                .cgroups
                .get_mut(path)
                .ok_or_else(|| refused(&line, libc::ENOENT))?;
            group.processes.insert(pid);
            Ok(())
        })
    }

    fn children(&self, path: &CgroupPath) -> Result<Vec<CgroupPath>> {
        let state = self.state.lock();
        Ok(state
            .cgroups
            .keys()
            .filter(|known| known.parent().as_ref() == Some(path))
            .cloned()
            .collect())
    }

    fn watch_oom(&self, path: &CgroupPath) -> Result<OomWatch> {
        Err(Error::Unsupported {
            operation: "watch for out-of-memory kills",
            feature: format!("events for {path} in the fake"),
        })
    }

    fn directory(&self, _: &str, path: &CgroupPath) -> Option<PathBuf> {
        Some(Path::new("/fake/cgroup").join(path.as_str()))
    }
}
