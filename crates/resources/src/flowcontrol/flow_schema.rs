//! FlowSchema.

use super::status::Status;
use super::validation;
use crate::fields::{fill_number, list_at, text, text_at};
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct FlowSchema;

const COLUMNS: [Column; 6] = [
    Column::NAME,
    Column::text("PriorityLevel", "Where its requests queue."),
    Column::text("MatchingPrecedence", "The lowest that matches wins."),
    Column::text("DistinguisherMethod", "What flows are told apart by."),
    Column::AGE,
    Column::text("MissingPL", "Whether the priority level is missing."),
];

impl Strategy for FlowSchema {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            fill_number(spec, "matchingPrecedence", 1000);
        }
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::flow_schema(object, &mut errors);
        errors
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        if name == "status" {
            Some(&Status)
        } else {
            default_subresource(name)
        }
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let conditions = list_at(object, &["status", "conditions"]);
        let dangling = conditions
            .iter()
            .find(|condition| text(condition, "type") == "Dangling");
        vec![
            table::name(object),
            table::word(object, &["spec", "priorityLevelConfiguration", "name"]),
            table::number(object, &["spec", "matchingPrecedence"]),
            table::or(
                text_at(object, &["spec", "distinguisherMethod", "type"]),
                table::NONE,
            ),
            table::age(object, now),
            dangling.map_or("?", |condition| text(condition, "status")).into(),
        ]
    }
}
