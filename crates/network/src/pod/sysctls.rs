//! Settings of the host that had to be changed, remembered so that they can be put back.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use linux::namespace::{Namespaces, Net};

use super::records::write_atomically;
use crate::cleanup::CleanupError;

const FILE: &str = "sysctls.json";

/// Sets a value and remembers the one before, unless one is remembered already.
pub(super) fn set(
    namespaces: &dyn Namespaces,
    state: &Path,
    key: &str,
    value: &str,
) -> Result<(), CleanupError> {
    let before = namespaces.sysctl(&Net::Own, key)?;
    if before == value {
        return Ok(());
    }
    let mut remembered = load(state)?;
    if !remembered.contains_key(key) {
        // On disk first: a crash in between restores a value that was never changed, which is harmless.
        remembered.insert(key.to_owned(), before);
        save(state, &remembered)?;
    }
    Ok(namespaces.set_sysctl(&Net::Own, key, value)?)
}

/// Puts the remembered values back and forgets them.
pub(crate) fn restore(namespaces: &dyn Namespaces, state: &Path) -> Result<(), CleanupError> {
    for (key, value) in load(state)? {
        namespaces.set_sysctl(&Net::Own, &key, &value)?;
    }
    match std::fs::remove_file(state.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(broken(state, error)),
        _ => Ok(()),
    }
}

fn load(state: &Path) -> Result<BTreeMap<String, String>, CleanupError> {
    match std::fs::read(state.join(FILE)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| broken(state, error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(broken(state, error)),
    }
}

fn save(state: &Path, values: &BTreeMap<String, String>) -> Result<(), CleanupError> {
    let bytes = serde_json::to_vec(values).map_err(|error| broken(state, error.into()))?;
    write_atomically(&state.join(FILE), &bytes).map_err(|error| broken(state, error))
}

fn broken(state: &Path, source: io::Error) -> CleanupError {
    CleanupError::State {
        path: state.join(FILE).display().to_string(),
        source,
    }
}
