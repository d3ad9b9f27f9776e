//! Secret.

use super::config_map::{LARGEST, bad_key, decoded_length, immutable};
use crate::At;
use crate::check;
use crate::fields::{entries, fill_text, text};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, meta};

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

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut size = 0;
        for (key, value) in entries(object, "data") {
            bad_key(key, "data", &mut errors);
            size += value.as_str().map_or(0, decoded_length);
        }
        let at = At::new("data");
        if size > LARGEST {
            errors.push(at.too_long(LARGEST as i64));
        }
        by_type(object, &at, &mut errors);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::immutable(new.get("type"), old.get("type"), &At::new("type"), &mut errors);
        immutable(new, old, &["data"], &mut errors);
        errors.extend(self.validate(context, new));
        errors
    }
}

/// What secrets of some types must hold.
fn by_type(secret: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const ACCOUNT: &str = "kubernetes.io/service-account.name";
    let has = |key: &str| secret.get_path(&["data", key]).is_some();
    let required = |keys: &[&str], errors: &mut ErrorList| {
        let missing = keys.iter().filter(|key| !has(key));
        errors.extend(missing.map(|key| at.key(key).required("")));
    };
    match text(secret, "type") {
        "kubernetes.io/service-account-token"
            if meta::annotation(secret, ACCOUNT).is_none_or(str::is_empty) =>
        {
            let at = At::new("metadata.annotations");
            errors.push(at.key(ACCOUNT).required(""));
        }
        "kubernetes.io/dockercfg" => json_entry(secret, ".dockercfg", at, errors),
        "kubernetes.io/dockerconfigjson" => json_entry(secret, ".dockerconfigjson", at, errors),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            required(&["username", "password"], errors);
        }
        "kubernetes.io/ssh-auth"
            if secret
                .get_str_path(&["data", "ssh-privatekey"])
                .is_none_or(str::is_empty) =>
        {
            errors.push(at.key("ssh-privatekey").required(""));
        }
        "kubernetes.io/tls" => required(&["tls.crt", "tls.key"], errors),
        _ => {}
    }
}

fn json_entry(secret: &Value, key: &str, at: &At<'_>, errors: &mut ErrorList) {
    let at = at.key(key);
    let Some(text) = secret.get_str_path(&["data", key]) else {
        errors.push(at.required(""));
        return;
    };
    let bytes = STANDARD.decode(text).unwrap_or_default();
    if let Err(error) =
        serde_json::from_slice::<std::collections::BTreeMap<String, serde_json::Value>>(&bytes)
    {
        errors.push(at.invalid("<secret contents redacted>", error.to_string()));
    }
}
