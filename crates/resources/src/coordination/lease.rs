//! Lease.

use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct Lease;

const COLUMNS: [Column; 3] = [Column::NAME, Column::text("Holder", "Who holds it."), Column::AGE];

impl Strategy for Lease {
    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        drop_disabled(object, None);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        drop_disabled(new, Some(old));
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::word(object, &["spec", "holderIdentity"]),
            table::age(object, now),
        ]
    }
}

/// Coordinated leader election is not on by default in this version.
fn drop_disabled(lease: &mut Value, old: Option<&Value>) {
    for field in ["preferredHolder", "strategy"] {
        if old
            .and_then(|old| old.get_path(&["spec", field]))
            .is_none_or(Value::is_null)
        {
            lease.remove_path(&["spec", field]);
        }
    }
}
