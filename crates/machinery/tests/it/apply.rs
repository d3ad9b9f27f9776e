//! Server-side apply and tracking: a history of writes to one object, and the object and its managers after it.
//!
//! Sections are the writes, in order: `create|update|apply <manager> [type=T] [version=V] [sub=status] [force]`.
//! A write that fails shows its error and leaves the object as it was. Each write happens one minute after the last.

use crate::cases::{self, Case, Section};
use crate::table;
use jiff::{SignedDuration, Timestamp};
use machinery::Value;
use machinery::apply::{
    ApplyError, Entry, FieldManager, ManagedFields, Operation, ResetFields, SameFields, VersionView, Versions,
};
use machinery::codec::json;
use machinery::defaults;
use machinery::gvk::GroupVersionKind;
use machinery::schema::{TypeId, Types};
use std::fmt::Write as _;

struct Write<'s> {
    manager: &'s str,
    ty: &'s str,
    version: String,
    kind: String,
    sub: &'s str,
    force: bool,
}

impl<'s> Write<'s> {
    fn read(section: &'s Section, body: &Value) -> Self {
        let text = |key| {
            body.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let mut write = Write {
            manager: section.words.first().map_or("", |w| w.trim_matches('"')),
            ty: "",
            version: text("apiVersion"),
            kind: text("kind"),
            sub: "",
            force: false,
        };
        for word in section.words.iter().skip(1) {
            match word.split_once('=').unwrap_or((word, "")) {
                ("type", ty) => write.ty = ty,
                ("version", version) => write.version = version.to_owned(),
                ("kind", kind) => write.kind = kind.to_owned(),
                ("sub", sub) => write.sub = sub,
                ("force", _) => write.force = true,
                other => panic!("what is {other:?}"),
            }
        }
        write
    }
}

/// A history with the types of `types.txt`.
fn run(case: &Case) -> String {
    history(case, |write, body| {
        let ty = if write.ty.is_empty() {
            &write.kind
        } else {
            write.ty
        };
        (&table::TYPES, table::id(ty), body)
    })
}

/// A history with the built-in types, objects decoded and defaulted along their tables as in the server.
fn run_built_in(case: &Case) -> String {
    history(case, |write, body| {
        let (group, version) = write.version.split_once('/').unwrap_or(("", &write.version));
        let id = api::kind(&GroupVersionKind::new(group, version, &write.kind)).expect("a built-in kind");
        let mut body = json::conform(&body, api::types(), id)
            .expect("an object of the kind")
            .value;
        defaults::apply(api::types(), id, &mut body);
        (api::types(), id, body)
    })
}

fn history<'t>(case: &Case, prepare: impl Fn(&Write<'_>, Value) -> (&'t Types, TypeId, Value)) -> String {
    let mut live: Option<Value> = None;
    let mut now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let mut out = String::new();
    for section in case.sections.iter().filter(|s| s.name != "want") {
        let body = cases::value(&section.body);
        let write = Write::read(section, &body);
        // What is applied is taken as it is written.
        let (types, id, prepared) = prepare(&write, body.clone());
        let body = if section.name == "apply" { body } else { prepared };
        let built_in = types.as_struct(id).is_some_and(|s| !s.message.is_empty());
        let reset = match write.sub {
            "status" => ResetFields::new([&["f:spec"][..]]),
            _ => ResetFields::new([&["f:status"][..]]),
        };
        let manager = FieldManager {
            types,
            id,
            version: &write.version,
            kind: &write.kind,
            subresource: write.sub,
            built_in,
            reset: &reset,
            versions: &SameFields,
        };
        match section.name.as_str() {
            "untracked" => live = Some(body),
            "create" => {
                let mut new = body;
                manager.update(None, &mut new, write.manager, now);
                live = Some(new);
            }
            "update" => {
                let mut new = body;
                manager.update(live.as_ref(), &mut new, write.manager, now);
                live = Some(new);
            }
            "apply" => match manager.apply(live.as_ref(), &body, write.manager, write.force, now) {
                Ok(applied) => {
                    if !applied.changed {
                        let _ = writeln!(out, "# apply {}: nothing changed", write.manager);
                    }
                    live = Some(applied.object);
                }
                Err(error) => {
                    let code = match error {
                        ApplyError::Conflicts(_) => 409,
                        ApplyError::BadRequest(_) => 400,
                        ApplyError::Failed(_) => 500,
                    };
                    let _ = writeln!(out, "# apply {}: error {code}: {error}", write.manager);
                }
            },
            other => panic!("what is {other:?}"),
        }
        now += SignedDuration::from_mins(1);
    }
    let mut object = live.unwrap_or_default();
    let managed =
        ManagedFields::decode(object.get_path(&["metadata", "managedFields"])).expect("valid managedFields");
    object.remove_path(&["metadata", "managedFields"]);
    out.push_str(&cases::yaml(&object));
    for entry in &managed.entries {
        let operation = match &entry.manager.operation {
            Operation::Apply => "apply",
            Operation::Update(_) => "update",
        };
        let sub = match entry.manager.subresource.as_str() {
            "" => String::new(),
            sub => format!(" sub={sub}"),
        };
        let time = entry.time.as_deref().map_or("no time", |t| &t[11..16]);
        let _ = writeln!(
            out,
            "# {operation} {} {}{sub} {time}",
            entry.manager.name, entry.version
        );
        for path in entry.fields.paths() {
            let _ = writeln!(out, "#   {path}");
        }
    }
    out
}

