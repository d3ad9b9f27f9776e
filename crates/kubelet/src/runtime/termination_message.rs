//! The last words of a container: the file it may write, or the end of its log.
//!
//! Follows upstream's sizes: 4 KiB of the file; of the log, 80 lines and 2 KiB.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use cri::v1;

use super::status::{ContainerStatus, State};
use crate::logs;

const FILE_BYTES: u64 = 4096;
const LOG_LINES: usize = 80;
const LOG_BYTES: usize = 2048;

/// Appends the message to an exited container's status. Blocking: small local reads.
pub fn complete(status: &mut ContainerStatus) {
    if status.state != State::Exited {
        return;
    }
    let fallback =
        status.info.fallback_to_logs && status.exit_code != 0 && status.reason != "ContainerCannotRun";
    let (mut message, look_at_logs) = from_file(&status.mounts, &status.info.message_path, fallback);
    if look_at_logs {
        message = match logs::read::last_bytes(Path::new(&status.log_path), LOG_LINES, LOG_BYTES) {
            Ok(text) => text,
            Err(error) => format!("Error on reading termination message from logs: {error}"),
        };
    }
    if message.is_empty() {
        return;
    }
    if !status.message.is_empty() {
        status.message.push_str(": ");
    }
    status.message.push_str(&message);
}

fn from_file(mounts: &[v1::Mount], path: &str, fallback: bool) -> (String, bool) {
    if path.is_empty() {
        return (String::new(), fallback);
    }
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let Some(mount) = mounts.iter().find(|m| m.container_path == path) else {
        return (String::new(), fallback);
    };
    match read_tail(Path::new(&mount.host_path)) {
        Ok(text) => {
            let look_at_logs = fallback && text.is_empty();
            (text, look_at_logs)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (String::new(), fallback),
        Err(error) => (
            format!("Error on reading termination log {}: {error}", mount.host_path),
            false,
        ),
    }
}

fn read_tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(FILE_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_first_then_log() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("message");
        std::fs::write(&file, format!("{}end", "x".repeat(5000))).unwrap();
        let mounts = [v1::Mount {
            container_path: "/dev/termination-log".into(),
            host_path: file.to_str().unwrap().into(),
            ..Default::default()
        }];
        let (text, logs) = from_file(&mounts, "/dev/termination-log", true);
        assert_eq!((text.len(), logs), (4096, false));
        assert!(text.ends_with("end"));
        std::fs::write(&file, "").unwrap();
        assert_eq!(
            from_file(&mounts, "dev/termination-log", true),
            (String::new(), true)
        );
        assert_eq!(from_file(&mounts, "/other", false), (String::new(), false));
    }
}
