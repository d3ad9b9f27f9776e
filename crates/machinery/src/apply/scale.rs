//! Managers of the `scale` subresource: the same managers, one field.
//!
//! A Scale shows, of its parent's managers, those of the replicas, as managers of `.spec.replicas` in
//! `autoscaling/v1`. After a write to the Scale the parent's entries are made to agree.

use super::managed::{Entry, ManagedFields, Operation};
use super::set::FieldSet;
use crate::Value;

const SCALE_VERSION: &str = "autoscaling/v1";
const SCALE_REPLICAS: &[&str] = &["f:spec", "f:replicas"];

/// Where the parent keeps its replicas, per version, in FieldsV1's steps; `None` for a version without a scale
/// subresource. Entries in versions that are not listed are dropped.
pub type ReplicasPaths<'p> = &'p [(&'p str, Option<&'p [&'p str]>)];

/// The parent's managers as those of its Scale.
pub fn to_scale(parent: Option<&Value>, paths: ReplicasPaths<'_>) -> Result<Option<Value>, String> {
    let parent = ManagedFields::decode(parent)?;
    let entries = parent.entries.into_iter().filter_map(|mut entry| {
        let path = path_in(paths, &entry.version).flatten()?;
        if !entry.fields.contains(path) {
            return None;
        }
        entry.fields = FieldSet::of([SCALE_REPLICAS]);
        Some(in_version(entry, SCALE_VERSION))
    });
    Ok(ManagedFields {
        entries: entries.collect(),
    }
    .encode())
}

/// The parent's managers after a write that left `scale` as the managers of its Scale. `version` is the parent's.
pub fn to_parent(
    parent: Option<&Value>,
    scale: Option<&Value>,
    version: &str,
    paths: ReplicasPaths<'_>,
) -> Result<Option<Value>, String> {
    let parent = ManagedFields::decode(parent)?;
    let mut scale = ManagedFields::decode(scale)?.entries;
    let mut out = Vec::with_capacity(parent.entries.len() + 1);
    for mut entry in parent.entries {
        let Some(path) = path_in(paths, &entry.version) else {
            continue;
        };
        let Some(path) = path.filter(|path| entry.fields.contains(path)) else {
            out.push(entry);
            continue;
        };
        match scale.iter().position(|other| is_same(other, &entry)) {
            Some(at) => {
                scale.remove(at);
            }
            None => {
                entry.fields.subtract(&FieldSet::of([path]));
                if entry.fields.is_empty() {
                    continue;
                }
            }
        }
        out.push(entry);
    }
    let path = path_in(paths, version)
        .flatten()
        .ok_or("the parent's version has no replicas")?;
    for entry in scale
        .into_iter()
        .filter(|entry| entry.fields.contains(SCALE_REPLICAS))
    {
        let entry = Entry {
            fields: FieldSet::of([path]),
            ..in_version(entry, version)
        };
        match out.iter_mut().find(|other| other.manager == entry.manager) {
            Some(other) => *other = entry,
            None => out.push(entry),
        }
    }
    Ok(ManagedFields { entries: out }.encode())
}

/// One manager, seen from the Scale and from the parent: the version differs.
fn is_same(scale: &Entry, parent: &Entry) -> bool {
    scale.manager.name == parent.manager.name
        && scale.manager.subresource == parent.manager.subresource
        && scale.manager.update_version().is_some() == parent.manager.update_version().is_some()
}

fn in_version(mut entry: Entry, version: &str) -> Entry {
    if let Operation::Update(of) = &mut entry.manager.operation {
        *of = version.into();
    }
    entry.version = version.into();
    entry
}

fn path_in<'p>(paths: ReplicasPaths<'p>, version: &str) -> Option<Option<&'p [&'p str]>> {
    paths.iter().find(|(v, _)| *v == version).map(|(_, path)| *path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Manager;

    const PATHS: ReplicasPaths<'static> = &[("apps/v1", Some(SCALE_REPLICAS)), ("apps/v0", None)];

    fn entry(manager: Manager, version: &str, paths: &[&[&str]]) -> Entry {
        Entry {
            manager,
            version: version.into(),
            time: None,
            fields: FieldSet::of(paths.iter().copied()),
        }
    }

    fn list(entries: Vec<Entry>) -> Option<Value> {
        ManagedFields { entries }.encode()
    }

    #[test]
    fn a_scale_shows_who_manages_the_replicas() {
        let parent = list(vec![
            entry(
                Manager::apply("a", ""),
                "apps/v1",
                &[SCALE_REPLICAS, &["f:spec", "f:x"]],
            ),
            entry(
                Manager::update("b", "apps/v1", ""),
                "apps/v1",
                &[&["f:spec", "f:x"]],
            ),
            entry(Manager::update("c", "apps/v7", ""), "apps/v7", &[SCALE_REPLICAS]),
        ]);
        let want = list(vec![entry(
            Manager::apply("a", ""),
            SCALE_VERSION,
            &[SCALE_REPLICAS],
        )]);
        assert_eq!(to_scale(parent.as_ref(), PATHS).unwrap(), want);
    }

    #[test]
    fn who_scales_takes_the_replicas() {
        let spec: &[&str] = &["f:spec", "f:x"];
        let parent = list(vec![
            entry(Manager::apply("a", ""), "apps/v1", &[SCALE_REPLICAS, spec]),
            entry(Manager::update("old", "apps/v0", ""), "apps/v0", &[spec]),
        ]);
        let scale = list(vec![entry(
            Manager::update("b", SCALE_VERSION, "scale"),
            SCALE_VERSION,
            &[SCALE_REPLICAS],
        )]);
        let want = list(vec![
            entry(Manager::apply("a", ""), "apps/v1", &[spec]),
            entry(Manager::update("old", "apps/v0", ""), "apps/v0", &[spec]),
            entry(
                Manager::update("b", "apps/v1", "scale"),
                "apps/v1",
                &[SCALE_REPLICAS],
            ),
        ]);
        assert_eq!(
            to_parent(parent.as_ref(), scale.as_ref(), "apps/v1", PATHS).unwrap(),
            want
        );
    }

    #[test]
    fn a_scale_left_alone_changes_nothing() {
        let parent = list(vec![
            entry(Manager::apply("a", ""), "apps/v1", &[SCALE_REPLICAS]),
            entry(
                Manager::update("b", "apps/v1", ""),
                "apps/v1",
                &[SCALE_REPLICAS, &["f:spec"]],
            ),
        ]);
        let scale = to_scale(parent.as_ref(), PATHS).unwrap();
        assert_eq!(
            to_parent(parent.as_ref(), scale.as_ref(), "apps/v1", PATHS).unwrap(),
            parent
        );
    }
}
