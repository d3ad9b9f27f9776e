//! The control groups of pods: one a pod, below its class, below the instance's parent.
//!
//! ```text
//! <parent>/kubepods/pod<uid>                     guaranteed
//! <parent>/kubepods/burstable/pod<uid>
//! <parent>/kubepods/besteffort/pod<uid>
//! ```
//! Follows upstream's `pkg/kubelet/cm` with the cgroupfs driver. What a pod's group gets is pure
//! ([`resources`]).

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use linux::cgroup::{CgroupPath, Cgroups, Resources};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::pod::PodExt;
use crate::qos::{Class, class};
use crate::quantity::{limit, pod_limits, pod_requests};
use crate::runtime::resources::{MIN_SHARES, QUOTA_PERIOD, milli_to_quota, milli_to_shares};

const ROOT: &str = "kubepods";

pub struct PodCgroups {
    cgroups: Arc<dyn Cgroups>,
    root: CgroupPath,
    pids_limit: Option<i64>,
    /// CPU requests of burstable pods, for their class's share.
    burstable: Mutex<std::collections::HashMap<String, i64>>,
}

impl PodCgroups {
    /// Makes the classes' groups below `parent`.
    pub fn new(cgroups: Arc<dyn Cgroups>, parent: &str, pids_limit: Option<i64>, cpus: i64) -> Result<Self> {
        let failed = || Error::kernel("prepare the pods' control groups");
        let root = CgroupPath::new(parent)
            .and_then(|p| p.child(ROOT))
            .map_err(failed())?;
        let groups = Self {
            cgroups,
            root,
            pids_limit,
            burstable: Mutex::default(),
        };
        for path in [
            groups.root.clone(),
            groups.class_path(Class::Burstable)?,
            groups.class_path(Class::BestEffort)?,
        ] {
            groups.cgroups.create(&path).map_err(failed())?;
        }
        let shares = |milli| Resources {
            cpu_shares: u64::try_from(milli).ok(),
            ..Resources::default()
        };
        groups.set(&groups.root, &shares(milli_to_shares(cpus * 1000)));
        groups.set(&groups.class_path(Class::BestEffort)?, &shares(MIN_SHARES));
        groups.set(&groups.class_path(Class::Burstable)?, &shares(MIN_SHARES));
        Ok(groups)
    }

    /// Where the pod's containers go, as CRI is told.
    pub fn parent_of(&self, pod: &Pod) -> Result<String> {
        Ok(self.pod_path(class(pod), pod.uid())?.to_string())
    }

    pub fn ensure(&self, pod: &Pod) -> Result<()> {
        let class = class(pod);
        let path = self.pod_path(class, pod.uid())?;
        if self.cgroups.exists(&path) {
            return Ok(());
        }
        self.cgroups
            .create(&path)
            .map_err(Error::kernel("create a pod's control group"))?;
        let wanted = resources(pod, self.pids_limit);
        self.cgroups
            .set(&path, &wanted)
            .map_err(Error::kernel("limit a pod's control group"))?;
        if class == Class::Burstable {
            let requested = pod_requests(pod).get("cpu").copied().unwrap_or(0);
            self.burstable.lock().insert(pod.uid().to_owned(), requested);
            self.share_burstable();
        }
        Ok(())
    }

    /// Gives a pod's group other resources.
    pub fn resize(&self, pod: &Pod, wanted: &Resources) -> Result<()> {
        let class = class(pod);
        let path = self.pod_path(class, pod.uid())?;
        self.cgroups
            .set(&path, wanted)
            .map_err(Error::kernel("resize a pod's control group"))?;
        if class == Class::Burstable {
            let requested = pod_requests(pod).get("cpu").copied().unwrap_or(0);
            self.burstable.lock().insert(pod.uid().to_owned(), requested);
            self.share_burstable();
        }
        Ok(())
    }

    /// Bytes in use by the pod, or by one of its containers.
    pub fn memory_usage(&self, pod: &Pod, container: Option<&str>) -> Option<i64> {
        let (path, cgroups) = self.find(pod)?;
        let path = match container {
            Some(id) => path.child(id).ok()?,
            None => path,
        };
        i64::try_from(cgroups.stats(&path).ok()?.memory.usage).ok()
    }

    /// Kills what is left in the pod's groups and removes them. Blocks.
    pub fn remove(&self, uid: &str) -> Result<()> {
        for class in [Class::Guaranteed, Class::Burstable, Class::BestEffort] {
            let path = self.pod_path(class, uid)?;
            // Not asked for first: an earlier removal may have been cut short with half of the hierarchies done.
            self.cgroups
                .remove(&path)
                .map_err(Error::kernel("remove a pod's control group"))?;
        }
        if self.burstable.lock().remove(uid).is_some() {
            self.share_burstable();
        }
        Ok(())
    }

    /// UIDs that have a group.
    pub fn pods(&self) -> HashSet<String> {
        let classes = [Class::Guaranteed, Class::Burstable, Class::BestEffort];
        let paths = classes.iter().filter_map(|c| self.class_path(*c).ok());
        paths
            .filter_map(|path| self.cgroups.children(&path).ok())
            .flatten()
            .filter_map(|child| child.name().strip_prefix("pod").map(str::to_owned))
            .collect()
    }

