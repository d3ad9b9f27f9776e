//! Container logs: the format CRI runtimes write, reading and following it, and rotation.

pub mod line;
pub mod read;
pub mod rotate;
