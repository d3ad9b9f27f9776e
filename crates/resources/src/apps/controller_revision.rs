//! ControllerRevision: a snapshot of a workload's template, never changed once it is made.

use crate::At;
use crate::check;
use crate::fields::{flag, int, text};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;
use machinery::meta;

pub(crate) struct ControllerRevision;

const COLUMNS: [Column; 4] = [
    Column::NAME,
    Column::text("Controller", "What the revision belongs to."),
    Column::text("Revision", "Its number."),
    Column::AGE,
];

impl Strategy for ControllerRevision {
    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let owner = meta::owner_references(object)
            .iter()
            .find(|owner| flag(owner, "controller"));
        let controller = owner.map_or(table::NONE.to_owned(), |owner| {
            let group = text(owner, "apiVersion")
                .split_once('/')
                .map_or("", |(group, _)| group);
            let dot = if group.is_empty() { "" } else { "." };
            format!(
                "{}/{}",
                format!("{}{dot}{group}", text(owner, "kind")).to_lowercase(),
                text(owner, "name")
            )
        });
        vec![
            table::name(object),
            controller.into(),
            table::number(object, &["revision"]),
            table::age(object, now),
        ]
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        judge(object, &mut errors);
        if object.get("data").is_none_or(Value::is_null) {
            errors.push(At::new("data").required("data is mandatory"));
        } else if object.get("data").and_then(Value::as_object).is_none() {
            errors.push(At::new("data").required("data must be a valid JSON object"));
        }
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        judge(new, &mut errors);
        check::immutable(new.get("data"), old.get("data"), &At::new("data"), &mut errors);
        errors
    }
}

fn judge(revision: &Value, errors: &mut ErrorList) {
    check::not_negative(
        int(revision, "revision").unwrap_or(0),
        &At::new("revision"),
        errors,
    );
}
