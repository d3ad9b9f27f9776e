//! How server-side apply sees a type: a scalar, a list of one of three kinds, or a map of one of two.
//!
//! **Invariant:** follows upstream's conversion of the published schema: types without a schema are granular
//! objects of the same and atomic lists; embedded raw objects are atomic; a struct without fields takes anything.

use crate::schema::{Field, ListKind, Shape, Struct, TypeId, Types};
use crate::{Key, Value};

/// A type, ready to be looked at.
#[derive(Clone, Copy)]
pub(crate) struct Ty<'t> {
    types: &'t Types,
    shape: TyShape,
}

#[derive(Clone, Copy)]
enum TyShape {
    Known(TypeId),
    /// No schema: what a value is decides.
    Deduced,
    /// No schema and no parts.
    Raw,
}

/// What a type is, for a certain value if the value decides.
pub(crate) enum Atom<'t> {
    Scalar(Scalar),
    List(List<'t>),
    Map(MapAtom<'t>),
}

/// What a scalar may be in an applied configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Numeric,
    String,
    Boolean,
    Any,
}

pub(crate) struct List<'t> {
    pub(crate) relation: Relation<'t>,
    pub(crate) item: Ty<'t>,
}

/// How items of a list are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation<'t> {
    /// Not at all.
    Atomic,
    /// By themselves.
    Set,
    /// By these fields.
    Keyed(&'t [Key]),
}

pub(crate) struct MapAtom<'t> {
    pub(crate) atomic: bool,
    types: &'t Types,
    fields: Option<&'t Struct>,
    /// The type of keys that are no fields.
    other: Option<Ty<'t>>,
}

/// A field of a struct or a key of a map.
pub(crate) struct Child<'t> {
    pub(crate) ty: Ty<'t>,
    /// False for a map's key, which whoever sets it owns.
    pub(crate) declared: bool,
}

impl<'t> Ty<'t> {
    pub(crate) fn root(types: &'t Types, id: TypeId) -> Self {
        Self {
            types,
            shape: TyShape::Known(id),
        }
    }

    fn with(self, shape: TyShape) -> Self {
        Self { shape, ..self }
    }

    /// What the type is for this value. Without one, or for null, a type that takes anything is a map.
    pub(crate) fn atom(self, value: Option<&Value>) -> Atom<'t> {
        let id = match self.shape {
            TyShape::Known(id) => id,
            TyShape::Deduced => return self.deduced(value, false),
            TyShape::Raw => return self.deduced(value, true),
        };
        match self.types.shape(id) {
            Shape::Bool => Atom::Scalar(Scalar::Boolean),
            Shape::Int32 | Shape::Int64 | Shape::Double => Atom::Scalar(Scalar::Numeric),
            Shape::String | Shape::Bytes | Shape::Duration => Atom::Scalar(Scalar::String),
            Shape::IntOrString | Shape::Quantity | Shape::Time | Shape::MicroTime => {
                Atom::Scalar(Scalar::Any)
            }
            Shape::Json | Shape::SchemaOrBool(_) | Shape::SchemaOrArray(_) | Shape::SchemaOrStrings(_) => {
                self.deduced(value, false)
            }
            Shape::RawExtension => self.deduced(value, true),
            Shape::FieldsV1 => Atom::Map(MapAtom {
                types: self.types,
                atomic: false,
                fields: None,
                other: Some(self.with(TyShape::Deduced)),
            }),
            Shape::Struct(fields) => Atom::Map(MapAtom {
                types: self.types,
                atomic: fields.atomic,
                fields: Some(fields),
                other: match fields.additional {
                    Some(id) => Some(self.with(TyShape::Known(id))),
                    None => {
                        (fields.preserve_unknown || fields.embedded_resource || fields.fields().is_empty())
                            .then(|| self.with(TyShape::Deduced))
                    }
                },
            }),
            Shape::List(list) => Atom::List(List {
                relation: match &list.kind {
                    ListKind::Atomic => Relation::Atomic,
                    ListKind::Set => Relation::Set,
                    ListKind::Map(keys) => Relation::Keyed(keys),
                },
                item: self.with(TyShape::Known(list.item)),
            }),
            Shape::Map(map) => Atom::Map(MapAtom {
                types: self.types,
                atomic: map.atomic,
                fields: None,
                other: Some(self.with(TyShape::Known(map.value))),
            }),
        }
    }

    /// What the type is whatever the value.
    pub(crate) fn shape_of(self) -> Atom<'t> {
        self.atom(None)
    }

    fn deduced(self, value: Option<&Value>, raw: bool) -> Atom<'t> {
        match value {
            Some(Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_)) => {
                Atom::Scalar(Scalar::Any)
            }
            Some(Value::Array(_)) => Atom::List(List {
                relation: Relation::Atomic,
                item: self.with(TyShape::Raw),
            }),
            None | Some(Value::Null | Value::Object(_)) => Atom::Map(MapAtom {
                types: self.types,
                atomic: raw,
                fields: None,
                other: Some(self.with(if raw { TyShape::Raw } else { TyShape::Deduced })),
            }),
        }
    }
}

impl Atom<'_> {
    pub(crate) fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// True if the value is owned as a whole.
    pub(crate) fn is_atomic(&self) -> bool {
        match self {
            Self::Scalar(_) => true,
            Self::List(list) => matches!(list.relation, Relation::Atomic),
            Self::Map(map) => map.atomic,
        }
    }
}

impl<'t> MapAtom<'t> {
    /// The type of a key's value; `None` if the schema has no such field.
    pub(crate) fn child(&self, key: &str) -> Option<Child<'t>> {
        if let Some(field) = self.fields.and_then(|fields| fields.field(key)) {
            return Some(Child {
                ty: Ty::root(self.types, field.ty),
                declared: true,
            });
        }
        self.other.map(|ty| Child { ty, declared: false })
    }

    /// The fields upstream's structs always hold, in order.
    pub(crate) fn always(&self) -> impl Iterator<Item = &'t str> + use<'t> {
        let fields = self
            .fields
            .filter(|fields| is_built_in(fields))
            .map_or(&[][..], Struct::fields);
        fields
            .iter()
            .filter(|field| is_always_there(field))
            .map(|field| field.name.as_str())
    }
}

impl<'t> List<'t> {
    /// What a key field counts as where an item does not write it.
    pub(crate) fn key_default(&self, key: &str) -> Option<&'t Value> {
        let TyShape::Known(id) = self.item.shape else {
            return None;
        };
        let fields = self.item.types.as_struct(id)?;
        let field = fields.field(key)?;
        if let Some(default) = &field.default {
            return Some(default);
        }
        if !(field.required && is_built_in(fields)) {
            return None;
        }
        match self.item.types.shape(field.ty) {
            Shape::Bool => Some(&NO),
            Shape::Int32 | Shape::Int64 | Shape::Double => Some(&ZERO),
            Shape::String => Some(&EMPTY),
            _ => None,
        }
    }
}

static NO: Value = Value::Bool(false);
static ZERO: Value = Value::Int(0);
static EMPTY: Value = Value::String(compact_str::CompactString::const_new(""));

/// Built-in types are protobuf messages, types of custom resources are not.
fn is_built_in(fields: &Struct) -> bool {
    !fields.message.is_empty()
}

/// A required field has no `omitempty`, and an empty object as default marks a struct held by value.
fn is_always_there(field: &Field) -> bool {
    field.required || matches!(&field.default, Some(Value::Object(map)) if map.is_empty())
}
