//! Encoded objects made from encoded objects, without decoding them.
//!
//! What is stored lacks only its resource version to be what a client is sent in protobuf, and the metadata of an
//! object stands whole in its JSON. Both are cut and joined here, so that neither is kept beside what is kept anyway.
//!
//! **Invariant:** the result is byte for byte what decoding and encoding would give, or there is none: bytes that are
//! not in the order encoders write are left to the long way.

use super::{put_field, put_varint};
use compact_str::{CompactString, ToCompactString as _};
use machinery::codec::proto::MAGIC;

/// The field of an object's message that is its metadata.
const METADATA: u64 = 1;
/// The field of a metadata's message that is its resource version.
const RESOURCE_VERSION: u64 = 6;
/// The field of an envelope that is the object's message.
const RAW: u64 = 2;
/// The wire type of what has a length.
const BYTES: u64 = 2;

/// An enveloped object of which only the resource version is to be another.
pub(super) struct Stamped<'a> {
    version: CompactString,
    /// What the envelope holds before and after the object's message.
    head: &'a [u8],
    tail: &'a [u8],
    /// The metadata, around where the version stands.
    before: &'a [u8],
    after: &'a [u8],
    /// The message behind its metadata.
    rest: &'a [u8],
}

impl<'a> Stamped<'a> {
    pub(super) fn new(envelope: &'a [u8], revision: u64) -> Option<Self> {
        let body = envelope.strip_prefix(MAGIC)?;
        let (raw, raw_field) = only_field(body, RAW)?;
        let (metadata, metadata_field) = only_field(raw, METADATA)?;
        if metadata_field.start != 0 {
            return None;
        }
        let (before, after) = around(metadata, RESOURCE_VERSION)?;
        Some(Self {
            version: revision.to_compact_string(),
            head: &body[..raw_field.start],
            tail: &body[raw_field.end..],
            before,
            after,
            rest: &raw[metadata_field.end..],
        })
    }

    fn metadata_length(&self) -> usize {
        // A version has far less than 128 digits, so its length takes one byte.
        self.before.len() + 2 + self.version.len() + self.after.len()
    }

    /// The length of the object's message.
    pub(super) fn raw_length(&self) -> usize {
        let metadata = self.metadata_length();
        1 + varint_length(metadata) + metadata + self.rest.len()
    }

    /// The object's message, as a field that has this number.
    pub(super) fn put_as(&self, number: u64, out: &mut Vec<u8>) {
        put_varint(out, number << 3 | BYTES);
        put_varint(out, self.raw_length() as u64);
        put_varint(out, METADATA << 3 | BYTES);
        put_varint(out, self.metadata_length() as u64);
        out.extend_from_slice(self.before);
        put_field(out, RESOURCE_VERSION as u32, self.version.as_bytes());
        out.extend_from_slice(self.after);
        out.extend_from_slice(self.rest);
    }

    /// The object in its envelope.
    pub(super) fn envelope(&self) -> Vec<u8> {
        let around = MAGIC.len() + self.head.len() + self.tail.len();
        let mut out = Vec::with_capacity(around + self.raw_length() + 10);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(self.head);
        self.put_as(RAW, &mut out);
        out.extend_from_slice(self.tail);
        out
    }
}

/// The text of a field of an object in JSON as it is encoded here: without white space.
pub(super) fn json_field<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut at = 1;
    loop {
        let key_end = string_end(object, at)?;
        let key = &object[at + 1..key_end - 1];
        let start = key_end + 1;
        let end = value_end(object, start)?;
        if key == name.as_bytes() {
            return Some(&object[start..end]);
        }
        if object.get(end) != Some(&b',') {
            return None;
        }
        at = end + 1;
    }
}

