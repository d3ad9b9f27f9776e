//! JSON to values.
//!
//! Decoding walks the bytes once, along a type of the tables: a known field costs no key, an unknown one is skipped
//! and reported, scalars are checked and normalised (quantities, times, base64) on the way. What Go's decoder
//! forgives (null for absent, invalid UTF-8, a repeated field) is forgiven here and, where strictness matters,
//! reported as a finding.
//!
//! **Invariant:** nesting is limited to [`MAX_DEPTH`], so no input exhausts the stack.

use crate::codec::scalar;
use crate::schema::{ListKind, Shape, Struct, TypeId, Types};
use crate::value::{Key, Map, Value};
use compact_str::CompactString;
use std::fmt::{self, Write as _};

/// How deep objects and arrays may be nested.
pub const MAX_DEPTH: usize = 512;

/// Findings beyond this many are not collected, as upstream.
const MAX_FINDINGS: usize = 100;

/// A decoded value and what strict field validation has to say of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// In upstream's words: `unknown field "spec.foo"`, `duplicate field "spec.bar"`.
    pub findings: Vec<String>,
}

/// Why bytes are no value of the type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON; the text is Go's.
    #[error("{message}")]
    Syntax { message: String, offset: usize },
    /// JSON, but not of the type; the text is Go's.
    #[error("{0}")]
    Type(String),
    #[error("invalid character '{}' exceeded max depth", *.0 as char)]
    TooDeep(u8),
}

/// Decodes one document of type `id`.
pub fn decode(bytes: &[u8], types: &Types, id: TypeId) -> Result<Decoded, DecodeError> {
    let mut parser = Parser::new(bytes, Some(types));
    let value = parser.document(Some(id))?;
    Ok(Decoded {
        value,
        findings: parser.findings,
    })
}

/// Decodes one document of any shape; repeated fields are found, the last one stays.
pub fn decode_any(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut parser = Parser::new(bytes, None);
    let value = parser.document(None)?;
    Ok(Decoded {
        value,
        findings: parser.findings,
    })
}

/// Shapes an already decoded value by a type: what [`decode`] does to text. For YAML, CBOR and patches.
pub fn conform(value: &Value, types: &Types, id: TypeId) -> Result<Decoded, DecodeError> {
    let mut text = Vec::new();
    super::encode(value, &mut text);
    decode(&text, types, id)
}

/// The `apiVersion` and `kind` at the top of a document, read without building the rest.
pub fn peek_kind(bytes: &[u8]) -> Result<(CompactString, CompactString), DecodeError> {
    let mut parser = Parser::new(bytes, None);
    parser.space();
    let (mut version, mut kind) = (CompactString::default(), CompactString::default());
    if parser.peek() != Some(b'{') {
        return Err(parser.unexpected("looking for beginning of value"));
    }
    parser.each_field(|parser, name| {
        match (&*name, parser.peek()) {
            ("apiVersion", Some(b'"')) => version = parser.text()?.into(),
            ("kind", Some(b'"')) => kind = parser.text()?.into(),
            _ => parser.skip()?,
        }
        Ok(())
    })?;
    Ok((version, kind))
}

#[derive(Clone)]
enum Step<'a> {
    Field(std::borrow::Cow<'a, str>),
    Index(usize),
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    types: Option<&'a Types>,
    path: Vec<Step<'a>>,
    /// Name of the innermost struct, for Go's type errors.
    holder: &'a str,
    findings: Vec<String>,
}

impl<'a> Parser<'a> {
    fn new(bytes: &'a [u8], types: Option<&'a Types>) -> Self {
        Self {
            bytes,
            at: 0,
            depth: 0,
            types,
            path: Vec::new(),
            holder: "",
            findings: Vec::new(),
        }
    }

    fn document(&mut self, id: Option<TypeId>) -> Result<Value, DecodeError> {
        self.space();
        let value = match id {
            Some(id) => self.typed(id)?.unwrap_or_default(),
            None => self.any()?,
        };
        self.space();
        match self.peek() {
            None => Ok(value),
            Some(_) => Err(self.unexpected("after top-level value")),
        }
    }

