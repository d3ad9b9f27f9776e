//! YAML to values and back. What YAML says beyond JSON (anchors, tags) is resolved or refused here.

use super::json;
use crate::schema::{TypeId, Types};
use crate::value::Value;

/// Why a text is no YAML document that JSON could say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    #[error("error converting YAML to JSON: yaml: {0}")]
    Syntax(String),
    /// A key stands twice in a mapping; told as Go's strict decoder does.
    #[error("yaml: unmarshal errors:\n  line {line}: key {key:?} already set in map")]
    Duplicate { key: String, line: usize },
    #[error(transparent)]
    Decode(#[from] json::DecodeError),
}

/// Documents that grow beyond this many times their length when anchors are resolved are refused.
const MAX_EXPANSION: usize = 64;

/// Decodes one document of type `id`.
pub fn decode(bytes: &[u8], types: &Types, id: TypeId) -> Result<json::Decoded, YamlError> {
    Ok(json::decode(&to_json(bytes)?, types, id)?)
}

/// The JSON text that says what a YAML document says.
pub fn to_json(bytes: &[u8]) -> Result<Vec<u8>, YamlError> {
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_slice(bytes)
        .map_err(|error| duplicate(bytes, &error).unwrap_or_else(|| YamlError::Syntax(error.to_string())))?;
    let limit = bytes.len().saturating_mul(MAX_EXPANSION).max(1 << 16);
    let mut out = Limited {
        bytes: Vec::with_capacity(bytes.len()),
        limit,
    };
    serde_json::to_writer(&mut out, &value).map_err(|error| YamlError::Syntax(error.to_string()))?;
    Ok(out.bytes)
}

/// The second place of a repeated key, which the parser tells with the place of its mapping.
fn duplicate(bytes: &[u8], error: &serde_yaml_ng::Error) -> Option<YamlError> {
    let said = error.to_string();
    let (_, rest) = said.split_once("duplicate entry with key \"")?;
    let (key, _) = rest.split_once('"')?;
    let start = error.location()?;
    let text = std::str::from_utf8(bytes).ok()?;
    let same = text.lines().enumerate().skip(start.line().checked_sub(1)?);
    let mut found = same.filter(|(_, line)| {
        let indented = line.len() - line.trim_start().len();
        indented + 1 == start.column() && line.trim_start().split(':').next() == Some(key)
    });
    let (line, _) = found.nth(1)?;
    Some(YamlError::Duplicate {
        key: key.to_owned(),
        line: line + 1,
    })
}

/// A value as a YAML document.
pub fn encode(value: &Value, out: &mut Vec<u8>) -> Result<(), YamlError> {
    serde_yaml_ng::to_writer(out, value).map_err(|error| YamlError::Syntax(error.to_string()))
}

struct Limited {
    bytes: Vec<u8>,
    limit: usize,
}

impl std::io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(std::io::Error::other("document contains excessive aliasing"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
