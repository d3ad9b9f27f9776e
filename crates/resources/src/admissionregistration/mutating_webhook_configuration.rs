//! MutatingWebhookConfiguration.

use super::validating_webhook_configuration::webhook_defaults;
use super::validation;
use super::validation::Webhooks;
use crate::KindInfo;
use crate::fields::{fill, list, list_mut, same};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct MutatingWebhookConfiguration;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::number("Webhooks", "Number of webhooks."),
    Column::AGE,
];

impl Strategy for MutatingWebhookConfiguration {
    fn default(&self, object: &mut Value) {
        for webhook in list_mut(object, "webhooks") {
            webhook_defaults(webhook);
            if let Some(map) = webhook.as_object_mut() {
                fill(map, "reinvocationPolicy", "Never");
            }
        }
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn spec_changed(&self, new: &Value, old: &Value) -> bool {
        !same(new, old, &["webhooks"])
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::configuration(object, None, Webhooks::Mutating, &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::configuration(new, Some(old), Webhooks::Mutating, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = list(object, "webhooks").len() as i64;
        vec![table::name(object), count.into(), table::age(object, now)]
    }
}