    /// A value of a type; `None` for null.
    fn typed(&mut self, id: TypeId) -> Result<Option<Value>, DecodeError> {
        let Some(types) = self.types else {
            return self.any().map(Some);
        };
        if self.peek() == Some(b'n') {
            self.literal("null")?;
            return Ok(None);
        }
        let shape = types.shape(id);
        if types.is_lenient(id) {
            let fits = match shape {
                Shape::Struct(_) | Shape::Map(_) => self.peek() == Some(b'{'),
                Shape::List(_) => self.peek() == Some(b'['),
                _ => false,
            };
            if !fits {
                return self.any().map(Some);
            }
        }
        Ok(Some(match shape {
            Shape::Struct(s) => self.structure(s)?,
            Shape::Map(map) => self.map(map.value, id)?,
            Shape::List(list) => self.list(list.item, &list.kind, id)?,
            Shape::Json | Shape::RawExtension | Shape::FieldsV1 => self.any()?,
            Shape::SchemaOrBool(schema) => match self.peek() {
                Some(b'{') => self.typed(*schema)?.unwrap_or_default(),
                _ => self.any()?,
            },
            Shape::SchemaOrArray(schema) => match self.peek() {
                Some(b'[') => self.list(*schema, &ListKind::Atomic, id)?,
                _ => self.typed(*schema)?.unwrap_or_default(),
            },
            Shape::SchemaOrStrings(schema) => match self.peek() {
                Some(b'{') => self.typed(*schema)?.unwrap_or_default(),
                _ => self.any()?,
            },
            scalar => self.scalar(scalar, id)?,
        }))
    }

    fn structure(&mut self, s: &'a Struct) -> Result<Value, DecodeError> {
        if self.peek() != Some(b'{') {
            return Err(self.mismatch(&go_name(&s.name)));
        }
        let outer = std::mem::replace(&mut self.holder, short_name(&s.name));
        let mut entries = Vec::new();
        self.each_field(|parser, name| {
            let field = s.field(&name);
            parser.path.push(Step::Field(name.clone()));
            let entry = match (field, s.additional) {
                // Null is kept for the moment: it takes back what the field had before.
                (Some(field), _) => {
                    let value = parser.typed(field.ty)?.filter(|value| !field.leaves_out(value));
                    Some((field.name.clone(), value.unwrap_or_default()))
                }
                (None, Some(ty)) => Some((Key::from(&*name), parser.typed(ty)?.unwrap_or_default())),
                (None, None) if s.preserve_unknown => Some((Key::from(&*name), parser.any()?)),
                (None, None) => {
                    parser.find("unknown field");
                    parser.skip()?;
                    None
                }
            };
            entries.extend(entry);
            parser.path.pop();
            Ok(())
        })?;
        let mut map = self.object(entries);
        map.retain(|name, value| !value.is_null() || s.field(name).is_none_or(|field| field.nullable));
        self.holder = outer;
        Ok(Value::Object(map))
    }

    fn map(&mut self, item: TypeId, id: TypeId) -> Result<Value, DecodeError> {
        if self.peek() != Some(b'{') {
            let name = self.go_type(id);
            return Err(self.mismatch(&name));
        }
        let mut entries = Vec::new();
        self.each_field(|parser, name| {
            let key = Key::from(&*name);
            parser.path.push(Step::Field(name));
            match parser.typed(item)? {
                Some(value) => entries.push((key, value)),
                None if parser.forgives(item) && !parser.zero(item).is_null() => {}
                None => entries.push((key, parser.zero(item))),
            }
            parser.path.pop();
            Ok(())
        })?;
        Ok(Value::Object(self.object(entries)))
    }

    fn list(&mut self, item: TypeId, _kind: &ListKind, id: TypeId) -> Result<Value, DecodeError> {
        if self.peek() != Some(b'[') {
            let name = self.go_type(id);
            return Err(self.mismatch(&name));
        }
        let mut items = Vec::new();
        self.each_item(|parser, index| {
            parser.path.push(Step::Index(index));
            let value = match parser.typed(item)? {
                Some(value) => value,
                None if parser.forgives(item) => Value::Null,
                None => parser.zero(item),
            };
            items.push(value);
            parser.path.pop();
            Ok(())
        })?;
        Ok(Value::Array(items))
    }

    /// An object of the fields read; repeated ones are reported.
    fn object(&mut self, entries: Vec<(Key, Value)>) -> Map {
        Map::from_unsorted(entries, |key| {
            self.path.push(Step::Field(key.to_string().into()));
            self.find("duplicate field");
            self.path.pop();
        })
    }

    fn forgives(&self, id: TypeId) -> bool {
        self.types.is_some_and(|types| types.is_lenient(id))
    }

