//! RuntimeClass.

use crate::At;
use crate::check;
use crate::fields::{entries, list, present, text};
use crate::pod_spec::resources;
use crate::pod_spec::validation::{requirements, tolerations};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct RuntimeClass;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::text("Handler", "The runtime's handler."),
    Column::AGE,
];

impl Strategy for RuntimeClass {
    fn default(&self, object: &mut Value) {
        resources::round(object.get_path_mut(&["overhead", "podFixed"]));
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        match text(object, "handler") {
            "" => errors.push(At::new("handler").required("")),
            handler => check::label(handler, &At::new("handler"), &mut errors),
        }
        if let Some(overhead) = present(object, "overhead") {
            let mut limits = Value::object();
            limits.set_path(&["limits"], overhead.get("podFixed").cloned().unwrap_or_default());
            requirements(&limits, &[], &At::new("overhead"), &mut errors);
        }
        if let Some(scheduling) = present(object, "scheduling") {
            scheduling_errors(scheduling, &At::new("scheduling"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = At::new("handler");
        check::immutable(new.get("handler"), old.get("handler"), &at, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::word(object, &["handler"]),
            table::age(object, now),
        ]
    }
}

fn scheduling_errors(scheduling: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const KEYS: [&str; 4] = ["key", "operator", "value", "effect"];
    check::labels(
        entries(scheduling, "nodeSelector"),
        &at.child("nodeSelector"),
        errors,
    );
    let at = at.child("tolerations");
    let all = list(scheduling, "tolerations");
    tolerations(all, &at, errors);
    for (index, one) in all.iter().enumerate() {
        let same = |other: &Value| KEYS.iter().all(|key| text(other, key) == text(one, key));
        if all[..index].iter().any(same) {
            errors.push(at.index(index).duplicate(one.clone()));
        }
    }
}
