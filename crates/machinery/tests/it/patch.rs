//! The patches: a live object, a patch, and what comes out or the error a client would get.

use crate::cases::{self, Case};
use crate::table;
use machinery::Value;
use machinery::patch::{PatchError, json::JsonPatch, merge, strategic};
use machinery::status::ApiError;

fn outcome(result: Result<Value, PatchError>) -> String {
    match result {
        Ok(value) => cases::yaml(&value),
        Err(error) => {
            let why = error.to_string();
            let code = ApiError::from(error).code;
            format!("error {code}: {why}")
        }
    }
}

fn body<'c>(case: &'c Case, section: &str) -> &'c str {
    &case
        .section(section)
        .unwrap_or_else(|| panic!("{}: no {section}", case.title))
        .body
}

#[test]
fn strategic_merge_patch() {
    cases::check("strategic.txt", |case| {
        let live = case.section("live").expect("a live object");
        let ty = table::id(live.words.first().map_or("Deployment", String::as_str));
        let patch = cases::object(body(case, "patch"));
        outcome(strategic::apply(&table::TYPES, ty, cases::object(&live.body), patch).map(Value::Object))
    });
}

#[test]
fn json_patch() {
    cases::check("json.txt", |case| {
        let live = cases::value(body(case, "live"));
        let patch = JsonPatch::from_value(cases::value(body(case, "patch")));
        outcome(patch.and_then(|patch| patch.apply(&live)))
    });
}

#[test]
fn merge_patch() {
    cases::check("merge.txt", |case| {
        let live = cases::value(body(case, "live"));
        outcome(merge::apply(live, cases::value(body(case, "patch"))))
    });
}

#[test]
fn a_json_patch_has_a_limit() {
    let step = cases::object(r#"{"op": "test", "path": "/a", "value": 1}"#);
    let of = |count| JsonPatch::from_value(Value::from(vec![step.clone(); count]));
    assert!(of(10_000).is_ok());
    let error = ApiError::from(of(10_001).unwrap_err());
    assert_eq!(error.code, 413);
    assert_eq!(
        error.message,
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
    );
}

#[test]
fn large_patches_cost_their_size() {
    let map = |prefix: &str, value: Value| -> Value {
        let fields = (0..60_000).map(|i| (machinery::Key::from(format!("{prefix}{i:06}")), value.clone()));
        Value::Object(fields.collect())
    };
    let merged = merge::apply(map("k", 1.into()), map("k", Value::Null)).unwrap();
    assert_eq!(merged, Value::object());
    let merged = merge::apply(map("a", 1.into()), map("b", 2.into())).unwrap();
    assert_eq!(merged.as_object().map(machinery::Map::len), Some(120_000));

    let pod = |prefix: &str| {
        let containers: Vec<Value> = (0..20_000)
            .map(|i| cases::value(&format!("{{\"name\": \"{prefix}{}\"}}", i * 7919 % 20_000)))
            .collect();
        let mut pod = Value::object();
        pod.set_path(&["spec", "containers"], containers);
        pod.as_object().expect("made above").clone()
    };
    let merged = strategic::apply(&table::TYPES, table::id("Pod"), pod("a"), pod("b")).unwrap();
    let containers = Value::Object(merged).get_path(&["spec", "containers"]).cloned();
    assert_eq!(
        containers.and_then(|c| c.as_array().map(<[_]>::len)),
        Some(40_000)
    );
}

#[test]
fn copies_cannot_grow_without_bound() {
    let step = cases::object(r#"{"op": "copy", "from": "/a", "path": "/a/-"}"#);
    let patch = JsonPatch::from_value(Value::from(vec![step; 64])).unwrap();
    let error = patch.apply(&cases::value(r#"{"a": ["x"]}"#)).unwrap_err();
    assert!(
        error.to_string().starts_with("Unable to complete the copy"),
        "{error}"
    );
}

pub(crate) mod arbitrary {
    //! No patch, however strange, brings the server down.

    use super::*;
    use machinery::{Key, Map};
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = String> {
        prop::sample::select(vec![
            "metadata",
            "spec",
            "template",
            "containers",
            "name",
            "ports",
            "containerPort",
            "env",
            "value",
            "labels",
            "finalizers",
            "strategy",
            "type",
            "volumes",
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$setElementOrder/finalizers",
            "$deleteFromPrimitiveList/finalizers",
            "$setElementOrder",
            "x",
        ])
        .prop_map(str::to_owned)
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-2_i64..3).prop_map(Value::Int),
            Just(Value::Float(1.5)),
            prop::sample::select(vec!["a", "b", "delete", "replace", "merge", "name", ""])
                .prop_map(Value::from),
        ]
    }

    pub(crate) fn tree() -> impl Strategy<Value = Value> {
        scalar().prop_recursive(6, 48, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((key(), inner), 0..5).prop_map(|fields| Value::Object(
                    fields.into_iter().map(|(k, v)| (Key::from(k), v)).collect()
                )),
            ]
        })
    }

    fn map() -> impl Strategy<Value = Map> {
        tree().prop_map(|tree| match tree {
            Value::Object(map) => map,
            other => [("spec", other)].into_iter().collect(),
        })
    }

    proptest! {
        #[test]
        fn strategic(live in map(), patch in map()) {
            let _ = strategic::apply(&table::TYPES, table::id("Deployment"), live, patch);
        }

        #[test]
        fn merge_patch(live in tree(), patch in tree()) {
            let _ = merge::apply(live, patch);
        }

        #[test]
        fn json(live in tree(), ops in prop::collection::vec((
            prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test", "frob"]),
            "(/(spec|containers|0|-1|-|name|~0|~1)){0,4}",
            "(/(spec|containers|0|-1|-|name)){0,4}",
            tree(),
        ), 0..6)) {
            let ops: Vec<Map> = ops
                .into_iter()
                .map(|(op, path, from, value)| {
                    [("op", op.into()), ("path", path.into()), ("from", from.into()), ("value", value)]
                        .into_iter()
                        .collect::<Map>()
                })
                .collect();
            if let Ok(patch) = JsonPatch::from_value(Value::from(ops)) {
                let _ = patch.apply(&live);
            }
        }
    }
}
