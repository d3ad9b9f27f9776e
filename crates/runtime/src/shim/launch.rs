//! The helper processes around libcontainer: start a container, or one more process in it, as a child of
//! the shim, write down what came of it, and exit.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use serde::{Deserialize, Serialize};

use super::executor::Payload;
use super::files;
use crate::images::describe;

/// What a helper came to; read by the shim when the helper has exited.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Outcome {
    Started { pid: i32 },
    Failed { message: String },
}

impl Outcome {
    /// Reads and removes the outcome in `dir`.
    pub(super) fn take(dir: &Path) -> Outcome {
        let path = dir.join(files::OUTCOME);
        let outcome = std::fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
        // Left behind it would only be overwritten by the next one.
        std::fs::remove_file(&path).ok();
        outcome.unwrap_or_else(|error| Outcome::Failed {
            message: format!("the helper process ended without a result: {error}"),
        })
    }
}

pub(super) fn container(dir: &Path, oom_score_adj: Option<&str>) -> ExitCode {
    finish(dir, start(dir, oom_score_adj))
}

pub(super) fn exec(dir: &Path, exec_dir: &Path) -> ExitCode {
    finish(exec_dir, join(dir, exec_dir))
}

fn finish(dir: &Path, result: Result<i32, String>) -> ExitCode {
    let outcome = match result {
        Ok(pid) => Outcome::Started { pid },
        Err(message) => Outcome::Failed { message },
    };
    // `Outcome` always serializes; a write that fails leaves no file, which the shim reports.
    let text = serde_json::to_vec(&outcome).unwrap_or_default();
    match std::fs::write(dir.join(files::OUTCOME), text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn start(dir: &Path, oom_score_adj: Option<&str>) -> Result<i32, String> {
    let (failure, payload) = payload(dir).map_err(|error| format!("read the security settings: {error}"))?;
    let mut container = builder(dir, dir, payload)?
        .as_init(dir)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(|error| describe(&error))?;
    let pid = container
        .pid()
        .ok_or("libcontainer reported no process")?
        .as_raw();
    if let Some(adj) = oom_score_adj.filter(|adj| !adj.is_empty()) {
        // Lowering it needs CAP_SYS_RESOURCE, which a nested node lacks; the container runs without.
        std::fs::write(format!("/proc/{pid}/oom_score_adj"), adj).ok();
    }
    container.start().map_err(|error| describe(&error))?;
    reported(failure)?;
    Ok(pid)
}

fn join(dir: &Path, exec_dir: &Path) -> Result<i32, String> {
    let (failure, payload) = payload(dir).map_err(|error| format!("read the security settings: {error}"))?;
    let built = builder(dir, exec_dir, payload)?
        .as_tenant()
        .with_process(Some(exec_dir.join(files::PROCESS)))
        .with_detach(true)
        .as_sibling(true)
        .build();
    reported(failure)?;
    built.map(|pid| pid.as_raw()).map_err(|error| describe(&error))
}

fn payload(dir: &Path) -> io::Result<(File, Payload)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((File::from(reader), Payload::load(dir, File::from(writer))?))
}

/// `dir` is the container's; `process_dir` may hold a socket that wants the terminal.
fn builder(dir: &Path, process_dir: &Path, payload: Payload) -> Result<ContainerBuilder, String> {
    let id = dir
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or("the container directory has no name")?;
    let console = process_dir.join(files::CONSOLE);
    let console = console.exists().then_some(console);
    ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(dir.join(files::OCI_STATE))
        .map_err(|error| describe(&error))
        .map(|builder| builder.with_executor(payload).with_console_socket(console))
}

/// Waits until the payload runs or says why it cannot.
fn reported(mut failure: File) -> Result<(), String> {
    let mut message = String::new();
    failure
        .read_to_string(&mut message)
        .map_err(|error| error.to_string())?;
    match message.is_empty() {
        true => Ok(()),
        false => Err(message),
    }
}
