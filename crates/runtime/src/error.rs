//! The error of this crate's edge.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("image store")]
    Images(#[from] crate::images::ImageError),
    #[error("kernel")]
    Kernel(#[from] linux::Error),
    #[error("{operation} {path}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("remove the pods: {0}")]
    Pods(String),
}
