//! ResourceClaimTemplate.

use super::resource_claim::claim_spec;
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct ResourceClaimTemplate;

const COLUMNS: [Column; 2] = [Column::NAME, Column::AGE];

impl Strategy for ResourceClaimTemplate {
    fn default(&self, object: &mut Value) {
        claim_spec(object.get_path_mut(&["spec", "spec"]));
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![table::name(object), table::age(object, now)]
    }
}
