//! Processes of the recording fake.

use super::{Recorder, refused};
use crate::Result;
use crate::process::{Limit, OomScore, Processes};

impl Processes for Recorder {
    fn signal(&self, pid: u32, signal: i32) -> Result<bool> {
        self.call(format!("signal {pid} {signal}"), |state| {
            let known = state.processes.contains(&pid);
            if signal == libc::SIGKILL {
                state.processes.remove(&pid);
            }
            Ok(known)
        })
    }

    fn is_alive(&self, pid: u32) -> bool {
        self.state.lock().processes.contains(&pid)
    }

    fn start_time(&self, pid: u32) -> Result<u64> {
        if self.is_alive(pid) {
            Ok(u64::from(pid))
        } else {
            Err(refused(&format!("start-time {pid}"), libc::ENOENT))
        }
    }

    fn set_oom_score_adj(&self, pid: u32, score: i32) -> Result<OomScore> {
        self.call(format!("oom-score-adj {pid} {score}"), |_| Ok(OomScore::Set))
    }

    fn set_limit(&self, pid: u32, limit: Limit) -> Result<()> {
        self.call(
            format!(
                "limit {pid} {:?} {:?} {:?}",
                limit.resource, limit.soft, limit.hard
            ),
            |_| Ok(()),
        )
    }
}
