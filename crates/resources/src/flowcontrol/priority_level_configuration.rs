//! PriorityLevelConfiguration.

use super::status::Status;
use super::validation;
use crate::fields::{fill, fill_number, object_mut};
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct PriorityLevelConfiguration;

const COLUMNS: [Column; 7] = [
    Column::NAME,
    Column::text("Type", "Exempt or limited."),
    Column::text("NominalConcurrencyShares", "Its share of the seats."),
    Column::text("Queues", "Number of its queues."),
    Column::text("HandSize", "Queues a flow may use."),
    Column::text("QueueLengthLimit", "Requests that may wait in a queue."),
    Column::AGE,
];

impl Strategy for PriorityLevelConfiguration {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else {
            return;
        };
        if let Some(exempt) = object_mut(spec, "exempt") {
            fill(exempt, "nominalConcurrencyShares", 0);
            fill(exempt, "lendablePercent", 0);
        }
        let Some(limited) = object_mut(spec, "limited") else {
            return;
        };
        fill(limited, "nominalConcurrencyShares", 30);
        fill(limited, "lendablePercent", 0);
        let response = limited.get_mut("limitResponse");
        if let Some(queuing) = response.and_then(|response| object_mut(response, "queuing")) {
            fill_number(queuing, "handSize", 8);
            fill_number(queuing, "queues", 64);
            fill_number(queuing, "queueLengthLimit", 50);
        }
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::priority_level(object, &mut errors);
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
        let limited = object.get_path(&["spec", "limited"]);
        let cell = |path: &[&str]| {
            limited
                .and_then(|l| l.get_path(path))
                .cloned()
                .unwrap_or_else(|| table::NONE.into())
        };
        vec![
            table::name(object),
            table::word(object, &["spec", "type"]),
            cell(&["nominalConcurrencyShares"]),
            cell(&["limitResponse", "queuing", "queues"]),
            cell(&["limitResponse", "queuing", "handSize"]),
            cell(&["limitResponse", "queuing", "queueLengthLimit"]),
            table::age(object, now),
        ]
    }
}
