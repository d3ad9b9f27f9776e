//! The last steps inside the container before the payload runs: seccomp, capabilities, exec.
//!
//! libcontainer would drop the capabilities itself, but before it hands over; without `no_new_privs` a
//! seccomp filter can only be installed with `CAP_SYS_ADMIN`, so both are done here, in runc's order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use super::files;
use crate::images::errno_text;

/// The process's final rights, as bit sets; the file `security.json` in the container's directory. An exec
/// gets those of its container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Security {
    pub bounding: u64,
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub ambient: u64,
    pub no_new_privs: bool,
}

#[derive(Clone)]
pub(super) struct Payload {
    security: Security,
    seccomp: Option<Rc<[u8]>>,
    /// Tells the helper why the payload could not run; closed by a successful exec.
    failure: Rc<File>,
}

impl Payload {
    /// Reads the rights from the container's directory, while it can still be seen.
    pub(super) fn load(dir: &Path, failure: File) -> io::Result<Self> {
        let security = serde_json::from_slice(&std::fs::read(dir.join(files::SECURITY))?)?;
        let seccomp = match std::fs::read(dir.join(files::SECCOMP)) {
            Ok(program) => Some(program.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Payload {
            security,
            seccomp,
            failure: Rc::new(failure),
        })
    }

    fn run(&self, spec: &Spec) -> String {
        let process = spec.process().as_ref();
        let args = process.and_then(|p| p.args().as_deref()).unwrap_or_default();
        let env = process.and_then(|p| p.env().as_deref()).unwrap_or_default();
        let Some(name) = args.first() else {
            return "no command specified".to_owned();
        };
        let path = match look_path(name, env) {
            Ok(path) => path,
            Err(message) => return format!("exec: {name:?}: {message}"),
        };
        if let Err(error) = self.confine() {
            return format!("set capabilities and seccomp: {error}");
        }
        // `exec` also gives back the default disposition of SIGPIPE and an empty signal mask.
        let error = Command::new(&path)
            .arg0(name)
            .args(&args[1..])
            .env_clear()
            .envs(
                env.iter()
                    .map(|entry| entry.split_once('=').unwrap_or((entry, ""))),
            )
            .exec();
        format!("exec {}: {}", path.display(), errno_text(&error))
    }

    fn confine(&self) -> io::Result<()> {
        let seccomp = || match &self.seccomp {
            Some(program) => linux::seccomp::install(program).map_err(io::Error::other),
            None => Ok(()),
        };
        if self.security.no_new_privs {
            self.limit_capabilities()?;
            seccomp()
        } else {
            seccomp()?;
            self.limit_capabilities()
        }
    }

    fn limit_capabilities(&self) -> io::Result<()> {
        let bounding = CapabilitySet::from_bits_retain(self.security.bounding);
        for bit in 0..=63_u32 {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            if bounding.contains(one) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // Past the last capability this kernel knows.
                Err(rustix::io::Errno::INVAL) => break,
                Err(error) => return Err(error.into()),
            }
        }
        rustix::thread::clear_ambient_capability_set()?;
        let set = CapabilitySet::from_bits_retain;
        rustix::thread::set_capabilities(
            None,
            CapabilitySets {
                effective: set(self.security.effective),
                permitted: set(self.security.permitted),
                inheritable: set(self.security.inheritable),
            },
        )?;
        for bit in 0..=63_u32 {
            if self.security.ambient & (1 << bit) != 0 {
                rustix::thread::configure_capability_in_ambient_set(set(1 << bit), true)?;
            }
        }
        Ok(())
    }
}

impl Executor for Payload {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let message = self.run(spec);
        // If nobody listens any more there is nobody left to tell.
        (&*self.failure).write_all(message.as_bytes()).ok();
        Err(ExecutorError::Other(message))
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // `run` starts from an empty environment.
        Ok(())
    }
}

/// Finds the payload as Go's `exec.LookPath` does, whose words users know.
fn look_path(name: &str, env: &[String]) -> Result<PathBuf, String> {
    if name.contains('/') {
        return executable(Path::new(name))
            .map(|()| PathBuf::from(name))
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => format!("stat {name}: no such file or directory"),
                _ => errno_text(&error),
            });
    }
    let path = env
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default();
    let found = path
        .split(':')
        .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name));
    found
        .into_iter()
        .find(|candidate| executable(candidate).is_ok())
        .ok_or_else(|| "executable file not found in $PATH".to_owned())
}

fn executable(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(rustix::io::Errno::ISDIR.into());
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(rustix::io::Errno::ACCESS.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_payload_is_reported_in_known_words() {
        let env = ["PATH=/nonexistent".to_owned()];
        assert_eq!(
            look_path("nope", &env).unwrap_err(),
            "executable file not found in $PATH"
        );
        assert_eq!(
            look_path("/nope", &env).unwrap_err(),
            "stat /nope: no such file or directory"
        );
        assert_eq!(look_path("/etc/passwd", &env).unwrap_err(), "permission denied");
        assert_eq!(look_path("/", &env).unwrap_err(), "is a directory");
        let env = ["PATH=/nonexistent::/bin".to_owned()];
        assert_eq!(look_path("sh", &env).unwrap(), Path::new("/bin/sh"));
    }
}
