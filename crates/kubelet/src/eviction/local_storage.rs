//! Limits on local storage: `sizeLimit` of emptyDirs, `ephemeral-storage` of containers and pods.
//!
//! Directories are walked only for pods that have such a limit, or when the disk is short.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::evict;
use crate::node::context::NodeContext;
use crate::pod::{PodExt, is_terminal};
use crate::pods::orphans::blocking;
use crate::pods::workers::Workers;
use crate::quantity::{limit, pod_limits, value};
use crate::runtime::labels;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    pub bytes: u64,
    pub inodes: u64,
}

impl std::ops::AddAssign for Footprint {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// What one pod has on the node's disk.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    /// Writable layer and logs, by container.
    pub containers: Vec<(String, Footprint)>,
    /// EmptyDirs on disk and what is projected into the pod, by volume.
    pub volumes: Vec<(String, Footprint)>,
}

impl Storage {
    pub fn total(&self) -> Footprint {
        let mut sum = Footprint::default();
        self.containers.iter().for_each(|(_, f)| sum += *f);
        self.volumes.iter().for_each(|(_, f)| sum += *f);
        sum
    }
}

/// Evicts pods beyond their limits; whether there were any.
pub(super) async fn enforce(node: &Arc<NodeContext>, workers: &Workers) -> bool {
    let limited: Vec<Arc<Pod>> = workers
        .pods()
        .into_iter()
        .filter(|p| !is_terminal(p.phase()) && !p.is_deleting() && is_limited(p))
        .collect();
    if limited.is_empty() {
        return false;
    }
    let measured = measure(node, &limited).await;
    let mut any = false;
    for pod in &limited {
        let excess = measured.get(pod.uid()).and_then(|storage| excess(pod, storage));
        if let Some(message) = excess.filter(|_| !super::is_critical(pod)) {
            tracing::warn!(pod = pod.describe(), message, "evicting a pod beyond its storage");
            evict(node, workers, pod, message, super::IMMEDIATELY);
            any = true;
        }
    }
    any
}

fn is_limited(pod: &Pod) -> bool {
    let sized =
        |v: &k8s_openapi::api::core::v1::Volume| v.empty_dir.as_ref().is_some_and(|e| e.size_limit.is_some());
    pod.spec().volumes.iter().flatten().any(sized)
        || pod
            .containers()
            .iter()
            .any(|c| limit(c, "ephemeral-storage").is_some())
        || pod_limits(pod).contains_key("ephemeral-storage")
}

/// Upstream's words for the first limit that is exceeded.
fn excess(pod: &Pod, storage: &Storage) -> Option<String> {
    let used = |list: &[(String, Footprint)], name: &str| {
        let found = list.iter().find(|(n, _)| n == name);
        found.map_or(0, |(_, f)| i64::try_from(f.bytes).unwrap_or(i64::MAX))
    };
    for volume in pod.spec().volumes.iter().flatten() {
        let Some(size) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) else {
            continue;
        };
        if value(size) > 0 && used(&storage.volumes, &volume.name) > value(size) {
            return Some(format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                volume.name, size.0
            ));
        }
    }
    let level = pod_limits(pod).get("ephemeral-storage").copied().unwrap_or(0);
    let everywhere = pod
        .containers()
        .iter()
        .all(|c| limit(c, "ephemeral-storage").is_some());
    let total = i64::try_from(storage.total().bytes).unwrap_or(i64::MAX);
    if level > 0 && everywhere && total > level {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            crate::quantity::binary_quantity(level).0
        ));
    }
    pod.containers().iter().find_map(|container| {
        let most = limit(container, "ephemeral-storage").filter(|l| *l > 0)?;
        let text = &container
            .resources
            .as_ref()?
            .limits
            .as_ref()?
            .get("ephemeral-storage")?
            .0;
        (used(&storage.containers, &container.name) > most).then(|| {
            format!(
                "Container {} exceeded its local ephemeral storage limit {text:?}. ",
                container.name
            )
        })
    })
}

