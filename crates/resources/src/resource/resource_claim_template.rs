//! ResourceClaimTemplate.

use super::resource_claim::claim_spec;
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct ResourceClaimTemplate;

impl Strategy for ResourceClaimTemplate {
    fn default(&self, object: &mut Value) {
        claim_spec(object.get_path_mut(&["spec", "spec"]));
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }
}
