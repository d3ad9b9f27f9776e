//! Secret.

use crate::fields::{entries, fill_text, text};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct Secret;

const COLUMNS: [Column; 4] = [
    Column::NAME,
    Column::text("Type", "What the secret is for."),
    Column::text("Data", "Number of the entries."),
    Column::AGE,
];

impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        fill_text(map, "type", "Opaque");
        // Texts are taken in place of bytes, and never given back.
        if let Some(Value::Object(texts)) = map.remove("stringData") {
            let data = map.object_entry("data");
            for (key, value) in texts {
                data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()));
            }
        }
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        if text(new, "type").is_empty() {
            new.set_path(&["type"], text(old, "type"));
        }
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["type"]
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = entries(object, "data").len() as i64;
        vec![
            table::name(object),
            text(object, "type").into(),
            count.into(),
            table::age(object, now),
        ]
    }
}
