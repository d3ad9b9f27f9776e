//! Writes the prose of the API, which `kubectl explain` shows, from the documentation of `k8s-openapi`.
//!
//! The form is one text, compressed: definitions are ended by 0x1d, their lines by 0x1e; a line is a name, 0x1f and what
//! is said of it, the first of each definition about the definition itself. `src/openapi/prose.rs` reads it.

#[path = "build/kinds.rs"]
mod kinds;

use k8s_openapi::schemars::generate::SchemaSettings;
use std::error::Error;
use std::io::Write as _;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    let mut schemas = SchemaSettings::draft07().into_generator();
    kinds::ask(&mut schemas);
    let mut text = String::with_capacity(1 << 20);
    let mut line = |name: &str, said: &str| {
        text.push_str(name);
        text.push('\x1f');
        text.push_str(said);
        text.push('\x1e');
        text.len()
    };
    let mut ends = Vec::new();
    for (name, schema) in schemas.definitions() {
        let said = |value: &serde_json::Value| {
            let said = value.get("description").and_then(serde_json::Value::as_str);
            said.unwrap_or_default().to_owned()
        };
        let mut end = line(name, &said(schema));
        let fields = schema.get("properties").and_then(serde_json::Value::as_object);
        for (field, schema) in fields.into_iter().flatten() {
            end = line(field, &said(schema));
        }
        ends.push(end);
    }
    // The last line's end becomes the definition's.
    let mut bytes = text.into_bytes();
    for end in ends {
        bytes[end - 1] = 0x1d;
    }
    let out = std::env::var("OUT_DIR")?;
    let mut file = flate2::write::ZlibEncoder::new(
        std::fs::File::create(Path::new(&out).join("prose.z"))?,
        flate2::Compression::best(),
    );
    file.write_all(&bytes)?;
    file.finish()?;
    Ok(())
}