#[test]
fn tracking() {
    cases::check("tracking.txt", run);
}

#[test]
fn server_side_apply() {
    cases::check("apply.txt", run);
}

#[test]
fn server_side_apply_to_custom_resources() {
    cases::check("apply_custom.txt", run);
}

#[test]
fn built_in_kinds_read_as_in_upstreams_clusters() {
    cases::check("built_in.txt", run_built_in);
}

/// A kind whose version `v0` calls the size a width; `vx` is no longer served.
struct Renamed;

impl Renamed {
    fn rename(object: &Value, version: &str, from: &str, to: &str) -> Value {
        let mut object = object.clone();
        object.set_path(&["apiVersion"], version);
        if let Some(value) = object.remove_path(&["spec", from]) {
            object.set_path(&["spec", to], value);
        }
        object
    }
}

impl Versions for Renamed {
    fn view(&self, object: &Value, version: &str) -> Result<VersionView, String> {
        Ok(match version {
            "example.com/v1" => VersionView::Same,
            "example.com/v0" => {
                let converted = Self::rename(object, version, "size", "width");
                VersionView::Converted(table::id("WidgetOld"), converted)
            }
            _ => VersionView::Gone,
        })
    }

    fn back(&self, object: Value, _: &str) -> Result<Value, String> {
        Ok(Self::rename(&object, "example.com/v1", "width", "size"))
    }
}

