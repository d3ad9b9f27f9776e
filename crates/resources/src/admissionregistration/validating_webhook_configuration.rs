//! ValidatingWebhookConfiguration, and what it shares with MutatingWebhookConfiguration.

use super::validation;
use super::validation::Webhooks;
use crate::KindInfo;
use crate::fields::{fill, list, list_mut, object_mut, same};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Map, Value};

pub(crate) struct ValidatingWebhookConfiguration;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::number("Webhooks", "Number of webhooks."),
    Column::AGE,
];

impl Strategy for ValidatingWebhookConfiguration {
    fn default(&self, object: &mut Value) {
        for webhook in list_mut(object, "webhooks") {
            webhook_defaults(webhook);
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
        validation::configuration(object, None, Webhooks::Validating, &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::configuration(new, Some(old), Webhooks::Validating, &mut errors);
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

/// Fills one webhook.
pub(super) fn webhook_defaults(webhook: &mut Value) {
    if let Some(map) = webhook.as_object_mut() {
        fill(map, "failurePolicy", "Fail");
        match_defaults(map);
        fill(map, "timeoutSeconds", 10);
    }
    rule_scopes(webhook, "rules");
    let client = webhook.get_mut("clientConfig");
    if let Some(service) = client.and_then(|client| object_mut(client, "service")) {
        fill(service, "port", 443);
    }
}

/// Fills what says which objects are meant.
pub(super) fn match_defaults(map: &mut Map) {
    fill(map, "matchPolicy", "Equivalent");
    fill(map, "namespaceSelector", Map::new());
    fill(map, "objectSelector", Map::new());
}

pub(super) fn rule_scopes(holder: &mut Value, field: &str) {
    for rule in list_mut(holder, field) {
        if let Some(rule) = rule.as_object_mut() {
            fill(rule, "scope", "*");
        }
    }
}