    /// What Go's decoder leaves where null stands in a list or map.
    fn zero(&self, id: TypeId) -> Value {
        match self.types.map(|types| types.shape(id)) {
            Some(Shape::Bool) => Value::Bool(false),
            Some(Shape::Int32 | Shape::Int64) => Value::Int(0),
            Some(Shape::String) => Value::string(""),
            Some(Shape::Quantity) => Value::string("0"),
            Some(Shape::Struct(_) | Shape::Map(_)) => Value::object(),
            Some(Shape::List(_)) => Value::Array(Vec::new()),
            _ => Value::Null,
        }
    }

    fn scalar(&mut self, shape: &Shape, id: TypeId) -> Result<Value, DecodeError> {
        match (shape, self.peek()) {
            (Shape::Bool, Some(b't' | b'f')) => self.any(),
            (Shape::Int32 | Shape::Int64, Some(b'-' | b'0'..=b'9')) => {
                let literal = self.number_text()?;
                let fits = match literal.parse::<i64>() {
                    Ok(int) if matches!(shape, Shape::Int64) || i32::try_from(int).is_ok() => Some(int),
                    _ => None,
                };
                match fits {
                    Some(int) => Ok(Value::Int(int)),
                    None => {
                        let go = self.go_type(id);
                        Err(self.cannot(&format!("number {literal}"), &go))
                    }
                }
            }
            (Shape::Double, Some(b'-' | b'0'..=b'9')) => self.any(),
            (Shape::String, Some(b'"')) => Ok(Value::String(self.text()?.into())),
            (Shape::IntOrString, Some(b'"')) => Ok(Value::String(self.text()?.into())),
            (Shape::IntOrString, Some(b'-' | b'0'..=b'9')) => {
                let literal = self.number_text()?;
                match literal.parse::<i32>() {
                    Ok(int) => Ok(Value::Int(int.into())),
                    Err(_) => Err(self.cannot(&format!("number {literal}"), "int32")),
                }
            }
            (Shape::Bytes, Some(b'"')) => {
                let text = self.text()?;
                scalar::base64(&text)
                    .map(Value::String)
                    .map_err(DecodeError::Type)
            }
            (Shape::Quantity, Some(b'"')) => {
                let text = self.text()?;
                scalar::quantity(&text)
                    .map(Value::String)
                    .map_err(DecodeError::Type)
            }
            (Shape::Quantity, Some(b'-' | b'0'..=b'9')) => {
                let text = self.number_text()?;
                scalar::quantity(text)
                    .map(Value::String)
                    .map_err(DecodeError::Type)
            }
            (Shape::Time, Some(b'"')) => {
                let text = self.text()?;
                scalar::time(&text).map(Value::String).map_err(DecodeError::Type)
            }
            (Shape::MicroTime, Some(b'"')) => {
                let text = self.text()?;
                scalar::micro_time(&text)
                    .map(Value::String)
                    .map_err(DecodeError::Type)
            }
            (Shape::Duration, Some(b'"')) => Ok(Value::String(self.text()?.into())),
            _ => {
                let go = self.go_type(id);
                Err(self.mismatch(&go))
            }
        }
    }

    fn any(&mut self) -> Result<Value, DecodeError> {
        match self.peek() {
            Some(b'{') => {
                let mut entries = Vec::new();
                self.each_field(|parser, name| {
                    let key = Key::from(&*name);
                    parser.path.push(Step::Field(name));
                    entries.push((key, parser.any()?));
                    parser.path.pop();
                    Ok(())
                })?;
                Ok(Value::Object(self.object(entries)))
            }
            Some(b'[') => {
                let mut items = Vec::new();
                self.each_item(|parser, index| {
                    parser.path.push(Step::Index(index));
                    items.push(parser.any()?);
                    parser.path.pop();
                    Ok(())
                })?;
                Ok(Value::Array(items))
            }
            Some(b'"') => Ok(Value::String(self.text()?.into())),
            Some(b't') => self.literal("true").map(|()| Value::Bool(true)),
            Some(b'f') => self.literal("false").map(|()| Value::Bool(false)),
            Some(b'n') => self.literal("null").map(|()| Value::Null),
            Some(b'-' | b'0'..=b'9') => {
                let literal = self.number_text()?;
                match literal.parse::<i64>() {
                    Ok(int) => Ok(Value::Int(int)),
                    Err(_) => match literal.parse::<f64>() {
                        Ok(float) if float.is_finite() => Ok(Value::Float(float)),
                        _ => Err(self.cannot(&format!("number {literal}"), "float64")),
                    },
                }
            }
            _ => Err(self.unexpected("looking for beginning of value")),
        }
    }

