//! Control groups, v1 and v2 behind one trait.
//!
//! A [`CgroupPath`] names a group below the root of the hierarchies. On v1 (each controller mounted
//! apart, with or without an empty v2 mount beside) a group is a directory in every hierarchy; on v2 it
//! is one directory, and the controllers are switched on in all groups above it.
//!
//! **Invariant:** mounts are only read, never made or changed. A group is removed with everything in it:
//! its processes are killed and waited for, then the directories go, deepest first.
//!
//! Values written follow runc's conversion, which the kubelet's figures assume.

mod devices;
mod oom;
mod path;
mod remove;
mod resources;
mod stats;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub use devices::{DeviceAccess, DeviceKind, DeviceRule};
pub use oom::{OomEvent, OomWatch};
pub use path::CgroupPath;
pub use resources::{Resources, cpu_weight};
pub use stats::{CpuStats, IoStats, MemoryStats, PidsStats, Stats};

use crate::error::Context;
use crate::mount::{MountInfo, Mounts};
use crate::{Error, Kernel, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Controllers in hierarchies of their own.
    V1,
    /// The unified hierarchy.
    V2,
}

/// What can be asked of the kernel about control groups.
pub trait Cgroups: Send + Sync {
    fn version(&self) -> Version;
    /// The controllers that can be used (`cpu`, `memory`, `pids` …).
    fn controllers(&self) -> &BTreeSet<String>;
    /// Makes the group and those above it, with every controller on; existing ones are left as they are.
    fn create(&self, path: &CgroupPath) -> Result<()>;
    fn exists(&self, path: &CgroupPath) -> bool;
    /// Kills what runs in the group and below, then removes it all; missing is fine. Blocks.
    fn remove(&self, path: &CgroupPath) -> Result<()>;
    /// Sends SIGKILL to everything in the group and below, without waiting; how many processes.
    fn kill(&self, path: &CgroupPath) -> Result<usize>;
    fn set(&self, path: &CgroupPath, resources: &Resources) -> Result<()>;
    /// Lets the group's processes use these devices alone; only on v2, v1 has files for it.
    fn allow_devices(&self, path: &CgroupPath, rules: &[DeviceRule]) -> Result<()>;
    fn stats(&self, path: &CgroupPath) -> Result<Stats>;
    /// The processes in the group itself.
    fn processes(&self, path: &CgroupPath) -> Result<Vec<u32>>;
    /// The processes in the group and below.
    fn processes_below(&self, path: &CgroupPath) -> Result<Vec<u32>>;
    /// Moves a process (with all its threads) into the group.
    fn add_process(&self, path: &CgroupPath, pid: u32) -> Result<()>;
    /// The groups directly below.
    fn children(&self, path: &CgroupPath) -> Result<Vec<CgroupPath>>;
    /// A stream of out-of-memory kills in the group; must be called inside a tokio runtime.
    fn watch_oom(&self, path: &CgroupPath) -> Result<OomWatch>;
    /// Where the group is in the filesystem, for one controller (v2: the same for all).
    fn directory(&self, controller: &str, path: &CgroupPath) -> Option<PathBuf>;
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) root: PathBuf,
    /// The controllers, or `name=systemd` for a hierarchy without any.
    pub(crate) names: Vec<String>,
}

/// The hierarchies of this machine.
#[derive(Clone, Debug)]
pub struct KernelCgroups {
    pub(crate) version: Version,
    pub(crate) hierarchies: Vec<Hierarchy>,
    controllers: BTreeSet<String>,
}

impl KernelCgroups {
    /// Finds the mounted hierarchies.
    pub fn detect() -> Result<Self> {
        Self::from_mounts(&Kernel.table()?, |root| {
            fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_else(|_| String::new())
        })
    }

    fn from_mounts(table: &[MountInfo], controllers_of: impl Fn(&Path) -> String) -> Result<Self> {
        const NOT_CONTROLLERS: [&str; 9] = [
            "rw",
            "ro",
            "xattr",
            "clone_children",
            "noprefix",
            "all",
            "none",
            "cpuset_v2_mode",
            "favordynmods",
        ];
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for mount in table.iter().filter(|m| m.kind == "cgroup") {
            let names: Vec<String> = mount
                .super_options
                .iter()
                .filter(|o| !NOT_CONTROLLERS.contains(&o.as_str()) && !o.starts_with("release_agent="))
                .cloned()
                .collect();
            if !hierarchies.iter().any(|h| h.names == names) {
                hierarchies.push(Hierarchy {
                    root: mount.target.clone(),
                    names,
                });
            }
        }
        let is_controller = |name: &&String| !name.starts_with("name=");
        let controllers: BTreeSet<String> = hierarchies
            .iter()
            .flat_map(|h| h.names.iter())
            .filter(is_controller)
            .cloned()
            .collect();
        if !controllers.is_empty() {
            return Ok(KernelCgroups {
                version: Version::V1,
                hierarchies,
                controllers,
            });
        }
        let Some(unified) = table.iter().find(|m| m.kind == "cgroup2") else {
            return Err(Error::Unsupported {
                operation: "find control groups",
                feature: "a mounted cgroup hierarchy".into(),
            });
        };
        let names: Vec<String> = controllers_of(&unified.target)
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let controllers = names.iter().cloned().collect();
        let hierarchies = vec![Hierarchy {
            root: unified.target.clone(),
            names,
        }];
        Ok(KernelCgroups {
            version: Version::V2,
            hierarchies,
            controllers,
        })
    }

