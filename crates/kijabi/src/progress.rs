//! What a person sees while things start: one line a step, with the time since the start.

use std::io::Write;
use std::time::Instant;

/// Prints steps to standard error, so that standard output stays for results.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    start: Instant,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(crate) fn step(&self, text: impl std::fmt::Display) {
        let mut out = std::io::stderr().lock();
        // Nobody left to read the progress is no reason to stop.
        let _ = writeln!(out, "[{:7.3} s] {text}", self.start.elapsed().as_secs_f64());
    }
}
