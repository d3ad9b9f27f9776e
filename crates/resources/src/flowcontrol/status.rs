//! The status of both kinds: only it, and who manages which field, is written there.

use super::validation;
use crate::strategy::{Context, Subresource, keep};
use machinery::Value;
use machinery::field::ErrorList;

pub(super) struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        let managed = new.get_path(&["metadata", "managedFields"]).cloned();
        keep(new, old, "metadata");
        keep(new, old, "spec");
        match managed {
            Some(managed) => new.set_path(&["metadata", "managedFields"], managed),
            None => {
                new.remove_path(&["metadata", "managedFields"]);
            }
        }
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::conditions(new, &mut errors);
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"], &["f:metadata"]]
    }
}
