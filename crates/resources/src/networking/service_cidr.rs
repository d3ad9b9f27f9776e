//! ServiceCIDR.

use crate::KindInfo;
use crate::fields::texts;
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct ServiceCidr;

const COLUMNS: [Column; 3] = [Column::NAME, Column::text("CIDRs", "The ranges."), Column::AGE];

impl Strategy for ServiceCidr {
    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        vec![
            table::name(object),
            table::join(texts(spec, "cidrs"), ",").into(),
            table::age(object, now),
        ]
    }
}
