//! MutatingWebhookConfiguration.

use super::validating_webhook_configuration::webhook_defaults;
use crate::KindInfo;
use crate::fields::{fill, list_mut, same};
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct MutatingWebhookConfiguration;

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
}
