//! What a runtime is told at its start.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::images::Registries;

#[derive(Clone, Debug)]
pub struct Config {
    /// Everything the runtime keeps: images, pods, mounts.
    pub root: PathBuf,
    /// Where CRI is served.
    pub socket: PathBuf,
    /// Tells this instance's things on the host from others'.
    pub instance: String,
    /// Our own executable and the words that lead to [`crate::shim::main`].
    pub shim_command: Vec<OsString>,
    pub registries: Registries,
    pub version: String,
}

impl Config {
    /// The usual one: the shim is this executable, started again with the word `shim`.
    pub fn new(root: impl Into<PathBuf>, socket: impl Into<PathBuf>, instance: impl Into<String>) -> Config {
        Config {
            root: root.into(),
            socket: socket.into(),
            instance: instance.into(),
            shim_command: vec!["/proc/self/exe".into(), "shim".into()],
            registries: Registries::default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
