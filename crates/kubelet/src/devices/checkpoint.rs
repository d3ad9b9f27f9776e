//! Who holds which devices, on disk. A file that is damaged is told of and put aside.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::state::{Held, Holder, State};
use crate::error::{Error, Result};

const FILE: &str = "kijabi_devices_checkpoint";

#[derive(Serialize, Deserialize)]
struct File {
    data: Data,
    /// Of the data as it is written here.
    checksum: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Data {
    held: Vec<(Holder, BTreeMap<String, Held>)>,
    /// Resources there were plugins for.
    resources: Vec<String>,
}

/// Nothing when there is nothing.
pub(super) fn load(dir: &Path) -> State {
    let path = dir.join(FILE);
    let Ok(text) = std::fs::read(&path) else {
        return State::default();
    };
    let read = serde_json::from_slice::<File>(&text)
        .ok()
        .filter(|file| sum(&file.data).is_ok_and(|sum| sum == file.checksum));
    match read {
        Some(file) => State {
            held: file.data.held.into_iter().collect(),
            resources: file
                .data
                .resources
                .into_iter()
                .map(|r| (r, BTreeMap::new()))
                .collect(),
        },
        None => {
            let aside = dir.join(format!("{FILE}.damaged"));
            tracing::warn!(path = %path.display(), aside = %aside.display(), "the record of who holds devices is damaged and is put aside");
            if let Err(error) = std::fs::rename(&path, &aside) {
                tracing::warn!(%error, "cannot put it aside");
            }
            State::default()
        }
    }
}

pub(super) fn save(dir: &Path, state: &State) -> Result<()> {
    let data = Data {
        held: state.held.clone().into_iter().collect(),
        resources: state.resources.keys().cloned().collect(),
    };
    let failed = |e: serde_json::Error| Error::Pod(format!("the record of who holds devices: {e}"));
    let checksum = sum(&data).map_err(failed)?;
    let text = serde_json::to_vec(&File { data, checksum }).map_err(failed)?;
    std::fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
    let (path, beside) = (dir.join(FILE), dir.join(format!("{FILE}.new")));
    std::fs::write(&beside, text).map_err(Error::file("write", &beside))?;
    std::fs::rename(&beside, &path).map_err(Error::file("write", &path))
}

fn sum(data: &Data) -> serde_json::Result<String> {
    let text = serde_json::to_vec(data)?;
    Ok(hex::encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::default();
        state.resources.insert("x/y".into(), BTreeMap::new());
        let holder = Holder {
            pod: "p".into(),
            container: "c".into(),
        };
        let held = Held {
            devices: ["1".to_owned()].into(),
            answer: vec![1, 2],
        };
        state
            .held
            .insert(holder, BTreeMap::from([("x/y".to_owned(), held)]));
        save(dir.path(), &state).unwrap();
        assert_eq!(load(dir.path()), state);
        let path = dir.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap().replace("\"p\"", "\"q\"");
        std::fs::write(&path, text).unwrap();
        assert_eq!(load(dir.path()), State::default());
        assert!(!path.exists() && dir.path().join(format!("{FILE}.damaged")).exists());
    }
}
