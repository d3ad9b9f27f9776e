//! StorageClass.

use crate::fields::{fill, text};
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::{Value, meta};

pub(crate) struct StorageClass;

const COLUMNS: [Column; 6] = [
    Column::NAME,
    Column::text("Provisioner", "What makes the volumes."),
    Column::text(
        "ReclaimPolicy",
        "What becomes of volumes when their claims are gone.",
    ),
    Column::text("VolumeBindingMode", "When volumes are made and bound."),
    Column::text("AllowVolumeExpansion", "Whether volumes can grow."),
    Column::AGE,
];

impl Strategy for StorageClass {
    fn default(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        fill(map, "reclaimPolicy", "Delete");
        fill(map, "volumeBindingMode", "Immediate");
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut name = meta::name(object).to_owned();
        let is_default = |key| meta::annotation(object, key) == Some("true");
        if is_default("storageclass.kubernetes.io/is-default-class")
            || is_default("storageclass.beta.kubernetes.io/is-default-class")
        {
            name.push_str(" (default)");
        }
        vec![
            name.into(),
            table::word(object, &["provisioner"]),
            table::or(text(object, "reclaimPolicy"), "Delete"),
            table::or(text(object, "volumeBindingMode"), "Immediate"),
            table::flag(object, &["allowVolumeExpansion"]),
            table::age(object, now),
        ]
    }
}