/// What pods have on disk, by UID.
pub(super) async fn measure(node: &Arc<NodeContext>, pods: &[Arc<Pod>]) -> HashMap<String, Storage> {
    let stats = node.runtime.sandbox_stats().await.unwrap_or_else(|error| {
        tracing::warn!(error = error.full(), "cannot read the pods' usage");
        Vec::new()
    });
    let mut layers: HashMap<(String, String), Footprint> = HashMap::new();
    for stats in stats {
        let Some(uid) = stats.attributes.and_then(|a| a.metadata).map(|m| m.uid) else {
            continue;
        };
        for container in stats.linux.map(|l| l.containers).unwrap_or_default() {
            let name = container
                .attributes
                .as_ref()
                .and_then(|a| a.labels.get(labels::CONTAINER_NAME));
            let (Some(name), Some(layer)) = (name, &container.writable_layer) else {
                continue;
            };
            let number = |v: &Option<cri::v1::UInt64Value>| v.as_ref().map_or(0, |v| v.value);
            let found = Footprint {
                bytes: number(&layer.used_bytes),
                inodes: number(&layer.inodes_used),
            };
            layers.insert((uid.clone(), name.clone()), found);
        }
    }
    let (node, pods) = (node.clone(), pods.to_vec());
    let walked = blocking(move || {
        Ok(pods
            .iter()
            .map(|pod| (pod.uid().to_owned(), storage(&node, pod, &layers)))
            .collect())
    });
    walked.await.unwrap_or_else(|error| {
        tracing::warn!(error = error.full(), "cannot measure the pods' directories");
        HashMap::new()
    })
}

fn storage(node: &NodeContext, pod: &Pod, layers: &HashMap<(String, String), Footprint>) -> Storage {
    let logs = node.paths.pod_logs(pod.namespace(), pod.name(), pod.uid());
    let containers = pod.init_containers().iter().chain(pod.containers()).map(|c| {
        let mut found = walk(&logs.join(&c.name));
        if let Some(layer) = layers.get(&(pod.uid().to_owned(), c.name.clone())) {
            found += *layer;
        }
        (c.name.clone(), found)
    });
    let on_disk = |v: &&k8s_openapi::api::core::v1::Volume| {
        v.empty_dir
            .as_ref()
            .is_some_and(|e| e.medium.as_deref().unwrap_or_default().is_empty())
    };
    let volumes = pod.spec().volumes.iter().flatten().filter(on_disk).map(|v| {
        let dir = node.paths.volume(pod.uid(), "kubernetes.io/empty-dir", &v.name);
        (v.name.clone(), walk(&dir))
    });
    Storage {
        containers: containers.collect(),
        volumes: volumes.collect(),
    }
}

/// Disk blocks and inodes at and below a path, on its own filesystem; links are counted, not followed.
fn walk(path: &Path) -> Footprint {
    let mut sum = Footprint::default();
    let Ok(root) = std::fs::symlink_metadata(path) else {
        return sum;
    };
    let mut pending: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.dev() != root.dev() {
            continue;
        }
        sum += Footprint {
            bytes: metadata.blocks() * 512,
            inodes: 1,
        };
        if metadata.is_dir()
            && let Ok(entries) = std::fs::read_dir(&path)
        {
            pending.extend(entries.filter_map(|e| e.ok()).map(|e| e.path()));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_are_told_in_order() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
            "containers": [{"name": "c", "resources": {"limits": {"ephemeral-storage": "2Mi"}}},
                           {"name": "d", "resources": {"limits": {"ephemeral-storage": "1Mi"}}}]}}))
        .unwrap();
        let told = |volume: u64, c: u64, d: u64| {
            let part = |mib: u64| Footprint {
                bytes: mib << 20,
                inodes: 1,
            };
            let storage = Storage {
                containers: vec![("c".into(), part(c)), ("d".into(), part(d))],
                volumes: vec![("v".into(), part(volume))],
            };
            excess(&pod, &storage)
        };
        assert_eq!(told(1, 1, 1), None);
        assert_eq!(
            told(2, 0, 0).unwrap(),
            "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "
        );
        assert_eq!(
            told(0, 0, 2).unwrap(),
            "Container d exceeded its local ephemeral storage limit \"1Mi\". "
        );
        assert_eq!(
            told(1, 2, 1).unwrap(),
            "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. "
        );
        assert!(is_limited(&pod));
    }

    #[test]
    fn directories_are_measured_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let found = walk(dir.path());
        assert_eq!(found.inodes, 4);
        assert!(found.bytes >= 100_000 && found.bytes < 1 << 20);
        assert_eq!(walk(&dir.path().join("missing")), Footprint::default());
    }
}
