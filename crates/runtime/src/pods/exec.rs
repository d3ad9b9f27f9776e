//! More processes in a container, and more eyes on the one it has.

use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use cri::v1::{ExecSyncRequest, ExecSyncResponse};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tonic::Status;

use super::Engine;
use super::engine::{internal, new_id};
use super::state::{Container, ContainerState, read_json};
use crate::oci::spec;
use crate::shim::client::Exec;
use crate::shim::files;
use crate::shim::protocol::Request;

/// No more of either output is kept of an exec that is waited for; containerd's figure.
const OUTPUT_LIMIT: u64 = 16 << 20;

/// A process started in a container with somebody at its streams.
pub(crate) struct ExecStreams {
    pub(crate) id: String,
    pub(crate) process: Exec,
    pub(crate) stdin: Option<pipe::Sender>,
    pub(crate) stdout: Option<pipe::Receiver>,
    pub(crate) stderr: Option<pipe::Receiver>,
}

/// Which streams somebody wants.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl Engine {
    pub(crate) async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Status> {
        let container = self.running(&request.container_id)?;
        let wanted = Wanted {
            stdin: false,
            stdout: true,
            stderr: true,
        };
        let mut exec = self.exec(&container, &request.cmd, false, wanted).await?;
        let output = (capture(exec.stdout.take()), capture(exec.stderr.take()));
        let run = async {
            let (stdout, stderr, code) = tokio::join!(output.0, output.1, exec.process.wait());
            code.map(|code| (stdout, stderr, code))
        };
        let result = match u64::try_from(request.timeout) {
            Ok(seconds) if seconds > 0 => match tokio::time::timeout(Duration::from_secs(seconds), run).await
            {
                Ok(result) => result,
                // Dropping the exec below kills the process.
                Err(_) => {
                    self.forget_exec(&container, &exec.id);
                    return Err(Status::deadline_exceeded(format!(
                        "failed to exec in container: timeout {seconds}s exceeded: context deadline exceeded"
                    )));
                }
            },
            _ => run.await,
        };
        self.forget_exec(&container, &exec.id);
        let (stdout, stderr, exit_code) =
            result.map_err(|error| internal("failed to exec in container", &error))?;
        Ok(ExecSyncResponse {
            stdout: stdout.into(),
            stderr: stderr.into(),
            exit_code,
        })
    }

    /// Starts a process in a running container.
    pub(crate) async fn exec(
        &self,
        container: &Container,
        command: &[String],
        tty: bool,
        wanted: Wanted,
    ) -> Result<ExecStreams, Status> {
        if command.is_empty() {
            return Err(Status::invalid_argument("exec cmd must not be empty"));
        }
        let failed = |error: std::io::Error| internal("failed to exec in container", &error);
        let pod = self.pod(&container.pod_id)?;
        let exec_id = new_id();
        let dir = container.dir.join(files::EXECS).join(&exec_id);
        std::fs::create_dir_all(&dir).map_err(failed)?;
        let config: serde_json::Value = read_json(&container.dir, files::CONFIG).map_err(failed)?;
        let process = spec::exec_process(&config, command, tty);
        std::fs::write(dir.join(files::PROCESS), process.to_string()).map_err(failed)?;
        let started = match tty {
            true => pod
                .shim
                .exec(&container.id, &exec_id, true, &[])
                .await
                .map(|process| (process, Ours::default())),
            false => {
                let (theirs, ours) =
                    pipes(wanted, container.record.uid, container.record.gid).map_err(failed)?;
                let fds: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
                pod.shim
                    .exec(&container.id, &exec_id, false, &fds)
                    .await
                    .map(|process| (process, ours))
            }
        };
        match started {
            Ok((process, ours)) => Ok(ExecStreams {
                id: exec_id,
                process,
                stdin: ours
                    .stdin
                    .map(pipe::Sender::from_owned_fd)
                    .transpose()
                    .map_err(failed)?,
                stdout: ours
                    .stdout
                    .map(pipe::Receiver::from_owned_fd)
                    .transpose()
                    .map_err(failed)?,
                stderr: ours
                    .stderr
                    .map(pipe::Receiver::from_owned_fd)
                    .transpose()
                    .map_err(failed)?,
            }),
            Err(error) => {
                self.forget_exec(container, &exec_id);
                let reason = crate::images::describe(&error);
                Err(Status::unknown(format!(
                    "failed to exec in container: failed to start exec {exec_id:?}: OCI runtime exec failed: exec failed: \
                     unable to start container process: {reason}"
                )))
            }
        }
    }

    /// The container's own streams.
    pub(crate) async fn attach(&self, container: &Container, stdin: bool) -> Result<UnixStream, Status> {
        let pod = self.pod(&container.pod_id)?;
        let stdin_once = container.config.stdin_once;
        pod.shim
            .attach(&container.id, stdin && container.config.stdin, stdin_once)
            .await
            .map_err(|error| internal("failed to attach container", &error))
    }

    pub(crate) async fn resize(&self, container: &Container, exec_id: Option<&str>, width: u16, height: u16) {
        let Ok(pod) = self.pod(&container.pod_id) else {
            return;
        };
        let request = Request::Resize {
            id: container.id.clone(),
            exec_id: exec_id.map(str::to_owned),
            width,
            height,
        };
        // The process may just have ended, and its terminal with it.
        if let Err(error) = pod.shim.tell(&request).await {
            tracing::debug!(container = %container.id, %error, "terminal not resized");
        }
    }

    /// The container, if something can be run in it.
    pub(crate) fn running(&self, id: &str) -> Result<Container, Status> {
        let container = self.container(id)?;
        match &container.state {
            ContainerState::Running { .. } => Ok(container),
            other => {
                let word = match other {
                    ContainerState::Exited(_) => "CONTAINER_EXITED",
                    _ => "CONTAINER_CREATED",
                };
                Err(Status::failed_precondition(format!(
                    "container is in {word} state"
                )))
            }
        }
    }

    pub(crate) fn forget_exec(&self, container: &Container, exec_id: &str) {
        let dir = container.dir.join(files::EXECS).join(exec_id);
        if let Err(error) = std::fs::remove_dir_all(&dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(container = %container.id, %error, "an exec's directory stays");
        }
    }
}