    /// The group's directory in each hierarchy.
    pub(crate) fn directories(&self, path: &CgroupPath) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(move |h| path.under(&h.root))
    }

    fn controller_directory(&self, controller: &str, path: &CgroupPath) -> Option<PathBuf> {
        let hierarchy = self
            .hierarchies
            .iter()
            .find(|h| h.names.iter().any(|n| n == controller));
        match (hierarchy, self.version) {
            (Some(hierarchy), _) => Some(path.under(&hierarchy.root)),
            (None, Version::V2) => self.directories(path).next(),
            (None, Version::V1) => None,
        }
    }

    fn switch_controllers_on(&self, parent: &Path) -> Result<()> {
        let file = parent.join("cgroup.subtree_control");
        let on = fs::read_to_string(&file).context("read", file.display())?;
        for controller in &self.controllers {
            if on.split_whitespace().any(|name| name == controller) {
                continue;
            }
            // One by one: a controller that cannot be delegated here must not take the others with it.
            if let Err(error) = fs::write(&file, format!("+{controller}")) {
                tracing::debug!(file = %file.display(), controller, %error, "controller not switched on");
            }
        }
        Ok(())
    }

    fn create_v1(&self, hierarchy: &Hierarchy, path: &CgroupPath) -> Result<()> {
        let cpuset = hierarchy.names.iter().any(|n| n == "cpuset");
        for step in path.ancestry() {
            let dir = step.under(&hierarchy.root);
            make_directory(&dir)?;
            if cpuset {
                inherit_cpuset(&dir)?;
            }
        }
        Ok(())
    }
}

/// A new v1 cpuset is empty and takes no process until it has CPUs and memory nodes.
fn inherit_cpuset(dir: &Path) -> Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = dir.join(name);
        let own = fs::read_to_string(&file).context("read", file.display())?;
        if own.trim().is_empty() {
            let above = parent.join(name);
            let value = fs::read_to_string(&above).context("read", above.display())?;
            fs::write(&file, value.trim()).context("write", file.display())?;
        }
    }
    Ok(())
}

fn make_directory(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::kernel("create cgroup", dir.display(), error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn read_pids(dir: &Path) -> Result<Vec<u32>> {
    let file = dir.join("cgroup.procs");
    match fs::read_to_string(&file) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(Vec::new()),
        Err(error) => Err(Error::kernel("read", file.display(), error)),
    }
}

impl Cgroups for KernelCgroups {
    fn version(&self) -> Version {
        self.version
    }

    fn controllers(&self) -> &BTreeSet<String> {
        &self.controllers
    }

    fn create(&self, path: &CgroupPath) -> Result<()> {
        for hierarchy in &self.hierarchies {
            match self.version {
                Version::V1 => self.create_v1(hierarchy, path)?,
                Version::V2 => {
                    for step in path.ancestry() {
                        let dir = step.under(&hierarchy.root);
                        if let Some(parent) = dir.parent() {
                            self.switch_controllers_on(parent)?;
                        }
                        make_directory(&dir)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn exists(&self, path: &CgroupPath) -> bool {
        self.directories(path).all(|dir| dir.is_dir())
    }

    fn remove(&self, path: &CgroupPath) -> Result<()> {
        remove::remove(self, path)
    }

    fn kill(&self, path: &CgroupPath) -> Result<usize> {
        remove::kill(self, path)
    }

    fn set(&self, path: &CgroupPath, resources: &Resources) -> Result<()> {
        resources::write(self, path, resources)
    }

    fn allow_devices(&self, path: &CgroupPath, rules: &[DeviceRule]) -> Result<()> {
        match (self.version, self.directories(path).next()) {
            (Version::V2, Some(dir)) => devices::allow(&dir, rules),
            _ => Err(Error::Unsupported {
                operation: "set device rules",
                feature: "cgroup v2".into(),
            }),
        }
    }

    fn stats(&self, path: &CgroupPath) -> Result<Stats> {
        stats::read(self, path)
    }

    fn processes(&self, path: &CgroupPath) -> Result<Vec<u32>> {
        let mut found = BTreeSet::new();
        for dir in self.directories(path) {
            found.extend(read_pids(&dir)?);
        }
        Ok(found.into_iter().collect())
    }

    fn processes_below(&self, path: &CgroupPath) -> Result<Vec<u32>> {
        let mut found = BTreeSet::new();
        for dir in self.directories(path) {
            for dir in remove::tree(&dir)? {
                found.extend(read_pids(&dir)?);
            }
        }
        Ok(found.into_iter().collect())
    }

    fn add_process(&self, path: &CgroupPath, pid: u32) -> Result<()> {
        for dir in self.directories(path) {
            let file = dir.join("cgroup.procs");
            fs::write(&file, pid.to_string())
                .context("move process", format_args!("{pid} into {}", dir.display()))?;
        }
        Ok(())
    }

    fn children(&self, path: &CgroupPath) -> Result<Vec<CgroupPath>> {
        let mut names = BTreeSet::new();
        for dir in self.directories(path) {
            names.extend(remove::subdirectories(&dir)?);
        }
        names.into_iter().map(|name| path.child(&name)).collect()
    }

    fn watch_oom(&self, path: &CgroupPath) -> Result<OomWatch> {
        let dir = self
            .controller_directory("memory", path)
            .ok_or_else(|| Error::Unsupported {
                operation: "watch for out-of-memory kills",
                feature: "the memory controller".into(),
            })?;
        match self.version {
            Version::V1 => OomWatch::v1(&dir),
            Version::V2 => OomWatch::v2(&dir),
        }
    }

    fn directory(&self, controller: &str, path: &CgroupPath) -> Option<PathBuf> {
        self.controller_directory(controller, path)
    }
}

#[cfg(test)]
mod tests;
