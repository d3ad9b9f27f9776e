//! What the fuzzers call, one function a target.
//!
//! None may panic on any bytes, but for its own assertions: what must hold of everything that could be read.

// The tests of `machinery` take this file in as a module.
#![allow(unreachable_pub)]

use jiff::Timestamp;
use machinery::apply::{FieldManager, ManagedFields, ResetFields, SameFields};
use machinery::codec::{cbor, frame, json as js, proto, yaml as ym};
use machinery::continue_token as token;
use machinery::patch::{Patch, PatchKind};
use machinery::schema::{TypeId, Types};
use machinery::selector::{FieldSelector, LabelSelector};
use machinery::{Map, Value};

/// What a fuzzer calls.
pub type Entry = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Entry); 9] = [
    ("apply", apply),
    ("cbor", cbor),
    ("continue_token", continue_token),
    ("frames", frames),
    ("json", json),
    ("patches", patches),
    ("protobuf", protobuf),
    ("selectors", selectors),
    ("yaml", yaml),
];

/// The kinds objects are of, as the first byte says.
const KINDS: [(&str, &str, &str); 8] = [
    ("io.k8s.api.core.v1.Pod", "v1", "Pod"),
    ("io.k8s.api.apps.v1.Deployment", "apps/v1", "Deployment"),
    ("io.k8s.api.core.v1.Service", "v1", "Service"),
    ("io.k8s.api.core.v1.Secret", "v1", "Secret"),
    (
        "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
    ),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
    ),
    ("io.k8s.api.core.v1.Node", "v1", "Node"),
    (
        "io.k8s.api.coordination.v1.Lease",
        "coordination.k8s.io/v1",
        "Lease",
    ),
];

struct Kind {
    types: &'static Types,
    id: TypeId,
    version: &'static str,
    name: &'static str,
}

/// The kind a first byte names, and the rest.
fn kind(data: &[u8]) -> Option<(Kind, &[u8])> {
    let (first, rest) = data.split_first()?;
    let (type_name, version, name) = KINDS[usize::from(*first) % KINDS.len()];
    let id = api::by_name(type_name).expect("a built-in kind");
    let types = api::types();
    Some((
        Kind {
            types,
            id,
            version,
            name,
        },
        rest,
    ))
}

/// What any reader made must be said and read again in every encoding, and be the same.
fn goes_round(kind: &Kind, value: &Value) {
    let text = js::to_vec(value);
    let again = js::decode(&text, kind.types, kind.id).expect("what was written is read");
    assert_eq!(again.findings, Vec::<String>::new());
    let text = js::to_vec(&again.value);
    let binary = cbor::to_vec(
        &again.value,
        Some(cbor::Typed {
            types: kind.types,
            id: kind.id,
        }),
    );
    let read = cbor::decode(&binary, kind.types, kind.id).expect("what was written is read");
    assert_eq!(js::to_vec(&read.value), text, "through CBOR");
    // Not all that JSON can say fits a message; what fits is fixed.
    let mut message = Vec::new();
    if proto::encode(&again.value, kind.types, kind.id, &mut message).is_ok() {
        let read = proto::decode(&message, kind.types, kind.id).expect("what was written is read");
        let mut second = Vec::new();
        proto::encode(&read, kind.types, kind.id, &mut second).expect("what was read is written");
        assert_eq!(second, message, "through protobuf");
    }
}

/// A kind, then a document.
pub fn json(data: &[u8]) {
    let _ = js::peek_kind(data);
    if let Ok(decoded) = js::decode_any(data) {
        let text = js::to_vec(&decoded.value);
        let again = js::decode_any(&text).expect("what was written is read");
        let text = js::to_vec(&again.value);
        let third = js::decode_any(&text).expect("what was written is read");
        // From the second text on: whole floats are written, and read, as integers, and -0 is 0 then.
        assert_eq!(js::to_vec(&third.value), text);
        js::encode_pretty(&decoded.value, &mut Vec::new());
    }
    let Some((kind, text)) = kind(data) else { return };
    if let Ok(decoded) = js::decode(text, kind.types, kind.id) {
        goes_round(&kind, &decoded.value);
    }
}

/// A kind, then a document.
pub fn yaml(data: &[u8]) {
    let Some((kind, text)) = kind(data) else { return };
    if let Ok(decoded) = ym::decode(text, kind.types, kind.id) {
        let mut out = Vec::new();
        ym::encode(&decoded.value, &mut out).expect("a value has a YAML form");
        let again = ym::decode(&out, kind.types, kind.id).expect("what was written is read");
        assert_eq!(js::to_vec(&again.value), js::to_vec(&decoded.value));
    }
}

/// A kind, then a message; or an envelope.
pub fn protobuf(data: &[u8]) {
    let Some((kind, bytes)) = kind(data) else { return };
    if let Ok(envelope) = proto::open_envelope(bytes) {
        let _ = proto::decode(envelope.raw, kind.types, kind.id);
    }
    if let Ok(value) = proto::decode(bytes, kind.types, kind.id) {
        let mut first = Vec::new();
        if proto::encode(&value, kind.types, kind.id, &mut first).is_ok() {
            let again = proto::decode(&first, kind.types, kind.id).expect("what was written is read");
            let mut second = Vec::new();
            proto::encode(&again, kind.types, kind.id, &mut second).expect("what was read is written");
            assert_eq!(second, first);
        }
    }
}

