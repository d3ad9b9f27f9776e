//! One installation on this machine: its data directory, its lock and the id that its links, tables and
//! cgroups carry.
//!
//! **Invariant:** the id depends on the data directory alone, so whoever knows the directory (`kijabi down`,
//! a restarted `kijabi up`) finds everything the instance made, and two instances never share a name.

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Where an instance keeps its things, and what it is called on the host.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    root: PathBuf,
    id: String,
}

/// What a running instance tells `status`, `down` and `image` about itself; stands in `<data-dir>/instance.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Running {
    pub pid: u32,
    pub version: String,
    pub node_name: String,
    pub api_server: String,
    pub kubeconfig: PathBuf,
    pub cluster_cidr: String,
    pub service_cidr: String,
}

/// Held for as long as the process uses the data directory; the kernel lets go of it with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Instance {
    /// The instance at `data_dir`, which is created when missing.
    pub(crate) fn create(data_dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("cannot create the data directory {}", data_dir.display()))?;
        Self::open(data_dir)
    }

    /// The instance at an existing `data_dir`.
    pub(crate) fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let root = data_dir
            .canonicalize()
            .with_context(|| format!("no data directory at {}", data_dir.display()))?;
        let id = instance_id(&root);
        Ok(Self { root, id })
    }

    /// Six hexadecimal digits; short, because a link name holds fifteen bytes.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// State of the API server: store, certificates, keys.
    pub(crate) fn server(&self) -> PathBuf {
        self.root.join("server")
    }

    /// State of the node: images, pods, sockets. Can be rebuilt.
    pub(crate) fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    pub(crate) fn cri_socket(&self) -> PathBuf {
        self.agent().join("cri.sock")
    }

    /// Takes the data directory for this process.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.root.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("the data directory {} is not writable", self.root.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // The pid only makes the message better; an unreadable one is left out of it.
                let owner = match file.read_to_string(&mut pid) {
                    Ok(_) if !pid.trim().is_empty() => format!(" (pid {})", pid.trim()),
                    _ => String::new(),
                };
                bail!(
                    "another kijabi{owner} already uses the data directory {}; stop it first, or choose another \
                     with --data-dir",
                    self.root.display()
                );
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()))
            .with_context(|| {
                format!(
                    "the data directory {} cannot be written (full or read-only?)",
                    self.root.display()
                )
            })?;
        Ok(Lock { _file: file })
    }

    /// Whether a process holds the lock now.
    pub(crate) fn is_running(&self) -> bool {
        File::open(self.root.join("lock"))
            .is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
    }

    pub(crate) fn write_running(&self, running: &Running) -> anyhow::Result<()> {
        write_atomically(
            &self.root.join("instance.json"),
            &serde_json::to_vec_pretty(running)?,
            0o644,
        )
    }

    /// What the last (or present) `up` said of itself.
    pub(crate) fn read_running(&self) -> anyhow::Result<Option<Running>> {
        let path = self.root.join("instance.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} is damaged; remove it and start kijabi again", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

/// Writes a whole file or nothing: a crash in between leaves the old one.
pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let parent = path
        .parent()
        .context("a path with a parent directory is needed")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// FNV-1a of the path, folded to 24 bits.
fn instance_id(root: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let hash = root
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{:06x}", (hash ^ (hash >> 24) ^ (hash >> 48)) & 0x00ff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_follows_the_directory_and_nothing_else() {
        let a = tempfile::tempdir().unwrap();
        let b = tempfile::tempdir().unwrap();
        let first = Instance::create(a.path()).unwrap();
        let again = Instance::open(&a.path().join(".")).unwrap();
        let other = Instance::create(b.path()).unwrap();
        assert_eq!(first.id(), again.id());
        assert_ne!(first.id(), other.id());
        assert_eq!(first.id().len(), 6);
    }

    #[test]
    fn a_second_lock_is_refused_and_names_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::create(dir.path()).unwrap();
        assert!(!instance.is_running());
        let lock = instance.lock().unwrap();
        assert!(instance.is_running());
        let error = instance.lock().unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains("--data-dir"), "{error}");
        drop(lock);
        instance.lock().unwrap();
    }
}
