//! From a CRI container to what libcontainer and our executor run: an OCI configuration, capabilities,
//! seccomp. Looking at the host (devices, mount sources, accounts) happens first, in [`host`]; the
//! configuration itself is a pure function of what was seen.

pub(crate) mod capabilities;
pub(crate) mod devices;
pub(crate) mod host;
pub(crate) mod resources;
pub(crate) mod seccomp;
pub(crate) mod seccomp_default;
pub(crate) mod spec;
mod syscalls;
pub(crate) mod user;
