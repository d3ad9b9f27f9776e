//! Every built-in kind survives JSON → protobuf → JSON and protobuf → JSON → protobuf, every field of its table filled.

use machinery::codec::{json, proto};
use machinery::schema::{Shape, TypeId, Types};
use machinery::{Map, Value};

/// A value with every field filled, as deep as the types go; a type inside itself stops.
fn filled(types: &Types, id: TypeId, seed: &mut i64, inside: &mut Vec<TypeId>) -> Value {
    *seed += 1;
    match types.shape(id) {
        Shape::Bool => Value::Bool(true),
        Shape::Int32 | Shape::Int64 => Value::Int(if *seed % 2 == 0 { *seed } else { -*seed }),
        Shape::Double => Value::Float(*seed as f64 + 0.5),
        Shape::String | Shape::Duration => Value::from(format!("text {seed}")),
        Shape::Bytes => Value::from("aGVsbG8="),
        Shape::IntOrString if *seed % 2 == 0 => Value::Int(*seed),
        Shape::IntOrString => Value::from("50%"),
        Shape::Quantity => Value::from(format!("{}m", *seed * 1000 + 1)),
        Shape::Time => Value::from("2026-01-02T03:04:05Z"),
        Shape::MicroTime => Value::from("2026-01-02T03:04:05.678901Z"),
        Shape::Json | Shape::RawExtension | Shape::FieldsV1 => Value::Object(
            [("a", Value::from(vec![1, 2])), ("b", Value::Null)]
                .into_iter()
                .collect(),
        ),
        Shape::SchemaOrBool(_) => Value::Bool(false),
        Shape::SchemaOrArray(schema) | Shape::SchemaOrStrings(schema) => {
            if inside.contains(schema) {
                Value::object()
            } else {
                filled(types, *schema, seed, inside)
            }
        }
        Shape::List(list) => Value::Array((0..2).map(|_| filled(types, list.item, seed, inside)).collect()),
        Shape::Map(map) => Value::Object(
            ["one", "two"]
                .into_iter()
                .map(|key| (key, filled(types, map.value, seed, inside)))
                .collect(),
        ),
        Shape::Struct(s) => {
            let mut map = Map::new();
            if inside.contains(&id) {
                return Value::Object(map);
            }
            inside.push(id);
            for field in s.fields().iter().filter(|field| field.tag != 0) {
                map.insert(field.name.clone(), filled(types, field.ty, seed, inside));
            }
            inside.pop();
            Value::Object(map)
        }
    }
}

#[test]
fn every_kind_round_trips_with_every_field_filled() {
    let types = api::types();
    let mut count = 0;
    for kind in api::kinds() {
        let Some(s) = types.as_struct(kind.ty) else {
            continue;
        };
        // A watch event is no object: it has no kind of its own.
        if s.message.is_empty() || s.field("kind").is_none() {
            continue;
        }
        count += 1;
        let mut object = filled(types, kind.ty, &mut 0, &mut Vec::new());
        object.set_path(&["apiVersion"], kind.gvk.api_version());
        object.set_path(&["kind"], kind.gvk.kind.as_str());

        let text = json::to_vec(&object);
        let decoded = json::decode(&text, types, kind.ty).unwrap_or_else(|e| panic!("{}: {e}", kind.gvk));
        assert_eq!(decoded.findings, Vec::<String>::new(), "{}", kind.gvk);
        assert_eq!(decoded.value, object, "{}", kind.gvk);

        let mut bytes = Vec::new();
        proto::encode_envelope(&object, &kind.gvk, types, kind.ty, &mut bytes)
            .unwrap_or_else(|e| panic!("{}: {e}", kind.gvk));
        let back =
            proto::decode_envelope(&bytes, types, kind.ty).unwrap_or_else(|e| panic!("{}: {e}", kind.gvk));
        assert_eq!(json::to_vec(&back), text, "{}", kind.gvk);
        let mut again = Vec::new();
        proto::encode_envelope(&back, &kind.gvk, types, kind.ty, &mut again).unwrap();
        assert_eq!(again, bytes, "{}", kind.gvk);
    }
    assert!(count > 150, "only {count} kinds have a message");
}

#[test]
fn a_message_is_the_one_upstream_would_write() {
    // metadata{name "a", labels{x: y}}, data{k: v}, by hand from the field numbers.
    let id = api::by_name("io.k8s.api.core.v1.ConfigMap").unwrap();
    let text = br#"{"metadata":{"name":"a","labels":{"x":"y"}},"data":{"k":"v"}}"#;
    let value = json::decode(text, api::types(), id).unwrap().value;
    let mut bytes = Vec::new();
    proto::encode(&value, api::types(), id, &mut bytes).unwrap();
    let metadata = [b"\x0a\x01a".as_slice(), b"\x5a\x06\x0a\x01x\x12\x01y"].concat();
    let want = [b"\x0a\x0b".as_slice(), &metadata, b"\x12\x06\x0a\x01k\x12\x01v"].concat();
    assert_eq!(bytes, want);
}

#[test]
fn arbitrary_bytes_never_panic() {
    let types = api::types();
    let pod = api::by_name("io.k8s.api.core.v1.Pod").unwrap();
    let mut whole = Vec::new();
    proto::encode(
        &filled(types, pod, &mut 0, &mut Vec::new()),
        types,
        pod,
        &mut whole,
    )
    .unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..500 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes = whole.clone();
        let at = (state >> 33) as usize % bytes.len();
        bytes[at] = (state >> 20) as u8;
        bytes.truncate(at + (state >> 50) as usize);
        // Only that it returns matters.
        let _ = proto::decode(&bytes, types, pod);
        let _ = json::decode(&bytes, types, pod);
    }
}
