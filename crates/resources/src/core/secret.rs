//! Secret.

use crate::fields::{fill_text, text};
use crate::strategy::{Context, Strategy};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::Value;

pub(crate) struct Secret;

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
}
