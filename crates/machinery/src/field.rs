//! Field paths and field errors, rendered as upstream renders them: clients show these texts.

use crate::value::Value;
use std::fmt;

/// Where in an object something stands: `spec.containers[0].name`, `metadata.labels[foo]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Path(String);

impl Path {
    /// A path of one field; dots in it are part of the path (`spec.template`).
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The path of the object itself: its children are top-level fields.
    pub const fn root() -> Self {
        Self(String::new())
    }

    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            return Self::new(name);
        }
        Self(format!("{}.{name}", self.0))
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// A map's entry, or a list's item by its key.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Upstream prints a path without elements this way.
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// Upstream's error types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl ErrorType {
    /// The `reason` of a Status cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One thing wrong with one field.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    pub kind: ErrorType,
    pub field: Path,
    /// What stood there; [`Value::Null`] prints as `null`. Not printed for the types that do not name it.
    pub bad_value: Value,
    /// Whether messages show the value.
    pub shows_value: bool,
    pub detail: String,
}

/// All that is wrong with an object, in the order it was found.
pub type ErrorList = Vec<Error>;

impl Error {
    fn new(kind: ErrorType, field: &Path, bad_value: Value, detail: impl Into<String>) -> Self {
        Self {
            kind,
            field: field.clone(),
            bad_value,
            shows_value: true,
            detail: detail.into(),
        }
    }

    /// The same error, which does not show what stood there.
    #[must_use]
    pub fn without_value(self) -> Self {
        Self {
            shows_value: false,
            ..self
        }
    }

    pub fn required(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Required, field, "".into(), detail)
    }

    pub fn invalid(field: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Invalid, field, value.into(), detail)
    }

    pub fn type_invalid(field: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::TypeInvalid, field, value.into(), detail)
    }

    pub fn duplicate(field: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::Duplicate, field, value.into(), "")
    }

    pub fn not_found(field: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::NotFound, field, value.into(), "")
    }

    pub fn forbidden(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Forbidden, field, "".into(), detail)
    }

    /// The allowed values are listed in the order given.
    pub fn not_supported(field: &Path, value: impl Into<Value>, allowed: &[&str]) -> Self {
        let detail = if allowed.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = allowed.iter().map(|value| quote(value)).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(ErrorType::NotSupported, field, value.into(), detail)
    }

    /// `max_bytes` is the limit in bytes; a negative one is left out of the message.
    pub fn too_long(field: &Path, max_bytes: i64) -> Self {
        let detail = if max_bytes >= 0 {
            format!(
                "may not be more than {max_bytes} byte{}",
                if max_bytes == 1 { "" } else { "s" }
            )
        } else {
            "value is too long".to_owned()
        };
        Self::new(ErrorType::TooLong, field, "<value omitted>".into(), detail)
    }

    pub fn too_many(field: &Path, actual: usize, max: usize) -> Self {
        let detail = format!("must have at most {max} item{}", if max == 1 { "" } else { "s" });
        // A list longer than i64::MAX cannot exist in memory.
        Self::new(
            ErrorType::TooMany,
            field,
            i64::try_from(actual).unwrap_or(i64::MAX).into(),
            detail,
        )
    }

    pub fn internal(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Internal, field, Value::Null, detail)
    }

    /// The message without the field: what a Status cause carries.
    pub fn body(&self) -> String {
        let mut text = match self.kind {
            ErrorType::Required | ErrorType::Forbidden | ErrorType::TooLong | ErrorType::Internal => {
                self.kind.text().to_owned()
            }
            _ if !self.shows_value => self.kind.text().to_owned(),
            _ => format!("{}: {}", self.kind.text(), render(&self.bad_value)),
        };
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// Errors as upstream joins them: one alone, several in brackets, repeated ones once.
pub fn aggregate(errors: &[Error]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    join_messages(&texts)
}

/// Several messages as one, as upstream's aggregated errors read; each is said once.
pub fn join_messages(messages: &[String]) -> String {
    let mut seen = std::collections::HashSet::new();
    let texts: Vec<&str> = messages
        .iter()
        .map(String::as_str)
        .filter(|text| seen.insert(*text))
        .collect();
    match texts.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

fn render(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(f) => f.to_string(),
        Value::Array(_) | Value::Object(_) => {
            let mut out = Vec::new();
            crate::codec::json::encode(value, &mut out);
            String::from_utf8_lossy(&out).into_owned()
        }
    }
}

/// A text in double quotes, escaped as Go's `%q` does.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_messages_read_as_upstream() {
        let path = Path::new("spec").child("containers").index(0).child("name");
        assert_eq!(path.to_string(), "spec.containers[0].name");
        assert_eq!(
            Path::new("metadata").child("labels").key("a/b").to_string(),
            "metadata.labels[a/b]"
        );
        let check = |error: Error, text: &str| assert_eq!(error.to_string(), text);
        check(
            Error::required(&path, ""),
            "spec.containers[0].name: Required value",
        );
        check(
            Error::invalid(&path, "A\"", "must be lower case"),
            r#"spec.containers[0].name: Invalid value: "A\"": must be lower case"#,
        );
        check(
            Error::not_supported(&path, "x", &["a", "b"]),
            r#"spec.containers[0].name: Unsupported value: "x": supported values: "a", "b""#,
        );
        check(
            Error::too_long(&path, 63),
            "spec.containers[0].name: Too long: may not be more than 63 bytes",
        );
        check(
            Error::too_many(&path, 9, 8),
            "spec.containers[0].name: Too many: 9: must have at most 8 items",
        );
        check(
            Error::forbidden(&path, "no"),
            "spec.containers[0].name: Forbidden: no",
        );
    }
}
