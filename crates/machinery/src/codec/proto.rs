//! Protobuf to values and back, along the tables: upstream's messages without generated code.
//!
//! An object travels and is stored in an envelope: the bytes `k8s\0`, then a `runtime.Unknown` that names the kind
//! and holds the object's message.
//!
//! **Invariant:** encoding is deterministic (fields by tag, map entries by key), and decoding skips what it does not
//! know, never panics, and is limited in depth.

use super::scalar;
use crate::gvk::GroupVersionKind;
use crate::schema::{Field, OnWire, Shape, Struct, TypeId, Types};
use crate::value::{Key, Map, Value};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use compact_str::CompactString;
use jiff::Timestamp;

/// What an enveloped object begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// Why bytes are no message of the type, or a value has no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NotEnveloped,
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: wrong wireType = {found} for field {field}")]
    WireType { field: String, found: u32 },
    #[error("proto: illegal tag or length")]
    Malformed,
    #[error("exceeded max depth")]
    TooDeep,
    #[error("proto: field {field}: {detail}")]
    Value { field: String, detail: String },
}

/// An envelope opened.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope<'a> {
    pub api_version: CompactString,
    pub kind: CompactString,
    /// The object's message (or what `content_type` says).
    pub raw: &'a [u8],
    pub content_type: CompactString,
}

/// Opens an envelope.
pub fn open_envelope(bytes: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    let mut message = Reader::new(bytes.strip_prefix(MAGIC).ok_or(ProtoError::NotEnveloped)?);
    let mut envelope = Envelope {
        api_version: CompactString::default(),
        kind: CompactString::default(),
        raw: &[],
        content_type: CompactString::default(),
    };
    while let Some((tag, wire)) = message.key()? {
        match (tag, wire) {
            (1, BYTES) => {
                let mut meta = Reader::new(message.bytes()?);
                while let Some((tag, wire)) = meta.key()? {
                    match (tag, wire) {
                        (1, BYTES) => envelope.api_version = meta.text()?,
                        (2, BYTES) => envelope.kind = meta.text()?,
                        _ => meta.skip(wire)?,
                    }
                }
            }
            (2, BYTES) => envelope.raw = message.bytes()?,
            (4, BYTES) => envelope.content_type = message.text()?,
            _ => message.skip(wire)?,
        }
    }
    Ok(envelope)
}

/// Decodes an enveloped object of type `id`; `apiVersion` and `kind` are the envelope's.
pub fn decode_envelope(bytes: &[u8], types: &Types, id: TypeId) -> Result<Value, ProtoError> {
    let envelope = open_envelope(bytes)?;
    let mut value = decode(envelope.raw, types, id)?;
    if let Value::Object(map) = &mut value {
        map.insert(Key::from_static("apiVersion"), envelope.api_version);
        map.insert(Key::from_static("kind"), envelope.kind);
    }
    Ok(value)
}

/// Appends an object of type `id` in its envelope.
pub fn encode_envelope(
    value: &Value,
    gvk: &GroupVersionKind,
    types: &Types,
    id: TypeId,
    out: &mut Vec<u8>,
) -> Result<(), ProtoError> {
    let start = begin_envelope(&gvk.api_version(), &gvk.kind, out);
    encode(value, types, id, out)?;
    end_envelope(start, out);
    Ok(())
}

/// Appends everything before an object's message; [`end_envelope`] closes what follows.
pub fn begin_envelope(api_version: &str, kind: &str, out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(MAGIC);
    let mut meta = Vec::with_capacity(api_version.len() + kind.len() + 4);
    put_bytes(1, api_version.as_bytes(), &mut meta);
    put_bytes(2, kind.as_bytes(), &mut meta);
    put_bytes(1, &meta, out);
    put_key(2, BYTES, out);
    out.len()
}

/// Closes an envelope whose message began at `start`.
pub fn end_envelope(start: usize, out: &mut Vec<u8>) {
    insert_length(start, out);
    // Upstream always writes the encoding and content type, which are empty for protobuf.
    out.extend_from_slice(&[0x1a, 0, 0x22, 0]);
}

/// Decodes a bare message of type `id`.
pub fn decode(bytes: &[u8], types: &Types, id: TypeId) -> Result<Value, ProtoError> {
    Decoder { types, depth: 0 }.message(bytes, id)
}

/// Appends a bare message of type `id`.
pub fn encode(value: &Value, types: &Types, id: TypeId, out: &mut Vec<u8>) -> Result<(), ProtoError> {
    let encoder = Encoder { types };
    encoder.message("", value, id, out)
}

