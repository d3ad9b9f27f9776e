//! The error of this crate: which call failed, on what, and the kernel's reason.

use std::fmt::Display;
use std::io;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call was refused.
    #[error("{operation} {subject}")]
    Kernel {
        operation: &'static str,
        subject: String,
        #[source]
        source: io::Error,
    },
    /// The kernel refused a netlink request and said why in words.
    #[error("{operation} {subject}: {reason}")]
    Refused {
        operation: &'static str,
        subject: String,
        reason: String,
        #[source]
        source: io::Error,
    },
    /// The kernel's answer could not be understood.
    #[error("{operation} {subject}: unexpected answer: {detail}")]
    Answer {
        operation: &'static str,
        subject: String,
        detail: String,
    },
    /// The kernel lacks what was asked for.
    #[error("{operation}: this kernel lacks {feature}")]
    Unsupported {
        operation: &'static str,
        feature: String,
    },
    /// Something did not happen within its time.
    #[error("{operation} {subject}: still not done after {seconds} s")]
    TimedOut {
        operation: &'static str,
        subject: String,
        seconds: u64,
    },
    /// The request itself makes no sense; the kernel was not asked.
    #[error("{operation}: {detail}")]
    Invalid { operation: &'static str, detail: String },
}

impl Error {
    pub fn kernel(operation: &'static str, subject: impl Display, source: impl Into<io::Error>) -> Self {
        Error::Kernel {
            operation,
            subject: subject.to_string(),
            source: source.into(),
        }
    }

    pub fn answer(operation: &'static str, subject: impl Display, detail: impl Display) -> Self {
        Error::Answer {
            operation,
            subject: subject.to_string(),
            detail: detail.to_string(),
        }
    }

    /// The errno behind this error, when the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Kernel { source, .. } | Error::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The thing asked about does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::ENXIO)
        )
    }

    /// The thing to be made exists already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// The caller lacks the right to do it.
    pub fn is_denied(&self) -> bool {
        matches!(self.errno(), Some(libc::EPERM | libc::EACCES))
    }

    /// The message with every cause behind it, for logs and findings.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// Names the operation and subject of an I/O result.
pub(crate) trait Context<T> {
    fn context(self, operation: &'static str, subject: impl Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, operation: &'static str, subject: impl Display) -> Result<T> {
        self.map_err(|error| Error::kernel(operation, subject, error))
    }
}
