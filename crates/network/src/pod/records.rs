//! What is known about each wired sandbox, on disk: one small file a sandbox.
//!
//! **Invariant:** the record is on disk before anything is made in the kernel, and gone only after all of
//! it is; a crash at any point leaves a record that `teardown` can work from.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) sandbox: String,
    /// `namespace/name` of the pod, for people who look.
    pub(super) pod: String,
    pub(super) net: PathBuf,
    pub(super) veth: String,
    pub(super) ips: Vec<IpAddr>,
    #[serde(default)]
    pub(super) host_ports: Vec<HostPort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostPort {
    /// Any of the host's addresses when `None`.
    pub(super) host_ip: Option<IpAddr>,
    /// The transport protocol's number.
    pub(super) proto: u8,
    pub(super) host_port: u16,
    pub(super) container_port: u16,
}

/// The directory of records.
#[derive(Clone, Debug)]
pub(super) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(super) fn open(state: &Path) -> io::Result<Self> {
        let dir = state.join("pods");
        fs::create_dir_all(&dir)?;
        Ok(Records { dir })
    }

    /// All records by sandbox; a file that cannot be understood is told about and removed, since what it
    /// stood for is found again by the names of the links.
    pub(super) fn load(&self) -> io::Result<HashMap<String, Record>> {
        let mut found = HashMap::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match fs::read(&path).map(|bytes| serde_json::from_slice::<Record>(&bytes)) {
                Ok(Ok(record)) => {
                    found.insert(record.sandbox.clone(), record);
                }
                Ok(Err(error)) => {
                    tracing::warn!(path = %path.display(), %error, "unreadable pod network record removed");
                    fs::remove_file(&path)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    pub(super) fn save(&self, record: &Record) -> io::Result<()> {
        let bytes = serde_json::to_vec(record)?;
        // Recording again after a `cleanup` that took the directory away must work.
        fs::create_dir_all(&self.dir)?;
        write_atomically(&self.path(&record.sandbox), &bytes)
    }

    pub(super) fn remove(&self, sandbox: &str) -> io::Result<()> {
        match fs::remove_file(self.path(sandbox)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, sandbox: &str) -> PathBuf {
        // Ids are made by the runtime, but a path is no place for trust.
        let safe: String = sandbox
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '-' {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        self.dir.join(format!("{safe}.json"))
    }
}

/// Old or new content, never half of it, even after `kill -9`.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}
