//! What claims of devices, their classes and the slices that publish devices must be.
//!
//! Selectors are judged as far as their text goes; whether an expression is a program of the expression language is
//! not looked at here.

mod claim;
mod device;
mod names;
mod slice;
mod status;

pub(super) use claim::{claim_spec, class_spec};
pub(super) use slice::{slice_change, slice_spec};
pub(super) use status::{keep_allocated, status_change};

const MOST_REQUESTS: usize = 32;
const MOST_CONFIGS: usize = 32;

use crate::At;
use machinery::field::ErrorList;

/// Whether a list is short enough to look at.
fn fits(count: usize, most: usize, at: &At<'_>, errors: &mut ErrorList) -> bool {
    if count > most {
        errors.push(at.too_many(count, most));
    }
    count <= most
}