struct Encoder<'a> {
    types: &'a Types,
}

impl Encoder<'_> {
    /// The content of a message: everything whose wire form is length-delimited and no text.
    fn message(&self, name: &str, value: &Value, id: TypeId, out: &mut Vec<u8>) -> Result<(), ProtoError> {
        match self.types.shape(id) {
            Shape::Struct(s) => match value {
                Value::Object(map) => {
                    self.fields(map, s.wire_fields().collect::<Vec<_>>().as_slice(), 0, out)
                }
                Value::Null => Ok(()),
                other => Err(wrong(name, other)),
            },
            // A list that is a message of its own, such as `ExtraValue`: its items are field 1.
            Shape::List(list) => {
                for item in value.as_array().ok_or_else(|| wrong(name, value))? {
                    self.field(name, 1, item, list.item, out)?;
                }
                Ok(())
            }
            Shape::Quantity => {
                put_bytes(1, text(name, value)?.as_bytes(), out);
                Ok(())
            }
            Shape::Time | Shape::MicroTime => {
                let time: Timestamp =
                    text(name, value)?
                        .parse()
                        .map_err(|e: jiff::Error| ProtoError::Value {
                            field: name.to_owned(),
                            detail: e.to_string(),
                        })?;
                put_key(1, VARINT, out);
                put_varint(time.as_second().cast_unsigned(), out);
                put_key(2, VARINT, out);
                put_varint(i64::from(time.subsec_nanosecond()).cast_unsigned(), out);
                Ok(())
            }
            Shape::IntOrString => {
                let (kind, int, string) = match value {
                    Value::Int(int) => (0, *int, ""),
                    other => (1, 0, text(name, other)?),
                };
                put_key(1, VARINT, out);
                put_varint(kind, out);
                put_key(2, VARINT, out);
                put_varint(int.cast_unsigned(), out);
                put_bytes(3, string.as_bytes(), out);
                Ok(())
            }
            Shape::Json | Shape::RawExtension | Shape::FieldsV1 => {
                put_key(1, BYTES, out);
                let start = out.len();
                super::json::encode(value, out);
                insert_length(start, out);
                Ok(())
            }
            Shape::SchemaOrBool(schema) => {
                put_key(1, VARINT, out);
                put_varint(u64::from(value.as_bool().unwrap_or(true)), out);
                if value.as_object().is_some() {
                    self.field(name, 2, value, *schema, out)?;
                }
                Ok(())
            }
            Shape::SchemaOrArray(schema) | Shape::SchemaOrStrings(schema) => match value {
                Value::Array(items) => {
                    for item in items {
                        match item {
                            Value::String(text) => put_bytes(2, text.as_bytes(), out),
                            item => self.field(name, 2, item, *schema, out)?,
                        }
                    }
                    Ok(())
                }
                value => self.field(name, 1, value, *schema, out),
            },
            Shape::Map(_)
            | Shape::Bool
            | Shape::Int32
            | Shape::Int64
            | Shape::Double
            | Shape::String
            | Shape::Bytes
            | Shape::Duration => Err(wrong(name, value)),
        }
    }

    /// The fields of a struct at one depth of inlined messages; they stand together, sorted by their way.
    fn fields(
        &self,
        map: &Map,
        mut fields: &[&Field],
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), ProtoError> {
        while let Some((first, rest)) = fields.split_first() {
            match first.via.get(depth) {
                None => {
                    if let Some(value) = map.get(&first.name) {
                        self.repeated(&first.name, first.tag, value, first.ty, out)?;
                    }
                    fields = rest;
                }
                Some(tag) => {
                    let end = fields
                        .iter()
                        .position(|f| f.via.get(depth) != Some(tag))
                        .unwrap_or(fields.len());
                    put_key(*tag, BYTES, out);
                    let start = out.len();
                    self.fields(map, &fields[..end], depth + 1, out)?;
                    insert_length(start, out);
                    fields = &fields[end..];
                }
            }
        }
        Ok(())
    }

    fn repeated(
        &self,
        name: &str,
        tag: u32,
        value: &Value,
        id: TypeId,
        out: &mut Vec<u8>,
    ) -> Result<(), ProtoError> {
        match (self.types.shape(id), value) {
            (_, Value::Null) => Ok(()),
            (Shape::List(list), Value::Array(items)) => items
                .iter()
                .try_for_each(|item| self.field(name, tag, item, list.item, out)),
            (Shape::Map(map), Value::Object(entries)) => entries.iter().try_for_each(|(key, item)| {
                put_key(tag, BYTES, out);
                let start = out.len();
                put_bytes(1, key.as_bytes(), out);
                self.field(name, 2, item, map.value, out)?;
                insert_length(start, out);
                Ok(())
            }),
            _ => self.field(name, tag, value, id, out),
        }
    }

    fn field(
        &self,
        name: &str,
        tag: u32,
        value: &Value,
        id: TypeId,
        out: &mut Vec<u8>,
    ) -> Result<(), ProtoError> {
        match (self.types.shape(id), value) {
            (Shape::Bool, Value::Bool(b)) => {
                put_key(tag, VARINT, out);
                put_varint(u64::from(*b), out);
            }
            (Shape::Int32 | Shape::Int64, Value::Int(int)) => {
                put_key(tag, VARINT, out);
                put_varint(int.cast_unsigned(), out);
            }
            (Shape::Double, value) => {
                let float = value.as_f64().ok_or_else(|| wrong(name, value))?;
                put_key(tag, FIXED64, out);
                out.extend_from_slice(&float.to_le_bytes());
            }
            (Shape::String, Value::String(text)) => put_bytes(tag, text.as_bytes(), out),
            (Shape::Bytes, Value::String(text)) => {
                let bytes = STANDARD.decode(text.as_bytes()).map_err(|e| ProtoError::Value {
                    field: name.to_owned(),
                    detail: e.to_string(),
                })?;
                put_bytes(tag, &bytes, out);
            }
            (Shape::Duration, Value::String(_))
            | (Shape::Bool | Shape::Int32 | Shape::Int64, _)
            | (Shape::String | Shape::Bytes | Shape::Duration, _) => return Err(wrong(name, value)),
            _ => {
                put_key(tag, BYTES, out);
                let start = out.len();
                self.message(name, value, id, out)?;
                insert_length(start, out);
            }
        }
        Ok(())
    }
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str, ProtoError> {
    value.as_str().ok_or_else(|| wrong(name, value))
}