#[test]
fn managers_of_other_versions_are_seen_in_their_names() {
    let reset = ResetFields::default();
    let manager = FieldManager {
        types: &table::TYPES,
        id: table::id("Widget"),
        version: "example.com/v1",
        kind: "Widget",
        subresource: "",
        built_in: false,
        reset: &reset,
        versions: &Renamed,
    };
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let live = cases::value(
        r#"
apiVersion: example.com/v1
kind: Widget
metadata:
  name: w
  uid: u
  managedFields:
  - {manager: old, operation: Apply, apiVersion: example.com/v0, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:width": {}, "f:color": {}}}}
  - {manager: gone, operation: Update, apiVersion: example.com/vx, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:size": {}}}}
spec: {size: 1, color: red}
"#,
    );
    let managers = |object: &Value| -> Vec<String> {
        let list = object.get_path(&["metadata", "managedFields"]);
        let entries = ManagedFields::decode(list).expect("valid managedFields").entries;
        let entry = |e: &Entry| format!("{} {} {}", e.manager.name, e.version, e.fields.paths().join(" "));
        entries.iter().map(entry).collect()
    };

    let mut new = live.clone();
    new.set_path(&["spec", "size"], 2);
    manager.update(Some(&live), &mut new, "me", now);
    assert_eq!(
        managers(&new),
        ["old example.com/v0 .spec.color", "me example.com/v1 .spec.size"]
    );

    let config = "{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}, spec: {size: 3}}";
    let error = manager
        .apply(Some(&live), &cases::value(config), "me", false, now)
        .expect_err("a conflict");
    assert_eq!(
        error.to_string(),
        r#"Apply failed with 1 conflict: conflict with "old": .spec.width"#
    );

    let config = "{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}, spec: {color: red}}";
    let applied = manager
        .apply(Some(&live), &cases::value(config), "old", false, now)
        .expect("no conflict");
    assert_eq!(applied.object.get_path(&["spec", "size"]), None);
    assert_eq!(managers(&applied.object), ["old example.com/v1 .spec.color"]);
}

#[test]
fn large_objects_cost_their_size() {
    let items = |prefix: &str, count: usize| -> Vec<Value> {
        // Not in the order in which a set keeps them.
        (0..count)
            .map(|i| format!("{prefix}{}", i * 7919 % count).into())
            .collect()
    };
    let widget = |tags: Vec<Value>| {
        let mut widget =
            cases::value("{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}, spec: {}}");
        widget.set_path(&["spec", "tags"], tags);
        widget
    };
    let reset = ResetFields::default();
    let manager = FieldManager {
        types: &table::TYPES,
        id: table::id("Widget"),
        version: "example.com/v1",
        kind: "Widget",
        subresource: "",
        built_in: false,
        reset: &reset,
        versions: &SameFields,
    };
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let mut live = widget(items("a", 30_000));
    manager.update(None, &mut live, "one", now);
    let applied = manager
        .apply(Some(&live), &widget(items("b", 30_000)), "two", false, now)
        .expect("no conflict");
    let tags = applied
        .object
        .get_path(&["spec", "tags"])
        .and_then(Value::as_array);
    assert_eq!(tags.map(<[_]>::len), Some(60_000));
    let again = manager
        .apply(Some(&applied.object), &widget(items("b", 10)), "two", false, now)
        .expect("no conflict");
    let tags = again.object.get_path(&["spec", "tags"]).and_then(Value::as_array);
    assert_eq!(tags.map(<[_]>::len), Some(30_010));
}

mod arbitrary {
    //! No configuration brings the server down, and what is applied twice changes nothing.

    use super::*;
    use crate::patch::arbitrary::tree;
    use proptest::prelude::*;

    fn deployment(tree: Value) -> Value {
        let mut out = cases::value("{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}");
        out.set_path(&["spec"], tree);
        out
    }

    proptest! {
        #[test]
        fn histories(a in tree(), b in tree(), c in tree()) {
            let reset = ResetFields::default();
            let manager = FieldManager {
                types: &table::TYPES,
                id: table::id("Deployment"),
                version: "apps/v1",
                kind: "Deployment",
                subresource: "",
                built_in: true,
                reset: &reset,
                versions: &SameFields,
            };
            let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
            let mut live = deployment(a);
            manager.update(None, &mut live, "one", now);
            if let Ok(applied) = manager.apply(Some(&live), &deployment(b.clone()), "two", true, now) {
                let again = manager.apply(Some(&applied.object), &deployment(b), "two", false, now);
                prop_assert!(again.is_ok_and(|again| again.object == applied.object));
                let mut next = deployment(c.clone());
                manager.update(Some(&applied.object), &mut next, "one", now);
                let _ = manager.apply(Some(&next), &deployment(c), "two", false, now);
            }
        }
    }
}
