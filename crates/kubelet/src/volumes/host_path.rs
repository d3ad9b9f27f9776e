//! `hostPath` volumes: a path of the node, checked to be what the spec says.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{Mounted, Request, VolumePlugin};
use crate::error::{Error, Result};

pub struct HostPathPlugin;

#[async_trait]
impl VolumePlugin for HostPathPlugin {
    fn name(&self) -> &'static str {
        "kubernetes.io/host-path"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    async fn set_up(&self, request: &Request<'_>) -> Result<Mounted> {
        let Some(source) = &request.volume.host_path else {
            return Ok(Mounted::default());
        };
        let path = Path::new(&source.path);
        check(path, source.type_.as_deref().unwrap_or_default())?;
        Ok(Mounted {
            path: path.to_owned(),
            ..Mounted::default()
        })
    }
}

/// Makes or refuses what is at a path, by its type.
pub(super) fn check(path: &Path, kind: &str) -> Result<()> {
    let found = fs::metadata(path).ok();
    let is = |test: fn(&fs::Metadata) -> bool| found.as_ref().is_some_and(test);
    let refuse = |what: &str| {
        Err(Error::Pod(format!(
            "hostPath type check failed: {} is not {what}",
            path.display()
        )))
    };
    let ok = match kind {
        "" => return Ok(()),
        "DirectoryOrCreate" if found.is_none() => {
            fs::create_dir_all(path).map_err(Error::file("create", path))?;
            return fs::set_permissions(path, fs::Permissions::from_mode(0o755))
                .map_err(Error::file("create", path));
        }
        "FileOrCreate" if found.is_none() => {
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(Error::file("create", path))?;
            return fs::set_permissions(path, fs::Permissions::from_mode(0o644))
                .map_err(Error::file("create", path));
        }
        "Directory" | "DirectoryOrCreate" => (is(fs::Metadata::is_dir), "a directory"),
        "File" | "FileOrCreate" => (is(fs::Metadata::is_file), "a file"),
        "Socket" => (is(|m| m.file_type().is_socket()), "a socket file"),
        "CharDevice" => (is(|m| m.file_type().is_char_device()), "a character device"),
        "BlockDevice" => (is(|m| m.file_type().is_block_device()), "a block device"),
        other => return Err(Error::Pod(format!("{other} is an invalid volume type"))),
    };
    match ok {
        (true, _) => Ok(()),
        (false, what) => refuse(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let cases = [
            ("none", "", true),
            ("none", "Directory", false),
            ("none", "File", false),
            ("file", "File", true),
            ("file", "Directory", false),
            ("file", "Socket", false),
            (".", "Directory", true),
            ("new", "DirectoryOrCreate", true),
            ("newfile", "FileOrCreate", true),
            ("file", "DirectoryOrCreate", false),
            ("file", "Nonsense", false),
        ];
        for (name, kind, expected) in cases {
            assert_eq!(
                check(&dir.path().join(name), kind).is_ok(),
                expected,
                "{name} {kind}"
            );
        }
        assert!(dir.path().join("new").is_dir() && dir.path().join("newfile").is_file());
    }
}
