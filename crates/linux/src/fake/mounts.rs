//! Mounts of the recording fake.

use std::path::Path;

use super::{Recorder, refused};
use crate::Result;
use crate::mount::{Depth, Mount, MountInfo, Mounts, Unmount};

impl Mounts for Recorder {
    fn mount(&self, mount: &Mount) -> Result<()> {
        let target = mount.target().to_path_buf();
        let (line, made) = match mount {
            Mount::Bind { source, depth, .. } => {
                let verb = if *depth == Depth::Recursive {
                    "rbind"
                } else {
                    "bind"
                };
                (
                    format!("{verb} {} {}", source.display(), target.display()),
                    Some(("none".into(), source.display().to_string())),
                )
            }
            Mount::Filesystem {
                kind,
                source,
                flags,
                data,
                ..
            } => (
                format!("mount {kind} {source} {} {flags:?} {data}", target.display()),
                Some((kind.clone(), source.clone())),
            ),
            Mount::Overlay {
                lower,
                upper,
                options,
                ..
            } => (
                format!(
                    "overlay {lower:?} {:?} {} {options}",
                    upper.as_ref().map(|u| &u.dir),
                    target.display()
                ),
                Some(("overlay".into(), "overlay".into())),
            ),
            Mount::RemountBind { flags, .. } => {
                (format!("remount-bind {} {flags:?}", target.display()), None)
            }
            Mount::Remount { flags, data, .. } => {
                (format!("remount {} {flags:?} {data}", target.display()), None)
            }
            Mount::Propagate {
                propagation, depth, ..
            } => (
                format!("propagate {} {propagation:?} {depth:?}", target.display()),
                None,
            ),
            Mount::Move { source, .. } => (format!("move {} {}", source.display(), target.display()), None),
        };
        self.call(line, |state| {
            if let Some((kind, source)) = made {
                let id = state.mounts.len() as u32 + 1;
                state.mounts.push(MountInfo {
                    id,
                    parent: 0,
                    device: (0, id),
                    root: "/".into(),
                    target,
                    options: vec!["rw".into()],
                    propagation: Vec::new(),
                    kind,
                    source,
                    super_options: Vec::new(),
                });
            } else if let Mount::Move { source, target } = mount {
                for entry in state.mounts.iter_mut().filter(|m| m.target == *source) {
                    entry.target = target.clone();
                }
            } else if let Some(entry) = state.mounts.iter_mut().rev().find(|m| m.target == target)
                && let Mount::RemountBind { flags, .. } = mount
                && flags.contains(crate::mount::MountFlags::RDONLY)
            {
                entry.options = vec!["ro".into()];
            }
            Ok(())
        })
    }

    fn unmount(&self, target: &Path, how: Unmount) -> Result<bool> {
        let line = format!(
            "unmount {} {}",
            target.display(),
            format!("{how:?}").to_lowercase()
        );
        self.call(line, |state| {
            let found = state.mounts.iter().rposition(|m| m.target == target);
            Ok(found.map(|at| state.mounts.remove(at)).is_some())
        })
    }

    fn table(&self) -> Result<Vec<MountInfo>> {
        Ok(self.state.lock().mounts.clone())
    }

    fn is_mount_point(&self, path: &Path) -> Result<bool> {
        Ok(self.state.lock().mounts.iter().any(|m| m.target == path))
    }

    fn set_read_only_recursive(&self, target: &Path) -> Result<()> {
        let line = format!("read-only-recursive {}", target.display());
        self.call(line.clone(), |state| {
            let mut found = false;
            for entry in state.mounts.iter_mut().filter(|m| m.target.starts_with(target)) {
                entry.options = vec!["ro".into()];
                found = true;
            }
            if found {
                Ok(())
            } else {
                Err(refused(&line, libc::EINVAL))
            }
        })
    }
}
