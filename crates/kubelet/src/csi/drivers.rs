//! The drivers of this node, by name.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};

use super::client::Driver;
use super::node_info;
use crate::error::{Error, Result};
use crate::node::context::NodeContext;
use crate::registry::{Handler, Plugin};

/// A driver's name and its handle of a volume.
pub type VolumeId = (String, String);

#[derive(Default)]
pub struct Drivers {
    known: RwLock<HashMap<String, Known>>,
    /// One writer of the CSINode at a time.
    pub(super) writing: tokio::sync::Mutex<()>,
    /// Held while a volume is staged or unstaged.
    locks: Mutex<HashMap<VolumeId, Arc<tokio::sync::Mutex<()>>>>,
    /// Volumes this process has had staged.
    pub(super) staged: Mutex<BTreeSet<VolumeId>>,
    /// Volumes that must not be detached, as the node's status names them.
    in_use: Mutex<BTreeSet<String>>,
}

struct Known {
    driver: Driver,
    version: Version,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(Vec<u64>);

impl Drivers {
    pub fn get(&self, name: &str) -> Result<Driver> {
        let known = self.known.read();
        known.get(name).map(|k| k.driver.clone()).ok_or_else(|| {
            Error::Pod(format!(
                "driver name {name} not found in the list of registered CSI drivers"
            ))
        })
    }

    /// Keeps others from staging or unstaging a volume meanwhile.
    pub async fn lock(&self, id: &VolumeId) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(id.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// Says that a volume is used here; whether that is news.
    pub fn use_volume(&self, id: &VolumeId) -> bool {
        self.in_use.lock().insert(unique_name(id))
    }

    pub fn leave_volume(&self, id: &VolumeId) -> bool {
        self.in_use.lock().remove(&unique_name(id))
    }

    /// Sorted.
    pub fn in_use(&self) -> Vec<String> {
        self.in_use.lock().iter().cloned().collect()
    }
}

/// As in `status.volumesInUse`.
pub fn unique_name((driver, handle): &VolumeId) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// Takes drivers in.
pub struct CsiHandler;

#[async_trait]
impl Handler for CsiHandler {
    fn kind(&self) -> &'static str {
        "CSIPlugin"
    }

    async fn register(&self, node: &Arc<NodeContext>, plugin: &Plugin) -> std::result::Result<(), String> {
        let failed = |problem: String| {
            format!(
                "plugin registration failed with err: CSI driver {} at endpoint {}: {problem}",
                plugin.name, plugin.endpoint
            )
        };
        let version = highest(&plugin.versions).ok_or_else(|| {
            failed(format!(
                "none of the versions specified {:?} are supported",
                plugin.versions
            ))
        })?;
        if let Some(known) = node.csi.known.read().get(&plugin.name)
            && known.version >= version
            && known.driver.endpoint != plugin.endpoint
        {
            return Err(failed(
                "another driver with the same name is already registered with a higher supported version"
                    .to_owned(),
            ));
        }
        let driver = Driver::connect(&plugin.name, &plugin.endpoint)
            .await
            .map_err(|e| failed(e.full()))?;
        let info = driver.info().await.map_err(|e| failed(e.full()))?;
        node_info::install(node, &plugin.name, &info)
            .await
            .map_err(|e| failed(e.full()))?;
        let known = Known { driver, version };
        node.csi.known.write().insert(plugin.name.clone(), known);
        Ok(())
    }

    async fn deregister(&self, node: &Arc<NodeContext>, plugin: &Plugin) {
        node.csi.known.write().remove(&plugin.name);
        if let Err(error) = node_info::uninstall(node, &plugin.name).await {
            tracing::warn!(
                driver = plugin.name,
                error = error.full(),
                "cannot strike a driver off the CSINode"
            );
        }
    }
}

/// Versions before 1 and from 2 on are others' protocols.
fn highest(versions: &[String]) -> Option<Version> {
    let parse = |text: &String| {
        let bare = text.trim_start_matches('v');
        let parts: Option<Vec<u64>> = bare.split('.').map(|part| part.parse().ok()).collect();
        parts.filter(|p| p.first() == Some(&1)).map(Version)
    };
    versions.iter().filter_map(parse).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_one_is_spoken() {
        let highest = |versions: &[&str]| {
            let versions: Vec<String> = versions.iter().map(|v| (*v).to_owned()).collect();
            highest(&versions).map(|v| v.0)
        };
        assert_eq!(
            highest(&["1.0.0", "1.2.0", "2.0.0", "0.3.0"]),
            Some(vec![1, 2, 0])
        );
        assert_eq!(highest(&["0.3.0", "x"]), None);
        assert_eq!(highest(&[]), None);
    }
}
