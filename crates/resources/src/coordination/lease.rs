//! Lease.

use crate::At;
use crate::check;
use crate::fields::{int, text};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

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

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        spec_errors(object.get("spec").unwrap_or(&Value::Null), &mut errors);
        errors
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

fn spec_errors(spec: &Value, errors: &mut ErrorList) {
    let at = At::new("spec");
    if let Some(seconds) = int(spec, "leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        let at = at.child("leaseDurationSeconds");
        errors.push(at.invalid(seconds, "must be greater than 0"));
    }
    let transitions = int(spec, "leaseTransitions").unwrap_or(0);
    check::not_negative(transitions, &at.child("leaseTransitions"), errors);
    let strategy = text(spec, "strategy");
    if !strategy.is_empty() {
        // Upstream's path names the field twice.
        self::strategy(strategy, &at.child("strategy.strategy"), errors);
    }
    if !text(spec, "preferredHolder").is_empty() && strategy.is_empty() {
        let why = "may only be specified if `strategy` is defined";
        errors.push(at.child("preferredHolder").forbidden(why));
    }
}

/// How a leader is chosen: one of Kubernetes' ways, or somebody else's.
pub(super) fn strategy(strategy: &str, at: &At<'_>, errors: &mut ErrorList) {
    if strategy.contains('/') {
        check::qualified(strategy, at, errors);
    } else {
        check::one_of(strategy, &["OldestEmulationVersion"], at, errors);
    }
}
