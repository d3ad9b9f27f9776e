//! ControllerRevision: a snapshot of a workload's template, never changed once it is made.

use crate::fields::{flag, text};
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
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
}
