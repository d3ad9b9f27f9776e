//! ServiceAccount.

use crate::fields::list_mut;
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct ServiceAccount;

const COLUMNS: [Column; 2] = [Column::NAME, Column::AGE];

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

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![table::name(object), table::age(object, now)]
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
