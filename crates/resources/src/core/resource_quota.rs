//! ResourceQuota.

use crate::fields::entries;
use crate::pod_spec::resources;
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct ResourceQuota;

const COLUMNS: [Column; 4] = [
    Column::NAME,
    Column::text("Request", "What is used of what may be requested."),
    Column::text("Limit", "What is used of what limits may be."),
    Column::AGE,
];

impl Strategy for ResourceQuota {
    fn default(&self, object: &mut Value) {
        for path in [["spec", "hard"], ["status", "hard"], ["status", "used"]] {
            resources::round(object.get_path_mut(&path));
        }
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        let status = object.get("status").unwrap_or(&Value::Null);
        for (name, hard) in entries(status, "hard") {
            let used = status
                .get_path(&["used", name])
                .and_then(Value::as_str)
                .unwrap_or("0");
            let side = if name.starts_with("limits.") {
                &mut limits
            } else {
                &mut requests
            };
            side.push(format!("{name}: {used}/{}", hard.as_str().unwrap_or("0")));
        }
        vec![
            table::name(object),
            requests.join(", ").into(),
            limits.join(", ").into(),
            table::age(object, now),
        ]
    }
}