fn wrong(name: &str, value: &Value) -> ProtoError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Int(_) | Value::Float(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    ProtoError::Value {
        field: name.to_owned(),
        detail: format!("{found} does not fit the field"),
    }
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_key(tag: u32, wire: u32, out: &mut Vec<u8>) {
    put_varint(u64::from(tag << 3 | wire), out);
}

pub(super) fn put_bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_key(tag, BYTES, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Puts the length of all from `start` on in front of it.
fn insert_length(start: usize, out: &mut Vec<u8>) {
    let length = out.len() - start;
    let mut prefix = Vec::with_capacity(5);
    put_varint(length as u64, &mut prefix);
    out.resize(out.len() + prefix.len(), 0);
    out.copy_within(start..start + length, start + prefix.len());
    out[start..start + prefix.len()].copy_from_slice(&prefix);
}

struct Decoder<'a> {
    types: &'a Types,
    depth: usize,
}

impl Decoder<'_> {
    fn message(&mut self, bytes: &[u8], id: TypeId) -> Result<Value, ProtoError> {
        self.depth += 1;
        if self.depth > super::json::MAX_DEPTH {
            return Err(ProtoError::TooDeep);
        }
        let value = self.shaped(bytes, id);
        self.depth -= 1;
        value
    }

    fn shaped(&mut self, bytes: &[u8], id: TypeId) -> Result<Value, ProtoError> {
        let types = self.types;
        let mut reader = Reader::new(bytes);
        Ok(match types.shape(id) {
            Shape::Struct(s) => {
                let mut map = Map::with_capacity(8);
                self.fields(reader, s, &mut Vec::new(), &mut map)?;
                Value::Object(map)
            }
            Shape::List(list) => {
                let mut items = Vec::new();
                while let Some((tag, wire)) = reader.key()? {
                    if tag == 1 {
                        items.push(self.value("items", wire, &mut reader, list.item)?);
                    } else {
                        reader.skip(wire)?;
                    }
                }
                Value::Array(items)
            }
            Shape::Quantity => {
                let mut text = CompactString::default();
                while let Some((tag, wire)) = reader.key()? {
                    match (tag, wire) {
                        (1, BYTES) => text = reader.text()?,
                        _ => reader.skip(wire)?,
                    }
                }
                Value::String(if text.is_empty() {
                    CompactString::const_new("0")
                } else {
                    text
                })
            }
            // Upstream writes a time that is not set as a message without content.
            Shape::Time | Shape::MicroTime if bytes.is_empty() => Value::Null,
            shape @ (Shape::Time | Shape::MicroTime) => {
                let (mut seconds, mut nanos) = (0, 0);
                while let Some((tag, wire)) = reader.key()? {
                    match (tag, wire) {
                        (1, VARINT) => seconds = reader.varint()?.cast_signed(),
                        (2, VARINT) => nanos = reader.varint()?.cast_signed(),
                        _ => reader.skip(wire)?,
                    }
                }
                let nanos = i32::try_from(nanos).unwrap_or(0);
                let time = Timestamp::new(seconds, nanos).map_err(|e| ProtoError::Value {
                    field: "seconds".to_owned(),
                    detail: e.to_string(),
                })?;
                Value::String(match shape {
                    Shape::Time => scalar::format_time(time),
                    _ => scalar::format_micro_time(time),
                })
            }
            Shape::IntOrString => {
                let (mut kind, mut int, mut string) = (0, 0, CompactString::default());
                while let Some((tag, wire)) = reader.key()? {
                    match (tag, wire) {
                        (1, VARINT) => kind = reader.varint()?,
                        // Upstream's field is an int32.
                        (2, VARINT) => int = reader.varint()? as u32 as i32,
                        (3, BYTES) => string = reader.text()?,
                        _ => reader.skip(wire)?,
                    }
                }
                if kind == 0 {
                    Value::from(int)
                } else {
                    Value::String(string)
                }
            }
            Shape::Json | Shape::RawExtension | Shape::FieldsV1 => {
                let mut raw: &[u8] = b"null";
                while let Some((tag, wire)) = reader.key()? {
                    match (tag, wire) {
                        (1, BYTES) => raw = reader.bytes()?,
                        _ => reader.skip(wire)?,
                    }
                }
                super::json::decode_any(raw)
                    .map_err(|e| ProtoError::Value {
                        field: "raw".to_owned(),
                        detail: e.to_string(),
                    })?
                    .value
            }
            Shape::SchemaOrBool(schema) => {
                let mut value = Value::Bool(false);
                while let Some((tag, wire)) = reader.key()? {
                    match (tag, wire) {
                        (1, VARINT) => {
                            let allows = reader.varint()? != 0;
                            if value.as_object().is_none() {
                                value = Value::Bool(allows);
                            }
                        }
                        (2, BYTES) => value = self.message(reader.bytes()?, *schema)?,
                        _ => reader.skip(wire)?,
                    }
                }
                value
            }
            shape @ (Shape::SchemaOrArray(schema) | Shape::SchemaOrStrings(schema)) => {
                let (mut one, mut many) = (None, Vec::new());
                while let Some((tag, wire)) = reader.key()? {
                    match (tag, wire) {
                        (1, BYTES) => one = Some(self.message(reader.bytes()?, *schema)?),
                        (2, BYTES) if matches!(shape, Shape::SchemaOrStrings(_)) => {
                            many.push(Value::String(reader.text()?));
                        }
                        (2, BYTES) => many.push(self.message(reader.bytes()?, *schema)?),
                        _ => reader.skip(wire)?,
                    }
                }
                one.unwrap_or(Value::Array(many))
            }
            Shape::Map(_)
            | Shape::Bool
            | Shape::Int32
            | Shape::Int64
            | Shape::Double
            | Shape::String
            | Shape::Bytes
            | Shape::Duration => return Err(ProtoError::Malformed),
        })
    }

    fn fields(
        &mut self,
        mut reader: Reader<'_>,
        s: &Struct,
        via: &mut Vec<u32>,
        map: &mut Map,
    ) -> Result<(), ProtoError> {
        while let Some((tag, wire)) = reader.key()? {
            match s.on_wire(via, tag) {
                OnWire::Field(field) => self.field(field, wire, &mut reader, map)?,
                OnWire::Message if wire == BYTES => {
                    let inner = Reader::new(reader.bytes()?);
                    via.push(tag);
                    self.fields(inner, s, via, map)?;
                    via.pop();
                }
                OnWire::Message | OnWire::Unknown => reader.skip(wire)?,
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &Field,
        wire: u32,
        reader: &mut Reader<'_>,
        map: &mut Map,
    ) -> Result<(), ProtoError> {
        let types = self.types;
        match types.shape(field.ty) {
            Shape::List(list) => {
                let item_shape = types.shape(list.item);
                let packed = wire == BYTES
                    && matches!(
                        item_shape,
                        Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Double
                    );
                let mut more = Vec::with_capacity(1);
                if packed {
                    let mut inner = Reader::new(reader.bytes()?);
                    let wire = if matches!(item_shape, Shape::Double) {
                        FIXED64
                    } else {
                        VARINT
                    };
                    while !inner.is_empty() {
                        more.push(self.value(&field.name, wire, &mut inner, list.item)?);
                    }
                } else {
                    more.push(self.value(&field.name, wire, reader, list.item)?);
                }
                match map.get_mut(&field.name) {
                    Some(Value::Array(items)) => items.append(&mut more),
                    _ => {
                        map.insert(field.name.clone(), Value::Array(more));
                    }
                }
            }
            Shape::Map(of) => {
                if wire != BYTES {
                    return Err(ProtoError::WireType {
                        field: field.name.to_string(),
                        found: wire,
                    });
                }
                let (key, value) = self.entry(&field.name, Reader::new(reader.bytes()?), of.value)?;
                if !matches!(map.get(&field.name), Some(Value::Object(_))) {
                    map.insert(field.name.clone(), Value::object());
                }
                if let Some(Value::Object(entries)) = map.get_mut(&field.name) {
                    entries.insert(key, value);
                }
            }
            _ => {
                let value = self.value(&field.name, wire, reader, field.ty)?;
                if !value.is_null() && !field.leaves_out(&value) {
                    map.insert(field.name.clone(), value);
                }
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        name: &str,
        mut reader: Reader<'_>,
        value_type: TypeId,
    ) -> Result<(Key, Value), ProtoError> {
        let (mut key, mut value) = (CompactString::default(), None);
        while let Some((tag, wire)) = reader.key()? {
            match (tag, wire) {
                (1, BYTES) => key = reader.text()?,
                (2, wire) => value = Some(self.value(name, wire, &mut reader, value_type)?),
                (_, wire) => reader.skip(wire)?,
            }
        }
        let value = value.unwrap_or_else(|| match self.types.shape(value_type) {
            Shape::String | Shape::Bytes => Value::string(""),
            Shape::Quantity => Value::string("0"),
            Shape::Struct(_) => Value::object(),
            Shape::List(_) => Value::Array(Vec::new()),
            Shape::Bool => Value::Bool(false),
            Shape::Int32 | Shape::Int64 => Value::Int(0),
            _ => Value::Null,
        });
        Ok((key.into(), value))
    }

    fn value(
        &mut self,
        name: &str,
        wire: u32,
        reader: &mut Reader<'_>,
        id: TypeId,
    ) -> Result<Value, ProtoError> {
        Ok(match (self.types.shape(id), wire) {
            (Shape::Bool, VARINT) => Value::Bool(reader.varint()? != 0),
            // Upstream's field is an int32: what is longer is cut, as Go's decoder does.
            (Shape::Int32, VARINT) => Value::from(reader.varint()? as u32 as i32),
            (Shape::Int64, VARINT) => Value::Int(reader.varint()?.cast_signed()),
            (Shape::Double, FIXED64) => Value::Float(f64::from_le_bytes(reader.array()?)),
            (Shape::String | Shape::Duration, BYTES) => Value::String(reader.text()?),
            (Shape::Bytes, BYTES) => Value::from(STANDARD.encode(reader.bytes()?)),
            (
                Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Double | Shape::String | Shape::Duration,
                _,
            )
            | (_, VARINT | FIXED64 | FIXED32) => {
                return Err(ProtoError::WireType {
                    field: name.to_owned(),
                    found: wire,
                });
            }
            _ => self.message(reader.bytes()?, id)?,
        })
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field's tag and wire type; `None` at the end.
    fn key(&mut self) -> Result<Option<(u32, u32)>, ProtoError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| ProtoError::Malformed)?;
        if key >> 3 == 0 {
            Err(ProtoError::Malformed)
        } else {
            Ok(Some((key >> 3, key & 7)))
        }
    }

    fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut value = 0;
        for (index, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 {
            ProtoError::Truncated
        } else {
            ProtoError::Malformed
        })
    }

    fn bytes(&mut self) -> Result<&'a [u8], ProtoError> {
        let length = usize::try_from(self.varint()?).map_err(|_| ProtoError::Malformed)?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(ProtoError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A text; invalid UTF-8 becomes U+FFFD.
    fn text(&mut self) -> Result<CompactString, ProtoError> {
        Ok(CompactString::from_utf8_lossy(self.bytes()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtoError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(ProtoError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn skip(&mut self, wire: u32) -> Result<(), ProtoError> {
        match wire {
            VARINT => self.varint().map(drop),
            FIXED64 => self.array::<8>().map(drop),
            BYTES => self.bytes().map(drop),
            FIXED32 => self.array::<4>().map(drop),
            _ => Err(ProtoError::Malformed),
        }
    }
}