/// A kind, then a document.
pub fn cbor(data: &[u8]) {
    let Some((kind, bytes)) = kind(data) else { return };
    let Ok(value) = cbor::decode_any(bytes) else {
        return;
    };
    let written = cbor::to_vec(&value, None);
    assert_eq!(cbor::decode_any(&written).as_ref(), Ok(&value));
    if let Ok(decoded) = cbor::decode(bytes, kind.types, kind.id) {
        goes_round(&kind, &decoded.value);
    }
}

/// Which patch, a kind and a live document; a zero byte; the patch.
pub fn patches(data: &[u8]) {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    let Some((kind, data)) = kind(data) else { return };
    let Some((live, patch)) = halves(data) else { return };
    let Ok(live) = js::decode(live, kind.types, kind.id) else {
        return;
    };
    let which = [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic][usize::from(*which) % 3];
    let Ok(patch) = Patch::decode(which, patch, true) else {
        return;
    };
    let Ok(patched) = patch.apply(kind.types, kind.id, &live.value) else {
        return;
    };
    match js::conform(&patched, kind.types, kind.id) {
        Ok(decoded) => goes_round(&kind, &decoded.value),
        Err(error) => drop(patch.unfit(&patched, &error.to_string())),
    }
}

/// A kind and a live document; a zero byte; a configuration.
pub fn apply(data: &[u8]) {
    let Some((kind, data)) = kind(data) else { return };
    let Some((live, config)) = halves(data) else {
        return;
    };
    let Ok(config) = ym::decode(config, kind.types, kind.id) else {
        return;
    };
    let live = js::decode(live, kind.types, kind.id).ok().map(|live| live.value);
    let reset = ResetFields::default();
    let manager = FieldManager {
        types: kind.types,
        id: kind.id,
        version: kind.version,
        kind: kind.name,
        subresource: "",
        built_in: true,
        reset: &reset,
        versions: &SameFields,
    };
    let now = Timestamp::UNIX_EPOCH;
    let Ok(applied) = manager.apply(live.as_ref(), &config.value, "fuzz", true, now) else {
        return;
    };
    let managed = applied.object.get_path(&["metadata", "managedFields"]);
    ManagedFields::decode(managed).expect("managed fields that were written are read");
    // What was owned before may be as odd as can be; what was applied is settled.
    let Ok(again) = manager.apply(Some(&applied.object), &config.value, "fuzz", true, now) else {
        return;
    };
    assert_eq!(
        String::from_utf8_lossy(&js::to_vec(&again.object)),
        String::from_utf8_lossy(&js::to_vec(&applied.object))
    );
}

/// The text of a selector.
pub fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let labels: Map = [("a", Value::from("b")), ("x", Value::from("1"))]
        .into_iter()
        .collect();
    if let Ok(selector) = LabelSelector::parse(text) {
        let matches = selector.matches(Some(&labels));
        let none = selector.requirements.is_empty();
        assert!(matches || !none, "no requirement is always met");
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let again = FieldSelector::parse(&selector.to_string()).expect("what was written is read");
        assert_eq!(again, selector);
        selector.matches_with(|_| "a");
    }
    if let Ok(decoded) = js::decode_any(data) {
        let _ = LabelSelector::from_object(Some(&decoded.value));
    }
}

/// The text of a token; or a key to make one for.
pub fn continue_token(data: &[u8]) {
    const PREFIX: &str = "/registry/pods/";
    let text = String::from_utf8_lossy(data);
    if let Ok((revision, key)) = token::decode(&text, PREFIX) {
        assert!(inside(&key, PREFIX), "{key:?}");
        let again = token::encode(revision, key.as_bytes(), PREFIX);
        assert_eq!(token::decode(&again, PREFIX).ok(), Some((revision, key)));
    }
    let key = [PREFIX.as_bytes(), data].concat();
    if let Ok((revision, read)) = token::decode(&token::encode(7, &key, PREFIX), PREFIX) {
        assert_eq!(
            (revision, read),
            (7, format!("{PREFIX}{}", text.strip_prefix('/').unwrap_or(&text)))
        );
    }
}

fn inside(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix)
        .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "." | "..")))
}

/// An object to put into frames; or frames to take apart.
pub fn frames(data: &[u8]) {
    let framed = frame::protobuf("ADDED", data);
    let (length, message) = framed.split_at(4);
    let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
    assert_eq!(length as usize, message.len());
    assert!(message.ends_with(data));
    if let Ok(decoded) = js::decode_any(data) {
        let text = js::to_vec(&decoded.value);
        let line = frame::json("MODIFIED", &text);
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        let event = js::decode_any(&line).expect("a frame is JSON").value;
        let alone = js::decode_any(&text).expect("what was written is read").value;
        assert_eq!(event.get("object"), Some(&alone));
    }
    if let Ok(value) = cbor::decode_any(data) {
        let one = frame::cbor("DELETED", data);
        let sequence = [&one[..], &one[..]].concat();
        let (event, length) = cbor::decode_prefix(&sequence).expect("a frame is CBOR");
        assert_eq!((length, event.get("object")), (one.len(), Some(&value)));
    }
    // A sequence from elsewhere ends or goes on, but never stands still.
    let mut rest = data;
    while let Ok((_, length)) = cbor::decode_prefix(rest) {
        assert!(length > 0);
        rest = &rest[length..];
    }
}

fn halves(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = data.iter().position(|byte| *byte == 0)?;
    Some((&data[..at], &data[at + 1..]))
}
