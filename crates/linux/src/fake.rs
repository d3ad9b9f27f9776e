//! A recording stand-in for the kernel.
//!
//! Every call is written down as one readable line, carried out on a small model in memory (so that what
//! was made can be found again), and fails where a test said it should.

mod cgroups;
mod filters;
mod links;
mod mounts;
mod namespaces;
mod processes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;

use crate::cgroup::{CgroupPath, Resources};
use crate::conntrack::Connection;
use crate::mount::MountInfo;
use crate::netlink::{Link, Route};
use crate::nftables::{Dump, Table};
use crate::{Error, Result};

/// Records calls and plays the kernel.
#[derive(Debug, Default)]
pub struct Recorder {
    state: Mutex<State>,
    controllers: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<String>,
    failures: Vec<(String, i32)>,
    mounts: Vec<MountInfo>,
    namespaces: BTreeSet<PathBuf>,
    sysctls: BTreeMap<(PathBuf, String), String>,
    cgroups: BTreeMap<CgroupPath, Group>,
    processes: BTreeSet<u32>,
    links: Vec<Link>,
    addresses: Vec<(String, IpNet)>,
    routes: Vec<Route>,
    tables: Vec<(Table, Dump)>,
    connections: Vec<Connection>,
    /// The links of other namespaces, by where these are kept.
    nets: BTreeMap<PathBuf, Arc<Recorder>>,
    /// The far ends of pairs.
    peers: BTreeMap<String, (PathBuf, String)>,
}

#[derive(Debug, Default)]
struct Group {
    resources: Resources,
    processes: BTreeSet<u32>,
}

impl Recorder {
    /// All calls so far, one line each.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// Takes the calls so far, so that the next look sees only newer ones.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().calls)
    }

    /// From now on every call whose line begins with `prefix` fails with this errno.
    pub fn fail(&self, prefix: impl Into<String>, errno: i32) {
        self.state.lock().failures.push((prefix.into(), errno));
    }

    pub fn heal(&self) {
        self.state.lock().failures.clear();
    }

    /// Makes a process that can be signalled and moved.
    pub fn add_running(&self, pid: u32) {
        self.state.lock().processes.insert(pid);
    }

    /// The links of the namespace kept at `net`, with a loopback from the beginning.
    pub fn inside(&self, net: &Path) -> Arc<Recorder> {
        let mut state = self.state.lock();
        let known = state.nets.entry(net.to_path_buf()).or_insert_with(|| {
            let inside = Recorder::default();
            inside.state.lock().links.push(Link {
                index: 1,
                name: "lo".into(),
                ..Link::default()
            });
            Arc::new(inside)
        });
        known.clone()
    }

    /// What was last set on a group.
    pub fn resources(&self, path: &CgroupPath) -> Option<Resources> {
        self.state
            .lock()
            .cgroups
            .get(path)
            .map(|group| group.resources.clone())
    }

    /// Writes the call down, then runs it on the model unless it is to fail.
    fn call<T>(&self, line: String, act: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.state.lock();
        state.calls.push(line.clone());
        if let Some((_, errno)) = state
            .failures
            .iter()
            .find(|(prefix, _)| line.starts_with(prefix.as_str()))
        {
            return Err(refused(&line, *errno));
        }
        act(&mut state)
    }
}

fn refused(line: &str, errno: i32) -> Error {
    Error::kernel("fake", line, std::io::Error::from_raw_os_error(errno))
}
