//! What other servers serve, told among what this one does.

use super::Aggregation;
use super::remote::Remote;
use machinery::{Map, Value};
use std::cmp::Ordering;
use std::sync::Arc;

impl Aggregation {
    fn all(&self) -> Vec<Arc<Remote>> {
        let mut all: Vec<Arc<Remote>> = self.remotes.load().values().cloned().collect();
        all.sort_by(|a, b| {
            b.group_priority
                .cmp(&a.group_priority)
                .then_with(|| a.group.cmp(&b.group))
                .then_with(|| by_version(a, b))
        });
        all
    }

    /// Adds groups and versions to the groups of `/apis`.
    pub(crate) fn add_groups(&self, groups: &mut Vec<Value>) {
        for remote in self.all() {
            let mut version = Map::new();
            version.insert("groupVersion", format!("{}/{}", remote.group, remote.version));
            version.insert("version", remote.version.as_str());
            add(groups, &["name"], &remote, version, |group, version| {
                if group.get("preferredVersion").is_none() {
                    group.make_object().insert("preferredVersion", version);
                }
            });
        }
    }

    /// Adds groups and versions to aggregated discovery.
    pub(crate) fn add_discovery(&self, groups: &mut Vec<Value>) {
        for remote in self.all() {
            let mut version = Map::new();
            let fresh = if remote.is_available() { "Current" } else { "Stale" };
            version.insert("freshness", fresh);
            version.insert("version", remote.version.as_str());
            let resources = remote.resources.load_full();
            version.insert(
                "resources",
                resources.map_or_else(Vec::new, |resources| resources.to_vec()),
            );
            add(groups, &["metadata", "name"], &remote, version, |group, _| {
                let metadata = group.make_object().object_entry("metadata");
                metadata.insert("creationTimestamp", Value::Null);
            });
        }
    }

    /// The documents of other servers, for the index of version 3.
    pub(crate) fn add_documents(&self, paths: &mut Map) {
        for remote in self.all().iter().filter(|remote| remote.is_available()) {
            let name = format!("apis/{}/{}", remote.group, remote.version);
            let mut entry = Map::new();
            entry.insert("serverRelativeURL", format!("/openapi/v3/{name}"));
            paths.insert(name, entry);
        }
    }
}

fn by_version(a: &Remote, b: &Remote) -> Ordering {
    b.version_priority
        .cmp(&a.version_priority)
        .then_with(|| machinery::gvk::compare_versions(&b.version, &a.version))
}

/// Puts a version where its group is, or makes the group.
fn add(
    groups: &mut Vec<Value>,
    name: &[&str],
    remote: &Remote,
    version: Map,
    finish: impl Fn(&mut Value, Value),
) {
    let group = remote.group.as_str();
    let at = groups
        .iter()
        .position(|known| known.get_str_path(name) == Some(group));
    let at = at.unwrap_or_else(|| {
        let mut made = Value::object();
        made.set_path(name, group);
        made.set_path(&["versions"], Vec::<Value>::new());
        groups.push(made);
        groups.len() - 1
    });
    let version = Value::from(version);
    if let Some(versions) = groups[at].get_mut("versions").and_then(Value::as_array_mut) {
        versions.retain(|known| known.get_str_path(&["version"]) != Some(&remote.version));
        versions.push(version.clone());
    }
    finish(&mut groups[at], version);
}
