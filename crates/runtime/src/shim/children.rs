//! The shim's children: helpers at work, containers and execs that end.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use jiff::Timestamp;
use nix::sys::signal::Signal;
use rustix::process::{WaitOptions, WaitStatus};

use super::launch::Outcome;
use super::links::{Link, LinkKind, flush_and_close};
use super::protocol::{Event, Exit, Reply, write_frame};
use super::server::{Launch, Launching, Server, answer, failed, send_signal};
use super::{files, stdio};

impl Server {
    pub(super) fn reap(&mut self, buffer: &mut [u8]) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            if let Some(launch) = self.launches.remove(&pid) {
                self.launched(launch, buffer);
            } else if !self.ended(pid, status, buffer) && !self.launches.is_empty() {
                self.unclaimed.insert(pid, status);
            }
        }
        if self.launches.is_empty() {
            self.unclaimed.clear();
        }
    }

    pub(super) fn launched(&mut self, launch: Launch, buffer: &mut [u8]) {
        let Launch {
            container: id,
            what,
            socket,
        } = launch;
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        let dir = match &what {
            Launching::Container => container.spec.dir.clone(),
            Launching::Exec { exec_id, .. } => container.spec.dir.join(files::EXECS).join(exec_id),
        };
        let pid = match Outcome::take(&dir) {
            Outcome::Started { pid } => pid,
            Outcome::Failed { message } => {
                if let Launching::Container = what {
                    container.io.finish(Timestamp::now());
                    self.containers.remove(&id);
                    let message = message.clone();
                    self.tell(&Event::StartFailed { id, message });
                }
                return answer(&socket, &failed(message));
            }
        };
        match what {
            Launching::Container => {
                container.pid = pid;
                if let Some(signal) = container.waiting_signal.take() {
                    // It may have ended in between, which is all the signal could ask for.
                    send_signal(pid, signal).ok();
                }
                let reply = match container.io.started(container.spec.stdin) {
                    Ok(()) => Reply::Started { pid },
                    Err(error) => {
                        send_signal(pid, Signal::SIGKILL as i32).ok();
                        failed(error)
                    }
                };
                answer(&socket, &reply);
                self.tell(&Event::Started { id, pid });
            }
            Launching::Exec { exec_id, console } => {
                let terminal = match console.map(|listener| stdio::take_console(&listener)).transpose() {
                    Ok(terminal) => terminal,
                    Err(error) => {
                        send_signal(pid, Signal::SIGKILL as i32).ok();
                        return answer(&socket, &failed(error));
                    }
                };
                let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
                // A client that left is noticed when its connection is polled.
                write_frame(&socket, &Reply::Started { pid }, &fds).ok();
                self.links.push(Link {
                    socket,
                    kind: LinkKind::Exec {
                        container: id,
                        exec_id,
                        pid,
                        terminal,
                    },
                });
            }
        }
        if let Some(status) = self.unclaimed.remove(&pid) {
            self.ended(pid, status, buffer);
        }
    }

    /// Handles the end of a process that is ours; `false` when it is not known (yet).
    pub(super) fn ended(&mut self, pid: i32, status: WaitStatus, buffer: &mut [u8]) -> bool {
        let code = exit_code(status);
        for link in &mut self.links {
            if let LinkKind::Exec { pid: exec_pid, .. } = link.kind
                && exec_pid == pid
            {
                // The client may be gone; then nobody wants the code.
                write_frame(&link.socket, &Event::ExecExited { code }, &[]).ok();
                link.kind = LinkKind::Gone;
                return true;
            }
        }
        let Some(id) = self
            .containers
            .iter()
            .find(|(_, c)| c.pid == pid && c.exit.is_none())
            .map(|(id, _)| id.clone())
        else {
            return false;
        };
        self.container_ended(&id, code, buffer);
        true
    }

    pub(super) fn container_ended(&mut self, id: &str, code: i32, buffer: &mut [u8]) {
        let Some(container) = self.containers.get(id) else {
            return;
        };
        if let Some(cgroup) = &container.spec.kill_cgroup {
            kill_all(cgroup);
        }
        self.drain(id, buffer);
        let now = Timestamp::now();
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.io.finish(now);
        let oom_killed = container.spec.oom_file.as_deref().is_some_and(was_oom_killed);
        let at = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
        let exit = Exit {
            code,
            at,
            oom_killed,
            message: String::new(),
        };
        container.exit = Some(exit.clone());
        // If the disk is full the runtime still learns it from our memory.
        write_exit(&container.spec.dir, &exit).ok();
        self.tell(&Event::Exited {
            id: id.to_owned(),
            exit,
        });
        for link in &mut self.links {
            if matches!(&link.kind, LinkKind::Attach { container, .. } if container == id) {
                flush_and_close(link);
            }
        }
    }

    /// Takes what the ended container left in its pipes.
    pub(super) fn drain(&mut self, id: &str, buffer: &mut [u8]) {
        let count = self
            .containers
            .get(id)
            .map_or(0, |container| container.io.outputs.len());
        for index in (0..count).rev() {
            while self.pump(id, index, buffer) {}
        }
    }

    pub(super) fn tell(&mut self, event: &Event) {
        for link in &mut self.links {
            if matches!(link.kind, LinkKind::Subscriber) && write_frame(&link.socket, event, &[]).is_err() {
                link.kind = LinkKind::Gone;
            }
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}

fn was_oom_killed(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().any(|line| {
        line.strip_prefix("oom_kill ")
            .is_some_and(|count| count.trim() != "0")
    })
}

fn kill_all(cgroup: &Path) {
    let procs = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| line.parse().ok()) {
        send_signal(pid, Signal::SIGKILL as i32).ok();
    }
}

fn write_exit(dir: &Path, exit: &Exit) -> io::Result<()> {
    let temporary = dir.join("exit.json.new");
    std::fs::write(&temporary, serde_json::to_vec(exit)?)?;
    std::fs::rename(temporary, dir.join(files::EXIT))
}
