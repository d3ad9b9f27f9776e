//! ServiceAccount.

use crate::fields::list_mut;
use crate::strategy::{Context, Strategy};
use machinery::Value;

pub(crate) struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        keep_names(object);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, _old: &Value) {
        keep_names(new);
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }
}

/// Secrets are referred to by name, in the account's own namespace.
fn keep_names(account: &mut Value) {
    for reference in list_mut(account, "secrets") {
        if let Some(map) = reference.as_object_mut() {
            map.retain(|field, _| *field == "name");
        }
    }
}
