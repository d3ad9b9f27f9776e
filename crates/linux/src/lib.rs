//! Everything that talks to the kernel, and the only crate that may hold `unsafe`.
//!
//! Each area is a module with plain data types, a `dyn` trait for what can be asked of the kernel, and
//! one implementation, [`Kernel`]. [`fake::Recorder`] implements the same traits in memory, so that the
//! crates above are tested without root.
//!
//! | module | trait | what it holds |
//! |---|---|---|
//! | [`mount`] | [`mount::Mounts`] | mounts, overlay, mount table |
//! | [`namespace`] | [`namespace::Namespaces`] | persistent namespaces, sysctls inside them |
//! | [`cgroup`] | [`cgroup::Cgroups`] | cgroups v1 and v2 |
//! | [`process`] | [`process::Processes`] | pidfds, signals, OOM score, limits |
//! | [`netlink`] | [`netlink::Links`] | links, addresses, routes, neighbours |
//! | [`nftables`] | [`nftables::Ruleset`] | nf_tables batches and dumps |
//! | [`conntrack`] | [`conntrack::Conntrack`] | deleting tracked connections |
//! | [`check`] | – | what this kernel can do, in plain words |
//!
//! **Invariant:** no external program is ever run, and nothing here remembers state that the kernel
//! holds: everything can be found again after a crash.

pub mod beneath;
pub mod cgroup;
pub mod check;
pub mod conntrack;
mod error;
pub mod fake;
pub mod filesystem;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod nftables;
pub mod process;
pub mod seccomp;
pub mod watch;

pub use error::{Error, Result};

/// The running kernel: the one real implementation of every trait of this crate.
///
/// Cheap to make and to copy; what needs a connection or a probe (netlink sockets, cgroup hierarchies)
/// has a type of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;
