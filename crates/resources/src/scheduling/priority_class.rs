//! PriorityClass.

use crate::At;
use crate::check;
use crate::fields::{fill, fill_number, flag, int, present, text};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, meta};

pub(crate) struct PriorityClass;

const COLUMNS: [Column; 5] = [
    Column::NAME,
    Column::number("Value", "The priority."),
    Column::flag("Global-Default", "Whether pods without a class have it."),
    Column::AGE,
    Column::text("PreemptionPolicy", "Whether others are evicted for its pods."),
];

impl Strategy for PriorityClass {
    fn default(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        fill(map, "preemptionPolicy", "PreemptLowerPriority");
        // Always written.
        fill_number(map, "value", 0);
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["metadata", "generation"], 1);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, _new: &mut Value, _old: &Value) {}

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let name = meta::name(object);
        let value = int(object, "value").unwrap_or(0);
        if name.starts_with(SYSTEM) {
            if let Some(wrong) = wrong_system_class(name, value, flag(object, "globalDefault")) {
                errors.push(At::new("metadata.name").forbidden(format!(
                    "priority class names with '{SYSTEM}' prefix are reserved for system use only. error: {wrong}"
                )));
            }
        } else if value > HIGHEST {
            let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
            errors.push(At::new("value").forbidden(why));
        }
        if let Some(policy) = present(object, "preemptionPolicy").and_then(Value::as_str) {
            let policies = ["PreemptLowerPriority", "Never"];
            check::required_one_of(policy, &policies, &At::new("preemptionPolicy"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if int(new, "value") != int(old, "value") {
            errors.push(At::new("value").forbidden("may not be changed in an update."));
        }
        let policy = |class: &Value| Value::from(text(class, "preemptionPolicy"));
        let at = At::new("preemptionPolicy");
        check::immutable(Some(&policy(new)), Some(&policy(old)), &at, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::number(object, &["value"]),
            table::flag(object, &["globalDefault"]),
            table::age(object, now),
            table::word(object, &["preemptionPolicy"]),
        ]
    }
}

const SYSTEM: &str = "system-";
/// What clients may give; above are the system's own.
const HIGHEST: i64 = 1_000_000_000;

fn wrong_system_class(name: &str, value: i64, global: bool) -> Option<String> {
    let wanted = match name {
        "system-cluster-critical" => 2 * HIGHEST,
        "system-node-critical" => 2 * HIGHEST + 1000,
        _ => return Some(format!("{name} is not a known system priority class")),
    };
    if value != wanted {
        Some(format!("value of {name} PriorityClass must be {wanted}"))
    } else if global {
        Some(format!("globalDefault of {name} PriorityClass must be false"))
    } else {
        None
    }
}