    /// Passes over one value.
    fn skip(&mut self) -> Result<(), DecodeError> {
        match self.peek() {
            Some(b'{') => self.each_field(|parser, _| parser.skip()),
            Some(b'[') => self.each_item(|parser, _| parser.skip()),
            Some(b'"') => self.text().map(drop),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            Some(b'-' | b'0'..=b'9') => self.number_text().map(drop),
            _ => Err(self.unexpected("looking for beginning of value")),
        }
    }

    fn each_field(
        &mut self,
        mut each: impl FnMut(&mut Self, std::borrow::Cow<'a, str>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        self.enter()?;
        self.space();
        if self.peek() == Some(b'}') {
            return self.leave();
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("looking for beginning of object key string"));
            }
            let name = self.text()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("after object key"));
            }
            self.at += 1;
            self.space();
            each(self, name)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => return self.leave(),
                _ => return Err(self.unexpected("after object key:value pair")),
            }
        }
    }

    fn each_item(
        &mut self,
        mut each: impl FnMut(&mut Self, usize) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        self.enter()?;
        self.space();
        if self.peek() == Some(b']') {
            return self.leave();
        }
        for index in 0.. {
            self.space();
            each(self, index)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.unexpected("after array element")),
            }
        }
        self.leave()
    }

    fn enter(&mut self) -> Result<(), DecodeError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep(self.peek().unwrap_or(b'{')));
        }
        self.at += 1;
        Ok(())
    }

    fn leave(&mut self) -> Result<(), DecodeError> {
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), DecodeError> {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                return Err(self.unexpected(&format!("in literal {word} (expecting '{}')", expected as char)));
            }
            self.at += 1;
        }
        Ok(())
    }

    /// A number's text, which is in JSON's grammar.
    fn number_text(&mut self) -> Result<&'a str, DecodeError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.unexpected("in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if !matches!(self.peek(), Some(b'0'..=b'9')) {
                return Err(self.unexpected("after decimal point in numeric literal"));
            }
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !matches!(self.peek(), Some(b'0'..=b'9')) {
                return Err(self.unexpected("in exponent of numeric literal"));
            }
            self.digits();
        }
        let bytes = self.bytes;
        // Only ASCII was passed over.
        Ok(std::str::from_utf8(&bytes[start..self.at]).unwrap_or_default())
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    /// A string; borrowed when nothing in it is escaped. Invalid UTF-8 becomes U+FFFD, as in Go.
    fn text(&mut self) -> Result<std::borrow::Cow<'a, str>, DecodeError> {
        let bytes = self.bytes;
        self.at += 1;
        let start = self.at;
        let stop = self.plain_run();
        if self.bytes.get(stop) == Some(&b'"') {
            self.at = stop + 1;
            return Ok(String::from_utf8_lossy(&bytes[start..stop]));
        }
        let mut out = String::new();
        let mut from = start;
        self.at = stop;
        loop {
            out.push_str(&String::from_utf8_lossy(&bytes[from..self.at]));
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out.into());
                }
                Some(b'\\') => self.escape(&mut out)?,
                _ => return Err(self.unexpected("in string literal")),
            }
            from = self.at;
            self.at = self.plain_run();
        }
    }

    /// The first byte from here on that is a quote, a backslash or a control character.
    fn plain_run(&self) -> usize {
        let rest = &self.bytes[self.at..];
        let end = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        self.at + rest[..end].iter().position(|byte| *byte < 0x20).unwrap_or(end)
    }

    fn escape(&mut self, out: &mut String) -> Result<(), DecodeError> {
        self.at += 1;
        let c = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let high = self.hex4()?;
                out.push(match high {
                    0xd800..=0xdbff if self.bytes[self.at..].starts_with(b"\\u") => {
                        let back = self.at;
                        self.at += 1;
                        match self.hex4()? {
                            low @ 0xdc00..=0xdfff => {
                                char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
                                    .unwrap_or(char::REPLACEMENT_CHARACTER)
                            }
                            _ => {
                                self.at = back;
                                char::REPLACEMENT_CHARACTER
                            }
                        }
                    }
                    code => char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
                });
                return Ok(());
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        out.push(c);
        self.at += 1;
        Ok(())
    }

    /// At the `u` of an escape; leaves after its four digits.
    fn hex4(&mut self) -> Result<u32, DecodeError> {
        let mut code = 0;
        for _ in 0..4 {
            self.at += 1;
            match self.peek().and_then(|byte| (byte as char).to_digit(16)) {
                Some(digit) => code = code * 16 + digit,
                None => return Err(self.unexpected("in \\u hexadecimal character escape")),
            }
        }
        self.at += 1;
        Ok(code)
    }

    fn find(&mut self, what: &str) {
        if self.findings.len() < MAX_FINDINGS {
            let finding = format!("{what} {}", crate::field::quote(&self.path_text()));
            if !self.findings.contains(&finding) {
                self.findings.push(finding);
            }
        }
    }

    fn path_text(&self) -> String {
        let mut out = String::new();
        for step in &self.path {
            // Writing to a String cannot fail.
            let _ = match step {
                Step::Field(name) if out.is_empty() => write!(out, "{name}"),
                Step::Field(name) => write!(out, ".{name}"),
                Step::Index(index) => write!(out, "[{index}]"),
            };
        }
        out
    }

    fn unexpected(&self, context: &str) -> DecodeError {
        let message = match self.bytes.get(self.at) {
            None => "unexpected end of JSON input".to_owned(),
            Some(byte) => format!("invalid character {} {context}", GoByte(*byte)),
        };
        DecodeError::Syntax {
            message,
            offset: self.at,
        }
    }

    /// The value here is of another JSON type than `go` wants.
    fn mismatch(&mut self, go: &str) -> DecodeError {
        let found = match self.peek() {
            Some(b'{') => "object",
            Some(b'[') => "array",
            Some(b'"') => "string",
            Some(b't' | b'f') => "bool",
            Some(b'-' | b'0'..=b'9') => "number",
            _ => return self.unexpected("looking for beginning of value"),
        };
        self.cannot(found, go)
    }

    fn cannot(&self, found: &str, go: &str) -> DecodeError {
        DecodeError::Type(if self.holder.is_empty() || self.path.is_empty() {
            format!("json: cannot unmarshal {found} into Go value of type {go}")
        } else {
            format!(
                "json: cannot unmarshal {found} into Go struct field {}.{} of type {go}",
                self.holder,
                self.path_without_indexes()
            )
        })
    }

    fn path_without_indexes(&self) -> String {
        let names: Vec<&str> = self
            .path
            .iter()
            .filter_map(|step| match step {
                Step::Field(name) => Some(&**name),
                Step::Index(_) => None,
            })
            .collect();
        names.join(".")
    }

    /// The name Go gives a type.
    fn go_type(&self, id: TypeId) -> String {
        let Some(types) = self.types else {
            return "interface {}".to_owned();
        };
        match types.shape(id) {
            Shape::Bool => "bool".to_owned(),
            Shape::Int32 | Shape::IntOrString => "int32".to_owned(),
            Shape::Int64 => "int64".to_owned(),
            Shape::Double => "float64".to_owned(),
            Shape::Bytes => "[]uint8".to_owned(),
            Shape::String | Shape::Quantity | Shape::Time | Shape::MicroTime | Shape::Duration => {
                "string".to_owned()
            }
            Shape::Struct(s) => go_name(&s.name),
            Shape::List(list) => format!("[]{}", self.go_type(list.item)),
            Shape::Map(map) => format!("map[string]{}", self.go_type(map.value)),
            Shape::Json | Shape::RawExtension | Shape::FieldsV1 => "interface {}".to_owned(),
            Shape::SchemaOrBool(_) | Shape::SchemaOrArray(_) | Shape::SchemaOrStrings(_) => {
                "v1.JSONSchemaProps".to_owned()
            }
        }
    }
}

/// `PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn short_name(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// `v1.PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn go_name(name: &str) -> String {
    let mut parts = name.rsplit('.');
    match (parts.next(), parts.next()) {
        (Some(kind), Some(package)) => format!("{package}.{kind}"),
        _ => "map[string]interface {}".to_owned(),
    }
}

/// A byte as Go's syntax errors show it.
struct GoByte(u8);

impl fmt::Display for GoByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b'\'' => f.write_str(r"'\''"),
            b'"' => f.write_str("'\"'"),
            b'\n' => f.write_str(r"'\n'"),
            b'\r' => f.write_str(r"'\r'"),
            b'\t' => f.write_str(r"'\t'"),
            byte @ 0x20..=0x7e => write!(f, "'{}'", byte as char),
            byte @ 0x80.. => write!(f, "'{}'", byte as char),
            byte => write!(f, r"'\x{byte:02x}'"),
        }
    }
}