/// Where the text that begins at `start` ends, behind its quotation mark.
fn string_end(json: &[u8], start: usize) -> Option<usize> {
    if json.get(start) != Some(&b'"') {
        return None;
    }
    let mut at = start + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Where the value that begins at `start` ends.
fn value_end(json: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut depth) = (start, 0usize);
    loop {
        match json.get(at)? {
            b'"' => {
                at = string_end(json, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b',' if depth == 0 => return Some(at),
            b'}' | b']' => match depth.checked_sub(1) {
                None => return Some(at),
                Some(less) => depth = less,
            },
            _ => {}
        }
        at += 1;
    }
}

/// The one field of a message that has this number and a length, and where it stands with its key.
fn only_field(message: &[u8], number: u64) -> Option<(&[u8], std::ops::Range<usize>)> {
    let mut found = None;
    let mut fields = Fields { message, at: 0 };
    while fields.at < message.len() {
        let field = fields.read()?;
        if field.number != number {
            continue;
        }
        if found.is_some() {
            return None;
        }
        found = Some((field.content?, field.place));
    }
    found
}

/// What stands before and after a field's place; the fields must be in order.
fn around(message: &[u8], number: u64) -> Option<(&[u8], &[u8])> {
    let (mut before, mut after, mut last) = (0, None, 0);
    let mut fields = Fields { message, at: 0 };
    while fields.at < message.len() {
        let field = fields.read()?;
        if field.number < last {
            return None;
        }
        last = field.number;
        if field.number < number {
            before = field.place.end;
        } else if field.number > number {
            after.get_or_insert(field.place.start);
        }
    }
    Some((&message[..before], &message[after.unwrap_or(message.len())..]))
}

struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

struct Field<'a> {
    number: u64,
    /// Where it stands, its key included.
    place: std::ops::Range<usize>,
    /// Only of what has a length.
    content: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Option<Field<'a>> {
        let start = self.at;
        let key = self.varint()?;
        let mut content = None;
        match key & 7 {
            0 => drop(self.varint()?),
            1 => self.at = self.at.checked_add(8)?,
            BYTES => {
                let length = usize::try_from(self.varint()?).ok()?;
                let end = self.at.checked_add(length)?;
                content = Some(self.message.get(self.at..end)?);
                self.at = end;
            }
            5 => self.at = self.at.checked_add(4)?,
            _ => return None,
        }
        (self.at <= self.message.len()).then_some(Field {
            number: key >> 3,
            place: start..self.at,
            content,
        })
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.message.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

/// Bytes that a number takes.
pub(super) fn varint_length(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::codec;

    /// Encodes the JSON of an object, with this resource version.
    fn encoded(json: &str, version: Option<&str>) -> Vec<u8> {
        let mut value = codec::json::decode_any(json.as_bytes()).expect("json").value;
        if let Some(version) = version {
            value.set_path(&["metadata", "resourceVersion"], version);
        }
        let gvk = machinery::gvk::GroupVersion::parse(super::super::text(&value, "apiVersion"))
            .expect("a version")
            .with_kind(super::super::text(&value, "kind"));
        let mut out = Vec::new();
        let ty = api::kind(&gvk).expect("a kind");
        codec::proto::encode_envelope(&value, &gvk, api::types(), ty, &mut out).expect("encodes");
        out
    }

    #[test]
    fn a_stamped_object_is_the_encoded_one() {
        let filler = "x".repeat(20_000);
        let long = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a","labels":{{"{}":"b"}}}},"data":{{"k":"{filler}"}}}}"#,
            "l".repeat(100)
        );
        for json in [
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}"#,
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","generateName":"b","namespace":"c","uid":"d","generation":7,"creationTimestamp":"2026-01-01T00:00:00Z","deletionGracePeriodSeconds":3,"labels":{"x":"y"},"finalizers":["f"],"managedFields":[{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{}}}]},"data":{"k":"v"}}"#,
            r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"},"resourceVersion":"9"},"spec":{"containers":[{"name":"c"}]}}}}"#,
            &long,
        ] {
            for revision in [1, 127, u64::MAX] {
                let version = revision.to_string();
                for stored in [None, Some(""), Some("12345678901")] {
                    let wanted = encoded(json, Some(&version));
                    let stored = encoded(json, stored);
                    let stamped = Stamped::new(&stored, revision).expect("can be stamped");
                    assert_eq!(stamped.envelope(), wanted, "{json} {version}");
                    let raw = codec::proto::open_envelope(&wanted).expect("an envelope").raw;
                    assert_eq!(stamped.raw_length(), raw.len(), "{json} {version}");
                }
            }
        }
    }

    #[test]
    fn what_no_encoder_writes_is_left_alone() {
        let good = encoded(
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#,
            None,
        );
        for cut in 0..good.len() - 4 {
            // Cut anywhere it is refused, or still whole without its last fields; it never panics.
            if let Some(stamped) = Stamped::new(&good[..cut], 1) {
                stamped.envelope();
            }
        }
        let message = |raw: &[u8]| {
            let mut out = MAGIC.to_vec();
            put_field(&mut out, RAW as u32, raw);
            out
        };
        let mut twice = Vec::new();
        put_field(&mut twice, 1, b"");
        put_field(&mut twice, 1, b"");
        let mut late = Vec::new();
        put_field(&mut late, 2, b"");
        put_field(&mut late, 1, b"");
        let mut disordered = Vec::new();
        put_field(&mut disordered, 1, b"\x3a\x00\x0a\x00");
        for raw in [&b""[..], b"\xff", b"\x0a\xff\x01", &twice, &late, &disordered] {
            assert!(Stamped::new(&message(raw), 1).is_none(), "{raw:?}");
        }
    }

    #[test]
    fn a_field_is_cut_out_of_json() {
        let object = br#"{"apiVersion":"v1","data":{"a":"}\\\"{,","metadata":[1]},"flag":true,"metadata":{"name":"a","b":[{},"]"]},"n":-1}"#;
        let field = |name| json_field(object, name).map(|text| std::str::from_utf8(text).expect("text"));
        assert_eq!(field("metadata"), Some(r#"{"name":"a","b":[{},"]"]}"#));
        assert_eq!(field("data"), Some(r#"{"a":"}\\\"{,","metadata":[1]}"#));
        assert_eq!(field("n"), Some("-1"));
        assert_eq!(field("flag"), Some("true"));
        assert_eq!(field("name"), None);
        assert_eq!(json_field(b"{}", "a"), None);
        for cut in 0..object.len() {
            let _ = json_field(&object[..cut], "n");
        }
    }
}
