//! Namespaces of the recording fake.

use std::path::{Path, PathBuf};

use super::{Recorder, refused};
use crate::Result;
use crate::namespace::{Namespace, Namespaces, Net};

impl Namespaces for Recorder {
    fn create(&self, kind: Namespace, path: &Path) -> Result<()> {
        self.call(
            format!("namespace {kind:?} {}", path.display()).to_lowercase(),
            |state| {
                state.namespaces.insert(path.to_path_buf());
                Ok(())
            },
        )
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.call(format!("remove-namespace {}", path.display()), |state| {
            state.namespaces.remove(path);
            state.sysctls.retain(|(net, _), _| net != path);
            Ok(())
        })
    }

    fn is_kept(&self, path: &Path) -> Result<bool> {
        Ok(self.state.lock().namespaces.contains(path))
    }

    fn sysctl(&self, net: &Net, key: &str) -> Result<String> {
        let found = self
            .state
            .lock()
            .sysctls
            .get(&(place(net), key.to_owned()))
            .cloned();
        found.ok_or_else(|| refused(&format!("sysctl {key}"), libc::ENOENT))
    }

    fn set_sysctl(&self, net: &Net, key: &str, value: &str) -> Result<()> {
        let at = place(net);
        self.call(format!("sysctl {} {key}={value}", at.display()), |state| {
            state
                .sysctls
                .insert((at.clone(), key.to_owned()), value.to_owned());
            Ok(())
        })
    }
}

fn place(net: &Net) -> PathBuf {
    match net {
        Net::Own => PathBuf::from("own"),
        Net::At(path) => path.clone(),
    }
}
