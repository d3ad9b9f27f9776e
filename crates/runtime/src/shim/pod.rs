//! How a shim comes to be: the pod's namespaces, then the socket, then one word to whoever started it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::protocol::SandboxSpec;
use super::{files, server};

/// What the shim prints when it serves; anything else is the reason why not.
pub(crate) const READY: &str = "ready";

/// `kijabi shim pod`, in the pod's directory.
pub(super) fn main() -> ExitCode {
    let started = prepare();
    let word = match &started {
        Ok(_) => READY.to_owned(),
        Err(message) => message.clone(),
    };
    // Whoever started us may have died since; the pod then waits to be adopted.
    writeln!(io::stdout(), "{word}")
        .and_then(|()| io::stdout().flush())
        .ok();
    let Ok(server) = started else {
        return ExitCode::FAILURE;
    };
    if silence().is_err() {
        return ExitCode::FAILURE;
    }
    server.run();
    ExitCode::SUCCESS
}

/// The words between the executable's name and the shim's own, to start it again with.
pub(super) fn self_args() -> Vec<OsString> {
    const MODES: [&str; 5] = ["pod", "container", "exec", "pause-launch", "pause"];
    std::env::args_os()
        .skip(1)
        .take_while(|word| !MODES.iter().any(|mode| word == mode))
        .collect()
}

fn prepare() -> Result<server::Server, String> {
    let text = fs::read(files::SANDBOX).map_err(|error| format!("read {}: {error}", files::SANDBOX))?;
    let spec: SandboxSpec =
        serde_json::from_slice(&text).map_err(|error| format!("read {}: {error}", files::SANDBOX))?;
    rustix::process::setsid().map_err(|error| format!("start a session: {error}"))?;
    // Orphans of containers that share the host's pid namespace come to us and not to the host's init.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| format!("become subreaper: {error}"))?;
    enter_namespaces(&spec)?;
    let pause_pid = match spec.shared_pid {
        true => Some(start_pause().map_err(|error| format!("start the pod's first process: {error}"))?),
        false => None,
    };
    // A socket left by a predecessor that was killed.
    fs::remove_file(files::SOCKET).ok();
    let listener = UnixListener::bind(files::SOCKET).map_err(|error| format!("listen: {error}"))?;
    server::Server::new(listener, pause_pid).map_err(|error| format!("serve: {error}"))
}

fn enter_namespaces(spec: &SandboxSpec) -> Result<(), String> {
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, spec.netns.is_some());
    flags.set(CloneFlags::CLONE_NEWIPC, spec.own_ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, spec.hostname.is_some());
    unshare(flags).map_err(|error| format!("make namespaces: {error}"))?;
    if let Some(path) = &spec.netns {
        loopback_up().map_err(|error| format!("bring up loopback: {error}"))?;
        keep_network(path)
            .map_err(|error| format!("keep the network namespace at {}: {error}", path.display()))?;
    }
    if let Some(hostname) = &spec.hostname {
        rustix::system::sethostname(hostname.as_bytes())
            .map_err(|error| format!("set hostname {hostname:?}: {error}"))?;
    }
    for (name, value) in &spec.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(&path, value).map_err(|error| format!("set sysctl {name}={value}: {error}"))?;
    }
    Ok(())
}

/// A bind mount outlives this process, so that the network can still be taken down in order.
fn keep_network(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    rustix::mount::mount_bind("/proc/self/ns/net", path)?;
    Ok(())
}

/// Sets link 1 up in the namespace just made: one netlink message, written out, because the shim has no use
/// for a netlink stack.
fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is number zero.
        None,
    )?;
    const NEW_LINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend_from_slice(&32_u32.to_ne_bytes());
    message.extend_from_slice(&NEW_LINK.to_ne_bytes());
    message.extend_from_slice(&REQUEST_AND_ACK.to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // sequence, port
    message.extend_from_slice(&[0; 4]); // family, type
    message.extend_from_slice(&1_i32.to_ne_bytes()); // loopback is the first link of every namespace
    message.extend_from_slice(&UP.to_ne_bytes());
    message.extend_from_slice(&UP.to_ne_bytes());
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0_u8; 512];
    let (received, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let Some(code) = answer[..received].get(16..20) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(-errno)),
    }
}

fn start_pause() -> io::Result<i32> {
    let output = Command::new("/proc/self/exe")
        .args(self_args())
        .arg("pause-launch")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .env_clear()
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .parse()
        .map_err(|_| io::Error::other(text.trim().to_owned()))
}

/// Lets go of the starter's pipes and terminal.
fn silence() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
