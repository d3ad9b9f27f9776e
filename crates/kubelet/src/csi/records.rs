//! What is written down about a volume before its driver is asked, so that any later kubelet can undo it.
//!
//! Files, names and places are upstream's: `vol_data.json` beside a volume's `mount`, and beside `globalmount`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::drivers::VolumeId;
use crate::error::{Error, Result};
use crate::paths::Paths;

const FILE: &str = "vol_data.json";
pub const PERSISTENT: &str = "Persistent";
pub const EPHEMERAL: &str = "Ephemeral";

/// The directory's name below a pod's volumes.
pub const PLUGIN: &str = "kubernetes.io/csi";

/// A volume as a pod has it, or (with fewer fields) as the node has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Record {
    pub driver_name: String,
    #[serde(rename = "volumeHandle")]
    pub handle: String,
    #[serde(rename = "specVolID", skip_serializing_if = "String::is_empty")]
    pub spec_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    #[serde(rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    pub attachment: String,
    #[serde(rename = "volumeLifecycleMode", skip_serializing_if = "String::is_empty")]
    pub lifecycle: String,
}

impl Record {
    pub fn id(&self) -> VolumeId {
        (self.driver_name.clone(), self.handle.clone())
    }

    pub fn is_persistent(&self) -> bool {
        self.lifecycle != EPHEMERAL
    }

    /// Writes it into `dir`, in one rename.
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
        let path = dir.join(FILE);
        let text = serde_json::to_vec(self).map_err(|e| Error::Pod(format!("a volume's record: {e}")))?;
        let beside = dir.join(".vol_data.json.new");
        std::fs::write(&beside, text).map_err(Error::file("write", &beside))?;
        std::fs::rename(&beside, &path).map_err(Error::file("write", &path))
    }

    /// Nothing when there is none; one that cannot be read is told, and counts as none.
    pub fn load(dir: &Path) -> Option<Self> {
        let path = dir.join(FILE);
        let text = std::fs::read(&path).ok()?;
        match serde_json::from_slice(&text) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a volume's record is damaged and is not used");
                None
            }
        }
    }

    /// Strikes it off, and `dir` with it.
    pub fn strike(dir: &Path) -> Result<()> {
        for path in [dir.join(FILE), dir.join(".vol_data.json.new")] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::file("remove", &path)(error));
                }
                _ => {}
            }
        }
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove", dir)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Where a volume is staged: `<root>/kubelet/plugins/kubernetes.io/csi/<driver>/<hash>/globalmount`.
pub fn staging(paths: &Paths, (driver, handle): &VolumeId) -> PathBuf {
    let hash = hex::encode(Sha256::digest(handle.as_bytes()));
    paths.csi_staging().join(driver).join(hash).join("globalmount")
}

/// The directories and records of the volumes of a pod.
pub fn of_pod(paths: &Paths, uid: &str) -> Vec<(PathBuf, Record)> {
    below(&paths.volumes(uid).join(PLUGIN.replace('/', "~")))
}

/// The directories and records of everything staged.
pub fn staged(paths: &Paths) -> Vec<(PathBuf, Record)> {
    children(&paths.csi_staging())
        .iter()
        .flat_map(|driver| below(driver))
        .collect()
}

/// Whether any pod but `except` has the volume.
pub fn is_used(paths: &Paths, id: &VolumeId, except: &Path) -> bool {
    children(&paths.pods()).iter().any(|pod| {
        let uid = pod.file_name().map(|n| n.to_string_lossy().into_owned());
        let volumes = uid.map(|uid| of_pod(paths, &uid)).into_iter().flatten();
        volumes
            .into_iter()
            .any(|(dir, record)| dir != except && record.is_persistent() && record.id() == *id)
    })
}

fn below(dir: &Path) -> Vec<(PathBuf, Record)> {
    children(dir)
        .into_iter()
        .filter_map(|path| Some((path.clone(), Record::load(&path)?)))
        .collect()
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries.filter_map(|e| e.ok()).map(|e| e.path()).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_tell_who_uses_a_volume() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let record = Record {
            driver_name: "d".into(),
            handle: "h".into(),
            spec_name: "pv".into(),
            lifecycle: PERSISTENT.into(),
            ..Record::default()
        };
        let at = |uid: &str| paths.volume(uid, PLUGIN, "pv");
        record.save(&at("1")).unwrap();
        let text = std::fs::read_to_string(at("1").join(FILE)).unwrap();
        assert!(text.contains(r#""specVolID":"pv""#) && text.contains(r#""volumeHandle":"h""#));
        assert!(!is_used(&paths, &record.id(), &at("1")));
        record.save(&at("2")).unwrap();
        assert!(is_used(&paths, &record.id(), &at("1")));
        Record::strike(&at("2")).unwrap();
        assert!(!at("2").exists() && !is_used(&paths, &record.id(), &at("1")));
        std::fs::write(at("1").join(FILE), "{").unwrap();
        assert!(of_pod(&paths, "1").is_empty(), "a damaged record is none");
    }
}