    /// The group of a pod that has one.
    pub fn find(&self, pod: &Pod) -> Option<(CgroupPath, &dyn Cgroups)> {
        let path = self.pod_path(class(pod), pod.uid()).ok()?;
        self.cgroups.exists(&path).then_some((path, &*self.cgroups))
    }

    pub fn root(&self) -> (&CgroupPath, &dyn Cgroups) {
        (&self.root, &*self.cgroups)
    }

    fn share_burstable(&self) {
        let sum: i64 = self.burstable.lock().values().sum();
        if let Ok(path) = self.class_path(Class::Burstable) {
            let shares = u64::try_from(milli_to_shares(sum)).ok();
            self.set(
                &path,
                &Resources {
                    cpu_shares: shares,
                    ..Resources::default()
                },
            );
        }
    }

    /// A class's share is a courtesy: pods run without it.
    fn set(&self, path: &CgroupPath, resources: &Resources) {
        if let Err(error) = self.cgroups.set(path, resources) {
            tracing::warn!(%path, %error, "cannot set a class's share of CPU");
        }
    }

    fn class_path(&self, class: Class) -> Result<CgroupPath> {
        let failed = Error::kernel("name a control group");
        match class {
            Class::Guaranteed => Ok(self.root.clone()),
            Class::Burstable => self.root.child("burstable").map_err(failed),
            Class::BestEffort => self.root.child("besteffort").map_err(failed),
        }
    }

    fn pod_path(&self, class: Class, uid: &str) -> Result<CgroupPath> {
        self.class_path(class)?
            .child(&format!("pod{uid}"))
            .map_err(Error::kernel("name a control group"))
    }
}

/// What the pod as a whole may use. A limit holds for the pod only when every container has one.
pub fn resources(pod: &Pod, pids_limit: Option<i64>) -> Resources {
    let requests = pod_requests(pod);
    let limits = pod_limits(pod);
    let level = pod.spec().resources.as_ref().and_then(|r| r.limits.as_ref());
    let all_limited = |name: &str| {
        let of = |c: &Container| limit(c, name).is_some_and(|l| l > 0);
        level.is_some_and(|l| l.contains_key(name))
            || pod.containers().iter().all(of) && pod.init_containers().iter().all(of)
    };
    let of = |map: &std::collections::BTreeMap<String, i64>, name: &str| map.get(name).copied().unwrap_or(0);
    let mut wanted = Resources {
        cpu_shares: u64::try_from(milli_to_shares(of(&requests, "cpu"))).ok(),
        pids_max: pids_limit.filter(|l| *l > 0),
        ..Resources::default()
    };
    if class(pod) == Class::BestEffort {
        wanted.cpu_shares = u64::try_from(MIN_SHARES).ok();
        return wanted;
    }
    if all_limited("cpu") {
        wanted.cpu_quota = Some(milli_to_quota(of(&limits, "cpu"), QUOTA_PERIOD));
        wanted.cpu_period = u64::try_from(QUOTA_PERIOD).ok();
    }
    if all_limited("memory") {
        wanted.memory_limit = Some(of(&limits, "memory"));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux::fake::Recorder;
    use serde_json::{Value, json};

    fn pod(containers: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u1"}, "spec": {"containers": containers}}))
            .unwrap()
    }

    #[test]
    fn limits_need_every_container() {
        let limited = json!({"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "64Mi"},
                             "requests": {"cpu": "250m", "memory": "64Mi"}}});
        let all = resources(&pod(json!([limited])), Some(100));
        assert_eq!(
            (all.cpu_shares, all.cpu_quota, all.memory_limit, all.pids_max),
            (Some(256), Some(50_000), Some(64 << 20), Some(100))
        );
        let some = resources(&pod(json!([limited, {"name": "b"}])), None);
        assert_eq!(
            (some.cpu_shares, some.cpu_quota, some.memory_limit),
            (Some(256), None, None)
        );
        let none = resources(&pod(json!([{"name": "b"}])), None);
        assert_eq!((none.cpu_shares, none.cpu_quota), (Some(2), None));
    }

    #[test]
    fn groups_come_and_go() {
        let recorder = Arc::new(Recorder::default().with_controllers(["cpu", "memory", "pids"]));
        let groups = PodCgroups::new(recorder.clone(), "kijabi-1", None, 2).unwrap();
        let pod = pod(json!([{"name": "a", "resources": {"requests": {"cpu": "1"}}}]));
        assert_eq!(
            groups.parent_of(&pod).unwrap(),
            "/kijabi-1/kubepods/burstable/podu1"
        );
        groups.ensure(&pod).unwrap();
        groups.ensure(&pod).unwrap();
        assert_eq!(groups.pods(), HashSet::from(["u1".to_owned()]));
        groups.remove("u1").unwrap();
        assert!(groups.pods().is_empty());
        // What is not whole, in every hierarchy, is removed all the same.
        recorder.take_calls();
        groups.remove("half").unwrap();
        let removed = recorder.take_calls();
        assert!(
            removed.contains(&"cgroup-remove /kijabi-1/kubepods/besteffort/podhalf".to_owned()),
            "{removed:?}"
        );
    }
}
