//! What a container's configuration needs to know of the host: mount sources and device nodes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cri::v1::{Device, MountPropagation};
use linux::mount::MountInfo;

/// A mount whose source was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedMount {
    pub(crate) target: String,
    pub(crate) source: PathBuf,
    pub(crate) readonly: bool,
    pub(crate) recursive_read_only: bool,
    pub(crate) propagation: MountPropagation,
}

/// A device node to make in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceNode {
    pub(crate) path: String,
    /// `c` or `b`.
    pub(crate) kind: &'static str,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) access: String,
}

/// The source of a CRI mount. A missing one becomes a directory, as containerd has it.
pub(crate) fn mount_source(path: &str) -> Result<PathBuf, String> {
    let path = Path::new(path);
    if !path.exists() {
        fs::create_dir_all(path)
            .map_err(|error| format!("failed to create directory {}: {error}", path.display()))?;
    }
    path.canonicalize()
        .map_err(|error| format!("failed to resolve symlink {:?}: {error}", path.display()))
}

/// A mount can only spread back to the host from a place whose mounts spread.
pub(crate) fn check_propagation(
    source: &Path,
    propagation: MountPropagation,
    table: &[MountInfo],
) -> Result<(), String> {
    let holder = table
        .iter()
        .rev()
        .filter(|mount| source.starts_with(&mount.target))
        .max_by_key(|mount| mount.target.as_os_str().len());
    let Some(holder) = holder else { return Ok(()) };
    let spreads_down =
        holder.is_shared() || holder.propagation.iter().any(|mark| mark.starts_with("master:"));
    let (path, place) = (source.display(), holder.target.display());
    match propagation {
        MountPropagation::PropagationBidirectional if !holder.is_shared() => Err(format!(
            "path {path:?} is mounted on {place:?} but it is not a shared mount"
        )),
        MountPropagation::PropagationHostToContainer if !spreads_down => Err(format!(
            "path {path:?} is mounted on {place:?} but it is not a shared or slave mount"
        )),
        _ => Ok(()),
    }
}

/// The nodes for a CRI device: one, or those in a directory.
pub(crate) fn devices(device: &Device) -> Result<Vec<DeviceNode>, String> {
    let host = Path::new(&device.host_path)
        .canonicalize()
        .map_err(|error| format!("failed to find device {:?}: {error}", device.host_path))?;
    let access = if device.permissions.is_empty() {
        "rwm"
    } else {
        &device.permissions
    };
    if !host.is_dir() {
        let node = node(&host, &device.container_path, access);
        return node
            .map(|node| vec![node])
            .ok_or_else(|| format!("{:?} is not a device node", device.host_path));
    }
    let entries =
        fs::read_dir(&host).map_err(|error| format!("failed to list {:?}: {error}", device.host_path))?;
    let named = entries.filter_map(Result::ok).filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        node(
            &entry.path(),
            &format!("{}/{name}", device.container_path),
            access,
        )
    });
    Ok(named.collect())
}

/// Every device node under `/dev`, for a privileged container; without those that each container has its
/// own of.
pub(crate) fn all_devices() -> Vec<DeviceNode> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), &mut found);
    found
}

fn collect(dir: &Path, found: &mut Vec<DeviceNode>) {
    const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".udev", "console"];
    // Made in every container anyway.
    const DEFAULT: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", "ptmx"];
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(name) = name
            .to_str()
            .filter(|name| !OWN.contains(name) && !DEFAULT.contains(name))
        else {
            continue;
        };
        let Ok(kind) = entry.file_type() else { continue };
        let path = dir.join(name);
        if kind.is_dir() {
            collect(&path, found);
        } else if let Some(text) = path.to_str() {
            found.extend(node(&path, text, "rwm"));
        }
    }
}

fn node(host: &Path, path: &str, access: &str) -> Option<DeviceNode> {
    let metadata = fs::symlink_metadata(host).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return None,
    };
    Some(DeviceNode {
        path: path.to_owned(),
        kind,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_spreads_only_from_a_place_that_does() {
        let text = "1 0 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:2 / /shared rw shared:1 - tmpfs tmpfs rw\n";
        let table = linux::mount::parse_mountinfo(text);
        let check = |path: &str, propagation| check_propagation(Path::new(path), propagation, &table);
        assert!(check("/shared/x", MountPropagation::PropagationBidirectional).is_ok());
        assert!(check("/x", MountPropagation::PropagationPrivate).is_ok());
        assert_eq!(
            check("/x", MountPropagation::PropagationBidirectional).unwrap_err(),
            r#"path "/x" is mounted on "/" but it is not a shared mount"#
        );
    }

    #[test]
    fn devices_are_found() {
        let null = Device {
            host_path: "/dev/null".into(),
            container_path: "/dev/x".into(),
            permissions: "r".into(),
        };
        let found = devices(&null).unwrap();
        assert_eq!((found[0].kind, found[0].major, found[0].minor), ("c", 1, 3));
        let missing = Device {
            host_path: "/dev/nope".into(),
            ..Default::default()
        };
        assert!(devices(&missing).is_err());
    }
}
