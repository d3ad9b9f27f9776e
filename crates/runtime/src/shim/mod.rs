//! The shim: one small process per pod that outlives the runtime.
//!
//! ```text
//!  kijabi (runtime) ── unix socket ──► shim ─┬─ container A        holds: net, ipc, uts namespaces
//!     starts, kills, attaches                ├─ container B               log pipes and terminals
//!     hears of exits                         └─ exec in A                 exit codes, on disk
//! ```
//!
//! It is our own executable started again as `kijabi shim pod`, in the pod's directory. It has one thread,
//! waits in `poll` and never polls. What needs memory or rights beyond that (libcontainer) runs in a
//! short-lived helper, `kijabi shim container` or `kijabi shim exec`: the helper asks for its children to be
//! the shim's, so the container hangs off the shim and the helper's memory is given back.
//!
//! libcontainer must not clone from a process with threads, which is why the runtime itself never does.

mod children;
pub(crate) mod client;
mod executor;
mod launch;
mod links;
pub(crate) mod log;
mod pause;
mod pod;
pub(crate) mod protocol;
mod server;
mod stdio;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

pub(crate) use executor::Security;

/// Names of files in a pod's directory, and in those of its containers and their execs.
pub(crate) mod files {
    pub(crate) const SANDBOX: &str = "sandbox.json";
    pub(crate) const SOCKET: &str = "shim.sock";
    /// How a container ended.
    pub(crate) const EXIT: &str = "exit.json";
    /// The OCI configuration.
    pub(crate) const CONFIG: &str = "config.json";
    /// Capabilities and seccomp, applied by the executor.
    pub(crate) const SECURITY: &str = "security.json";
    pub(crate) const SECCOMP: &str = "seccomp.bpf";
    /// The OCI process of an exec.
    pub(crate) const PROCESS: &str = "process.json";
    /// What the helper came to.
    pub(super) const OUTCOME: &str = "outcome.json";
    pub(super) const CONSOLE: &str = "console.sock";
    /// libcontainer's own state.
    pub(super) const OCI_STATE: &str = "oci";
    pub(crate) const EXECS: &str = "exec";
}

/// The hidden subcommand `shim`: `args` is what follows that word.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let words: Vec<&Path> = args.iter().map(Path::new).collect();
    match words.as_slice() {
        [mode] if *mode == Path::new("pod") => pod::main(),
        [mode, dir, adj] if *mode == Path::new("container") => launch::container(dir, adj.to_str()),
        [mode, dir, exec_dir] if *mode == Path::new("exec") => launch::exec(dir, exec_dir),
        [mode] if *mode == Path::new("pause-launch") => pause::launch(),
        [mode] if *mode == Path::new("pause") => pause::main(),
        _ => {
            eprintln!("this command is the runtime's own; it is not for use by hand");
            ExitCode::from(2)
        }
    }
}
