//! Volumes: one file a type, one list.
//!
//! A plugin makes a volume's directory be what the spec says, whenever it is asked; asked again, it brings what
//! changed. **Invariants:** nothing below a pod's directory is deleted while anything is mounted there; what a
//! container sees of a projected volume changes in one rename.

pub mod atomic;
pub mod config_map;
pub mod csi;
pub mod downward_api;
pub mod empty_dir;
pub mod host_path;
pub mod manager;
pub mod nfs;
pub mod ownership;
pub mod payload;
pub mod persistent_claim;
pub mod projected;
pub mod secret;
pub mod subpath;
pub mod tokens;

use std::collections::HashSet;
use std::path::PathBuf;

use async_trait::async_trait;
use client::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::downward::PodFacts;
use crate::error::Result;
use crate::node::context::NodeContext;

/// A volume type.
#[async_trait]
pub trait VolumePlugin: Send + Sync {
    /// Upstream's name; also the directory's.
    fn name(&self) -> &'static str;
    fn supports(&self, volume: &Volume) -> bool;
    /// Config maps and secrets it reads.
    fn references(&self, _pod: &Pod, _volume: &Volume, _into: &mut References) {}
    /// Whether `set_up` is asked again on every look at the pod.
    fn is_live(&self) -> bool {
        false
    }
    /// Makes the volume, or brings it up to date.
    async fn set_up(&self, request: &Request<'_>) -> Result<Mounted>;
}

/// The plugins, sorted by name.
pub fn all() -> &'static [&'static dyn VolumePlugin] {
    &[
        &config_map::ConfigMapPlugin,
        &csi::CsiPlugin,
        &downward_api::DownwardApiPlugin,
        &empty_dir::EmptyDirPlugin,
        &host_path::HostPathPlugin,
        &nfs::NfsPlugin,
        &persistent_claim::PersistentClaimPlugin,
        &projected::ProjectedPlugin,
        &secret::SecretPlugin,
    ]
}

/// One volume of one pod.
pub struct Request<'a> {
    pub node: &'a NodeContext,
    pub facts: &'a PodFacts<'a>,
    pub volume: &'a Volume,
    /// The volume's directory below the pod's.
    pub dir: PathBuf,
    /// What was set up before in this process.
    pub before: Option<&'a Mounted>,
}

impl Request<'_> {
    pub fn pod(&self) -> &Pod {
        self.facts.pod
    }

    pub fn fs_group(&self) -> Option<u32> {
        let context = self.pod().spec.as_ref()?.security_context.as_ref()?;
        context.fs_group.and_then(|g| u32::try_from(g).ok())
    }
}

/// A volume that is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mounted {
    pub path: PathBuf,
    /// Containers may only read it, whatever their mount says.
    pub read_only: bool,
    /// When it must be looked at again.
    pub refresh_at: Option<Timestamp>,
    /// A sum over what was written, to know whether anything changed.
    pub digest: Option<[u8; 32]>,
}

/// Objects that a pod refers to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct References {
    pub config_maps: HashSet<ObjectKey>,
    pub secrets: HashSet<ObjectKey>,
}

#[cfg(test)]
mod tests {
    #[test]
    fn plugins_are_sorted_and_complete() {
        let names: Vec<_> = super::all().iter().map(|p| p.name()).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(names, sorted);
        let helpers = [
            "atomic",
            "manager",
            "mod",
            "ownership",
            "payload",
            "subpath",
            "tokens",
        ];
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/volumes")).unwrap();
        let plugins = files
            .filter_map(|f| {
                f.unwrap()
                    .path()
                    .file_stem()
                    .map(|s| s.to_string_lossy().into_owned())
            })
            .filter(|name| !helpers.contains(&name.as_str()))
            .count();
        assert_eq!(plugins, names.len(), "every file of a plugin stands in the list");
    }
}
