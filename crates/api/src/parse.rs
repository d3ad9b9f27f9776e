//! Reads the type table.
//!
//! ```text
//! T <definition> <message|-> [atomic] [group/version/kind ...]
//! <field> <type> <tag> [v<tag>.<tag>] [r] [m] [k] [p] [M<merge key>] [D<default>]
//! ```
//!
//! A type is `s`tring, b`y`tes, `i`nt32, `l` int64, `d`ouble, `b`ool, `j`son, `@n` the n-th definition, `[a`, `[s` or
//! `[mkey,key;` a list (atomic, set, map) of what follows, `{` a map and `<` an atomic map of what follows.
//!
//! The table is compiled in and tested whole, so what cannot be read in it is a panic at the first test.

use machinery::Key;
use machinery::gvk::GroupVersionKind;
use machinery::schema::{Field, List, ListKind, MapType, Shape, Struct, TypeId, Types};
use std::collections::HashMap;

pub(crate) fn types(table: &'static str) -> (Types, HashMap<GroupVersionKind, TypeId>) {
    let mut types = Types::new();
    let names: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("T "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let ids: Vec<TypeId> = names.iter().map(|name| types.reserve(*name)).collect();
    let mut reader = Reader {
        types,
        ids,
        made: HashMap::new(),
    };
    let mut kinds = HashMap::new();
    let mut at = 0;
    let mut lines = table.lines().peekable();
    while let Some(line) = lines.next() {
        let mut words = line.split(' ').skip(1);
        let name = words.next().expect("a definition has a name");
        let message = words.next().filter(|word| *word != "-").unwrap_or("");
        let mut atomic = false;
        for word in words {
            match word.split('/').collect::<Vec<_>>()[..] {
                [group, version, kind] => {
                    kinds.insert(GroupVersionKind::new(group, version, kind), reader.ids[at]);
                }
                _ => atomic = word == "atomic",
            }
        }
        let mut fields = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with("T ")) {
            fields.push(reader.field(line));
        }
        let shape = reader.special(name).unwrap_or_else(|| {
            let mut s = Struct::new(name, message, fields);
            s.atomic = atomic;
            Shape::Struct(s)
        });
        reader.types.define(reader.ids[at], shape);
        at += 1;
    }
    (reader.types, kinds)
}

/// Reads `<definition> <field> ...` lines: fields whose zero value is left out.
pub(crate) fn zero(types: &mut Types, table: &'static str) {
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let name = words.next().expect("a definition's name");
        let id = types.by_name(name).expect("a definition of the table");
        let Shape::Struct(s) = types.shape_mut(id) else {
            panic!("{name} has no fields");
        };
        for field in words {
            assert!(s.set_zero_is_absent(field), "{name} has no field {field}");
        }
    }
}

/// Reads `<definition> <field>=<json> ...` lines into the types.
pub(crate) fn defaults(types: &mut Types, table: &'static str) {
    for line in table.lines() {
        let mut words = line.split(' ');
        let name = words.next().expect("a definition's name");
        let id = types.by_name(name).expect("a definition of the table");
        let Shape::Struct(s) = types.shape_mut(id) else {
            panic!("{name} has no fields");
        };
        for word in words {
            let (field, json) = word.split_once('=').expect("a field and its default");
            let default = machinery::codec::json::decode_any(json.as_bytes()).expect("a default is JSON");
            s.set_default(field, default.value);
        }
    }
}

struct Reader {
    types: Types,
    ids: Vec<TypeId>,
    /// Types without a name, by their text: one of each.
    made: HashMap<&'static str, TypeId>,
}

impl Reader {
    fn field(&mut self, line: &'static str) -> Field {
        let mut words = line.splitn(4, ' ');
        let name = words.next().expect("a field has a name");
        let ty = self.ty(words.next().expect("a field has a type"));
        let mut field = Field::new(Key::from_static(name), ty);
        field.tag = words
            .next()
            .and_then(|tag| tag.parse().ok())
            .expect("a field has a tag");
        let mut rest = words.next().unwrap_or("");
        while !rest.is_empty() {
            // A default is JSON and may hold spaces: it comes last.
            if let Some(default) = rest.strip_prefix('D') {
                field.default = Some(
                    machinery::codec::json::decode_any(default.as_bytes())
                        .expect("a default is JSON")
                        .value,
                );
                break;
            }
            let (word, next) = rest.split_once(' ').unwrap_or((rest, ""));
            rest = next;
            match word.split_at(1) {
                ("v", tags) => {
                    field.via = tags
                        .split('.')
                        .map(|tag| tag.parse().expect("a tag is a number"))
                        .collect();
                }
                ("M", key) => field.merge_key = Some(Key::from_static(key)),
                ("r", _) => field.required = true,
                ("m", _) => field.patch.merge = true,
                ("k", _) => field.patch.retain_keys = true,
                ("p", _) => field.patch.replace = true,
                other => panic!("unknown word {other:?}"),
            }
        }
        field
    }

    fn ty(&mut self, text: &'static str) -> TypeId {
        if let Some(at) = text.strip_prefix('@') {
            return self.ids[at.parse::<usize>().expect("a reference is a number")];
        }
        if let Some(id) = self.made.get(text) {
            return *id;
        }
        let shape = match text.split_at(1) {
            ("s", _) => Shape::String,
            ("y", _) => Shape::Bytes,
            ("i", _) => Shape::Int32,
            ("l", _) => Shape::Int64,
            ("d", _) => Shape::Double,
            ("b", _) => Shape::Bool,
            ("j", _) => Shape::Json,
            ("{", value) => Shape::Map(MapType {
                value: self.ty(value),
                atomic: false,
            }),
            ("<", value) => Shape::Map(MapType {
                value: self.ty(value),
                atomic: true,
            }),
            ("[", list) => self.list(list),
            other => panic!("unknown type {other:?}"),
        };
        let id = self.types.add(shape);
        self.made.insert(text, id);
        id
    }

    fn list(&mut self, text: &'static str) -> Shape {
        let (kind, item) = match text.split_at(1) {
            ("a", item) => (ListKind::Atomic, item),
            ("s", item) => (ListKind::Set, item),
            ("m", rest) => {
                let (keys, item) = rest.split_once(';').expect("a map list has keys");
                (
                    ListKind::Map(keys.split(',').map(Key::from_static).collect()),
                    item,
                )
            }
            other => panic!("unknown list {other:?}"),
        };
        Shape::List(List {
            item: self.ty(item),
            kind,
        })
    }

    /// Types with a JSON form of their own.
    fn special(&self, name: &str) -> Option<Shape> {
        let schema = || {
            self.types
                .by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
        };
        Some(match name.rsplit('.').next()? {
            "Quantity" => Shape::Quantity,
            "Time" => Shape::Time,
            "MicroTime" => Shape::MicroTime,
            "IntOrString" => Shape::IntOrString,
            "RawExtension" => Shape::RawExtension,
            "FieldsV1" => Shape::FieldsV1,
            "JSON" => Shape::Json,
            "JSONSchemaPropsOrBool" => Shape::SchemaOrBool(schema()?),
            "JSONSchemaPropsOrArray" => Shape::SchemaOrArray(schema()?),
            "JSONSchemaPropsOrStringArray" => Shape::SchemaOrStrings(schema()?),
            _ => return None,
        })
    }
}
