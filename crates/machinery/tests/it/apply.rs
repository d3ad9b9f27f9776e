//! Server-side apply and tracking: a history of writes to one object, and the object and its managers after it.
//!
//! Sections are the writes, in order: `create|update|apply <manager> [type=T] [version=V] [sub=status] [force]`.
//! A write that fails shows its error and leaves the object as it was. Each write happens one minute after the last.

use crate::cases::{self, Case, Section};
use crate::table;
use jiff::{SignedDuration, Timestamp};
use machinery::Value;
use machinery::apply::{ApplyError, FieldManager, ManagedFields, Operation, ResetFields, SameFields};
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
