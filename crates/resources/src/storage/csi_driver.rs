//! CSIDriver.

use crate::fields::{fill, list, same, text, texts};
use crate::strategy::{Column, Context, Strategy, bump_generation};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct CsiDriver;

const COLUMNS: [Column; 8] = [
    Column::NAME,
    Column::flag("AttachRequired", "Volumes are attached before they are mounted."),
    Column::flag("PodInfoOnMount", "The driver is told of the pod."),
    Column::flag("StorageCapacity", "The driver tells of free space."),
    Column::text("TokenRequests", "Audiences the driver gets tokens for."),
    Column::flag("RequiresRepublish", "Volumes are published again and again."),
    Column::text("Modes", "Kinds of volumes the driver has."),
    Column::AGE,
];

impl Strategy for CsiDriver {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        fill(spec, "attachRequired", true);
        fill(spec, "podInfoOnMount", false);
        fill(spec, "storageCapacity", false);
        fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.get("volumeLifecycleModes").is_none_or(Value::is_empty) {
            spec.insert("volumeLifecycleModes", vec!["Persistent"]);
        }
        fill(spec, "requiresRepublish", false);
        fill(spec, "seLinuxMount", false);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        if !same(new, old, &["spec"]) {
            bump_generation(new, old);
        }
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let modes = table::join(texts(spec, "volumeLifecycleModes"), ",");
        let requests = list(spec, "tokenRequests");
        let audiences = table::join(requests.iter().map(|request| text(request, "audience")), ",");
        vec![
            table::name(object),
            spec.get("attachRequired")
                .and_then(Value::as_bool)
                .unwrap_or(true)
                .into(),
            table::flag(spec, &["podInfoOnMount"]),
            table::flag(spec, &["storageCapacity"]),
            if requests.is_empty() {
                table::UNSET.into()
            } else {
                audiences.into()
            },
            table::flag(spec, &["requiresRepublish"]),
            table::or(&modes, table::NONE),
            table::age(object, now),
        ]
    }
}
