//! The three patches that are not apply: JSON patch, merge patch, strategic merge patch.
//!
//! Each is a plain function from a document and a decoded patch to a document. Decoding the patch, and decoding the
//! result against the tables again (types, unknown fields, defaults), is the engine's part, as is
//! [`crate::apply`] afterwards, which records who changed what.
//!
//! Errors carry upstream's code and wording; what upstream hides from the client (the reason a JSON patch does
//! not fit) is kept for the log.

pub(crate) mod go;
pub(crate) mod join;
pub mod json;
mod list;
pub mod merge;
mod request;
mod schema;
pub mod strategic;

pub use request::{Patch, PatchKind};

use crate::status::{ApiError, Details, Reason};

/// Why a patch cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is no patch: 400, with this message.
    #[error("{0}")]
    BadRequest(String),
    /// The patch does not fit the document: 422; upstream does not tell the client why.
    #[error("{0}")]
    Rejected(String),
    /// An operation of the patch looked whether the document is as expected, and it is not: 422 as well.
    #[error("{0}")]
    TestFailed(String),
    /// Too many operations: 413.
    #[error("Request entity too large: {0}")]
    TooLarge(String),
    /// What upstream reports as it is, with code 500 and no reason.
    #[error("{0}")]
    Failed(String),
}

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::BadRequest(message) => Self::bad_request(message),
            PatchError::Rejected(_) | PatchError::TestFailed(_) => {
                let message = "the server rejected our request due to an error in our request";
                Self::new(422, Reason::Invalid, message).with_details(Details::default())
            }
            error @ PatchError::TooLarge(_) => Self::too_large(error.to_string()),
            PatchError::Failed(message) => Self::new(500, Reason::Unknown, message),
        }
    }
}
