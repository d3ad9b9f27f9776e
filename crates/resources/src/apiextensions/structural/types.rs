//! A schema as a table of machinery's: what decodes, prunes, defaults and applies objects of a custom kind.
//!
//! Scalars are not judged by the table but by validation, whose words clients know; see `Types::over`.

use super::{Additional, ListType, Schema};
use machinery::Key;
use machinery::schema::{Field, List, ListKind, MapType, Shape, Struct, TypeId, Types};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The type of the whole object in every table [`types`] makes.
pub fn root() -> TypeId {
    Types::over(api::types()).add(Shape::Json)
}

/// The table of a schema; without one everything is kept.
pub fn types(schema: Option<&Schema>) -> Types {
    let mut types = Types::over(api::types());
    let root = types.add(Shape::Json);
    let mut maker = Maker { types };
    let mut shape = match schema {
        Some(schema) => maker.object(schema, true),
        None => {
            let mut anything = Struct::new("", "", maker.meta_fields(Vec::new()));
            anything.preserve_unknown = true;
            anything
        }
    };
    shape.embedded_resource = false;
    maker.types.define(root, Shape::Struct(shape));
    maker.types
}

struct Maker {
    types: Types,
}

impl Maker {
    fn ty(&mut self, schema: &Schema) -> TypeId {
        let shape = self.shape(schema);
        self.types.add(shape)
    }

    fn shape(&mut self, schema: &Schema) -> Shape {
        if schema.int_or_string {
            return Shape::IntOrString;
        }
        match schema.types.first().map(|ty| ty.as_str()) {
            Some("object") => match &schema.additional {
                Some(Additional::Schema(value)) if schema.properties.is_empty() => Shape::Map(MapType {
                    value: self.item(value),
                    atomic: schema.atomic_map,
                }),
                Some(Additional::Allowed(true)) if schema.properties.is_empty() => Shape::Map(MapType {
                    value: self.types.add(Shape::Json),
                    atomic: schema.atomic_map,
                }),
                _ => Shape::Struct(self.object(schema, schema.embedded_resource)),
            },
            Some("array") => Shape::List(List {
                item: match &schema.items {
                    Some(items) => self.item(items),
                    None => self.types.add(Shape::Json),
                },
                kind: match schema.list_type {
                    ListType::Atomic => ListKind::Atomic,
                    ListType::Set => ListKind::Set,
                    ListType::Map => ListKind::Map(
                        schema
                            .list_map_keys
                            .iter()
                            .map(|key| Key::from(key.as_str()))
                            .collect(),
                    ),
                },
            }),
            Some("string") => Shape::String,
            Some("integer") => Shape::Int64,
            Some("number") => Shape::Double,
            Some("boolean") => Shape::Bool,
            // Anything, because it says so or because nobody says what.
            _ => Shape::Json,
        }
    }

    /// A list's or map's item. One that may be null is kept as it is, for null has no place in a table.
    fn item(&mut self, schema: &Schema) -> TypeId {
        if schema.nullable && !schema.has_type("object") {
            return self.types.add(Shape::Json);
        }
        self.ty(schema)
    }

    fn object(&mut self, schema: &Schema, with_meta: bool) -> Struct {
        let mut fields: Vec<Field> = Vec::with_capacity(schema.properties.len() + 3);
        for (name, property) in &schema.properties {
            if with_meta && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            let mut field = Field::new(Key::from(name.as_str()), self.ty(property));
            field.nullable = property.nullable;
            field.default.clone_from(&property.default);
            field.required = schema.required.contains(name);
            fields.push(field);
        }
        if with_meta {
            fields = self.meta_fields(fields);
        }
        let mut shape = Struct::new("", "", fields);
        shape.preserve_unknown = schema.preserve_unknown;
        shape.embedded_resource = schema.embedded_resource;
        shape.atomic = schema.atomic_map;
        shape
    }

    /// What every object has, as the built-in tables know it.
    fn meta_fields(&mut self, mut fields: Vec<Field>) -> Vec<Field> {
        let text = self.types.add(Shape::String);
        fields.push(Field::new(Key::from_static("apiVersion"), text));
        fields.push(Field::new(Key::from_static("kind"), text));
        if let Some(metadata) = api::by_name(OBJECT_META) {
            fields.push(Field::new(Key::from_static("metadata"), metadata));
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::codec::json;
    use machinery::defaults;

    fn check(schema: &str, object: &str, want: &str, findings: &[&str]) {
        let schema = Schema::parse(&json::decode_any(schema.as_bytes()).unwrap().value);
        let types = types(Some(&schema));
        let mut decoded = json::decode(object.as_bytes(), &types, root()).unwrap();
        defaults::apply(&types, root(), &mut decoded.value);
        assert_eq!(String::from_utf8(json::to_vec(&decoded.value)).unwrap(), want);
        assert_eq!(decoded.findings, findings);
    }

    #[test]
    fn objects_are_pruned_and_defaulted() {
        let schema = r#"{"type":"object","properties":{"spec":{"type":"object","properties":{
            "a":{"type":"integer","default":3},"b":{"type":"string","nullable":true},
            "l":{"type":"array","items":{"type":"object","properties":{"x":{"type":"string","default":"y"}}}},
            "free":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}}}"#;
        check(
            schema,
            r#"{"apiVersion":"g/v1","kind":"K","metadata":{"name":"n","nme":1},"spec":{"b":null,"c":1,"a":null,
                "l":[{},{"z":0}],"free":{"q":{"r":1}}}}"#,
            r#"{"apiVersion":"g/v1","kind":"K","metadata":{"name":"n"},"spec":{"a":3,"b":null,"free":{"q":{"r":1}},"l":[{"x":"y"},{"x":"y"}]}}"#,
            &[
                r#"unknown field "metadata.nme""#,
                r#"unknown field "spec.c""#,
                r#"unknown field "spec.l[1].z""#,
            ],
        );
    }

    #[test]
    fn what_does_not_fit_is_kept_for_validation() {
        let schema = r#"{"type":"object","properties":{"spec":{"type":"object","properties":{"a":{"type":"integer"},
            "m":{"type":"object","additionalProperties":{"type":"string"}}}}}}"#;
        check(
            schema,
            r#"{"spec":{"a":"x","m":[1]}}"#,
            r#"{"spec":{"a":"x","m":[1]}}"#,
            &[],
        );
        check(schema, r#"{"spec":"x"}"#, r#"{"spec":"x"}"#, &[]);
    }
}
