//! `subPath`: a part of a volume, bound to a place of its own so that nobody can swap a link under it.
//!
//! **Invariant:** what the container gets lies in the volume at the moment it is opened, and stays what it was
//! when opened: the bind mount is made through the descriptor.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use linux::beneath;
use linux::mount::{Mount, Unmount};

use crate::env::{EnvVar, expand};
use crate::error::{Error, Result};
use crate::node::context::NodeContext;

/// One mount of one container.
pub struct Place<'a> {
    pub uid: &'a str,
    pub volume: &'a str,
    pub container: &'a str,
    pub index: usize,
}

/// The path of `subPathExpr`, its variables replaced; one without a value is an error.
pub fn expanded(expression: &str, env: &[EnvVar]) -> Result<String> {
    let missing = std::cell::RefCell::new(Vec::new());
    let text = expand(expression, |name| {
        let value = env
            .iter()
            .find(|e| e.name == name)
            .map(|e| e.value.clone())
            .unwrap_or_default();
        if value.is_empty() {
            missing.borrow_mut().push(name.to_owned());
        }
        Some(value)
    });
    let mut missing = missing.into_inner();
    if missing.is_empty() {
        return Ok(text);
    }
    missing.sort();
    missing.dedup();
    Err(Error::Pod(format!("missing value for {}", missing.join(", "))))
}

/// Makes the part if it is missing and binds it; returns where.
pub fn prepare(node: &NodeContext, volume_path: &Path, sub_path: &str, place: &Place<'_>) -> Result<PathBuf> {
    let relative = Path::new(sub_path);
    if relative.is_absolute() {
        return Err(Error::Pod(format!(
            "error SubPath `{sub_path}` must not be an absolute path"
        )));
    }
    if relative.components().any(|c| c == Component::ParentDir) {
        return Err(Error::Pod(format!(
            "unable to provision SubPath `{sub_path}`: must not contain '..'"
        )));
    }
    let failed = |error: linux::Error| {
        tracing::warn!(%error, volume = place.volume, container = place.container, "cannot prepare a subPath");
        Error::Pod(format!(
            "failed to prepare subPath for volumeMount {:?} of container {:?}",
            place.volume, place.container
        ))
    };
    let found = match beneath::open(volume_path, relative).map_err(failed)? {
        Some(found) => found,
        None => {
            let mode = fs::metadata(volume_path)
                .map_err(Error::file("look at", volume_path))?
                .mode()
                & 0o7777;
            beneath::create_dirs(volume_path, relative, mode).map_err(failed)?;
            beneath::open(volume_path, relative)
                .map_err(failed)?
                .ok_or_else(|| {
                    Error::Pod(format!(
                        "failed to create subPath directory for volumeMount {:?} of container {:?}",
                        place.volume, place.container
                    ))
                })?
        }
    };
    let target = node
        .paths
        .subpath(place.uid, place.volume, place.container, place.index);
    // An earlier container's mount may still be there; the volume may have changed since.
    node.mounts.unmount(&target, Unmount::Detach).map_err(failed)?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
    }
    if found.is_dir {
        fs::create_dir_all(&target).map_err(Error::file("create", &target))?;
    } else {
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&target)
            .map_err(Error::file("create", &target))?;
    }
    node.mounts
        .mount(&Mount::bind_recursive(found.path(), &target))
        .map_err(failed)?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        let env = [
            EnvVar {
                name: "A".into(),
                value: "x".into(),
            },
            EnvVar {
                name: "E".into(),
                value: String::new(),
            },
        ];
        assert_eq!(expanded("d/$(A)", &env).unwrap(), "d/x");
        assert_eq!(
            expanded("$(E)/$(B)", &env).unwrap_err().to_string(),
            "missing value for B, E"
        );
        assert_eq!(expanded("$$(A)", &env).unwrap(), "$(A)");
    }
}