/// Our ends of an exec's pipes.
#[derive(Default)]
struct Ours {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// Their ends (stdin, stdout, stderr) and ours. What nobody wants is `/dev/null`.
fn pipes(wanted: Wanted, uid: u32, gid: u32) -> std::io::Result<(Vec<OwnedFd>, Ours)> {
    let null = || {
        std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map(OwnedFd::from)
    };
    let pair = || -> std::io::Result<(PipeReader, PipeWriter)> {
        let (reader, writer) = std::io::pipe()?;
        let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(&writer, Some(owner.0), Some(owner.1))?;
        Ok((reader, writer))
    };
    let mut ours = Ours::default();
    let mut theirs = Vec::with_capacity(3);
    theirs.push(match wanted.stdin {
        true => {
            let (reader, writer) = pair()?;
            ours.stdin = Some(unblocked(writer.into())?);
            reader.into()
        }
        false => null()?,
    });
    for (wanted, slot) in [
        (wanted.stdout, &mut ours.stdout),
        (wanted.stderr, &mut ours.stderr),
    ] {
        theirs.push(match wanted {
            true => {
                let (reader, writer) = pair()?;
                *slot = Some(unblocked(reader.into())?);
                writer.into()
            }
            false => null()?,
        });
    }
    Ok((theirs, ours))
}

fn unblocked(fd: OwnedFd) -> std::io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(fd)
}

/// Everything that comes, kept up to the limit.
async fn capture(stream: Option<pipe::Receiver>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return kept };
    // What cannot be read any more has ended.
    (&mut stream).take(OUTPUT_LIMIT).read_to_end(&mut kept).await.ok();
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.ok();
    kept
}
