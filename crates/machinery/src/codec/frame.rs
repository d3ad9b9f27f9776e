//! The frames of a watch: an event's type and its object, which is encoded already.
//!
//! ```text
//! JSON      {"type":"ADDED","object":…}\n
//! protobuf  four bytes of length, WatchEvent { type = 1, object = 2: RawExtension { raw = 1 } }
//! CBOR      a document of a sequence (RFC 8742)
//! ```

use super::{cbor, proto};

/// What ends a JSON frame, after the object.
pub const JSON_END: &[u8] = b"}\n";

/// A line of JSON. `kind` needs no escape.
pub fn json(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + 32);
    out.extend_from_slice(br#"{"type":""#);
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(br#"","object":"#);
    out.extend_from_slice(object);
    out.extend_from_slice(JSON_END);
    out
}

/// A length-delimited message.
pub fn protobuf(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut extension = Vec::with_capacity(object.len() + 8);
    proto::put_bytes(1, object, &mut extension);
    let mut event = vec![0; 4];
    event.reserve(extension.len() + kind.len() + 16);
    proto::put_bytes(1, kind.as_bytes(), &mut event);
    proto::put_bytes(2, &extension, &mut event);
    // A frame is limited by what a request may hold, far below 4 GiB.
    let length = (event.len() - 4) as u32;
    event[..4].copy_from_slice(&length.to_be_bytes());
    event
}

/// A CBOR document that holds another.
pub fn cbor(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + 32);
    out.extend_from_slice(cbor::MAGIC);
    cbor::begin_map(2, &mut out);
    cbor::encode_text("type", &mut out);
    cbor::encode_text(kind, &mut out);
    cbor::encode_text("object", &mut out);
    out.extend_from_slice(object);
    out
}
