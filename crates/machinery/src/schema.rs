//! The tables that drive decoding, defaulting, patching and applying: an arena of type definitions.
//!
//! A built-in kind and a custom resource are described by the same [`Types`]; the one is compiled in (`api`), the
//! other is made from a CustomResourceDefinition at run time. A [`TypeId`] is only meaningful in its own arena.
//!
//! **Invariant:** fields of a [`Struct`] are sorted by JSON name; `wire` lists those with a protobuf tag in the
//! order in which they are written: by the tags on the way to them.

use crate::value::{Key, Value};
use compact_str::CompactString;
use std::collections::HashMap;

/// Names a type in its [`Types`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u32);

/// What a value of a type looks like.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    Bool,
    Int32,
    Int64,
    Double,
    String,
    /// Base64 text in JSON.
    Bytes,
    /// A number or a text.
    IntOrString,
    /// A text in canonical form; a number is taken too.
    Quantity,
    /// RFC 3339 in UTC with seconds.
    Time,
    /// RFC 3339 in UTC with microseconds.
    MicroTime,
    /// Go's notation: `1h30m0s`.
    Duration,
    /// Any JSON, kept as it is. On the wire a message with the JSON text as its only field.
    Json,
    /// Any object with a kind of its own, kept as it is (`runtime.RawExtension`).
    RawExtension,
    /// The set of fields somebody manages (`metav1.FieldsV1`).
    FieldsV1,
    /// A custom resource's schema or `true`/`false`.
    SchemaOrBool(TypeId),
    /// A custom resource's schema or a list of them.
    SchemaOrArray(TypeId),
    /// A custom resource's schema or a list of texts.
    SchemaOrStrings(TypeId),
    Struct(Struct),
    List(List),
    Map(MapType),
}

/// An object with known fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Struct {
    /// The definition's name, such as `io.k8s.api.core.v1.PodSpec`; empty for one without a name.
    pub name: CompactString,
    /// The protobuf message's name; empty when the type has none.
    pub message: CompactString,
    fields: Vec<Field>,
    wire: Vec<u16>,
    /// Fields that are not in the table are kept instead of dropped (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
    /// A whole object with `apiVersion`, `kind` and `metadata` (`x-kubernetes-embedded-resource`).
    pub embedded_resource: bool,
    /// Applied as one value (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// Unknown fields, when the table gives them a type (a custom resource's `additionalProperties`).
    pub additional: Option<TypeId>,
}

/// One field of a [`Struct`].
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: Key,
    pub ty: TypeId,
    /// The protobuf field number; zero when the field is not on the wire.
    pub tag: u32,
    /// Tags of the messages the field is nested in on the wire, outermost first, for what JSON inlines.
    pub via: Box<[u32]>,
    pub required: bool,
    /// Null is a value of its own here, and not the same as nothing.
    pub nullable: bool,
    pub default: Option<Value>,
    /// Upstream holds the field by value and leaves it out when it is zero: `false`, 0 and the empty text are absent.
    pub zero_is_absent: bool,
    pub patch: PatchStrategy,
    /// The key of a merged list's items in a strategic merge patch.
    pub merge_key: Option<Key>,
}

/// Upstream's `patchStrategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    pub merge: bool,
    pub retain_keys: bool,
    pub replace: bool,
}

/// A JSON array.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct List {
    pub item: TypeId,
    pub kind: ListKind,
}

/// Upstream's `x-kubernetes-list-type`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    /// Items are found by these fields.
    Map(Vec<Key>),
}

/// An object whose keys are data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MapType {
    pub value: TypeId,
    /// Applied as one value.
    pub atomic: bool,
}

impl Struct {
    /// A struct with these fields, in any order.
    pub fn new(
        name: impl Into<CompactString>,
        message: impl Into<CompactString>,
        mut fields: Vec<Field>,
    ) -> Self {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let mut wire: Vec<u16> = (0..fields.len())
            .filter(|at| fields[*at].tag != 0)
            // No type has 65,536 fields: tables are checked when they are made.
            .filter_map(|at| u16::try_from(at).ok())
            .collect();
        wire.sort_by(|a, b| {
            fields[usize::from(*a)]
                .wire_path()
                .cmp(fields[usize::from(*b)].wire_path())
        });
        Self {
            name: name.into(),
            message: message.into(),
            fields,
            wire,
            ..Self::default()
        }
    }

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub fn field(&self, name: &str) -> Option<&Field> {
        self.position(name).map(|at| &self.fields[at])
    }

    /// Where a field stands in [`Self::fields`].
    pub fn position(&self, name: &str) -> Option<usize> {
        self.fields
            .binary_search_by(|field| field.name.as_str().cmp(name))
            .ok()
    }

    /// The fields that are on the wire, in the order they are written.
    pub fn wire_fields(&self) -> impl ExactSizeIterator<Item = &Field> + Clone {
        self.wire.iter().map(|at| &self.fields[usize::from(*at)])
    }

    /// What a tag means inside the messages `via` (outermost first) of this type's message.
    pub fn on_wire(&self, via: &[u32], tag: u32) -> OnWire<'_> {
        let path = via.iter().chain([&tag]);
        let at = self
            .wire
            .partition_point(|at| self.fields[usize::from(*at)].wire_path().lt(path.clone()));
        match self.wire.get(at).map(|at| &self.fields[usize::from(*at)]) {
            Some(field) if field.wire_path().eq(path.clone()) => OnWire::Field(field),
            Some(field) if field.wire_path().take(via.len() + 1).eq(path) => OnWire::Message,
            _ => OnWire::Unknown,
        }
    }

    /// Marks a field whose zero value is left out; `false` when there is no such field.
    pub fn set_zero_is_absent(&mut self, name: &str) -> bool {
        let at = self.position(name);
        if let Some(at) = at {
            self.fields[at].zero_is_absent = true;
        }
        at.is_some()
    }

    /// Sets a field's default, for tables that add defaults of their own.
    pub fn set_default(&mut self, name: &str, default: Value) {
        if let Some(at) = self.position(name) {
            self.fields[at].default = Some(default);
        }
    }
}

impl Field {
    /// Whether a value of this field is one that upstream leaves out.
    pub fn leaves_out(&self, value: &Value) -> bool {
        self.zero_is_absent
            && match value {
                Value::Bool(flag) => !flag,
                Value::Int(number) => *number == 0,
                Value::Float(number) => *number == 0.0,
                Value::String(text) => text.is_empty(),
                Value::Null | Value::Array(_) | Value::Object(_) => false,
            }
    }

    /// A field with nothing but its name and type.
    pub fn new(name: impl Into<Key>, ty: TypeId) -> Self {
        Self {
            name: name.into(),
            ty,
            tag: 0,
            via: Box::default(),
            required: false,
            nullable: false,
            default: None,
            zero_is_absent: false,
            patch: PatchStrategy::default(),
            merge_key: None,
        }
    }

    fn wire_path(&self) -> impl Iterator<Item = &u32> + Clone {
        self.via.iter().chain([&self.tag])
    }
}

/// What a protobuf tag stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OnWire<'a> {
    Field(&'a Field),
    /// A message that JSON inlines: its tags are fields of the same object.
    Message,
    Unknown,
}

/// A kind: what an `apiVersion` and `kind` stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindSchema {
    pub gvk: crate::gvk::GroupVersionKind,
    pub ty: TypeId,
}

/// The arena.
///
/// One made over another ([`Types::over`]) holds the types of a custom resource: what does not fit them is kept as
/// it is, for validation to judge, where a built-in type's misfit is an error of decoding.
#[derive(Debug, Clone, Default)]
pub struct Types {
    /// The arena whose types come first.
    base: Option<&'static Types>,
    shapes: Vec<Shape>,
    names: HashMap<CompactString, TypeId>,
}

impl Types {
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty arena whose types may refer to those of `base`.
    pub fn over(base: &'static Types) -> Self {
        Self {
            base: Some(base),
            ..Self::default()
        }
    }

    /// Whether a type forgives values that do not fit: all but the base's in an arena made over another.
    pub fn is_lenient(&self, id: TypeId) -> bool {
        self.base.is_some_and(|base| id.0 as usize >= base.len())
    }

    fn own(&self, id: TypeId) -> usize {
        id.0 as usize - self.base.map_or(0, Types::len)
    }

    /// Adds a type.
    pub fn add(&mut self, shape: Shape) -> TypeId {
        // An arena of four billion types cannot exist in memory.
        let id = TypeId(u32::try_from(self.len()).unwrap_or(u32::MAX));
        if let Shape::Struct(s) = &shape
            && !s.name.is_empty()
        {
            self.names.insert(s.name.clone(), id);
        }
        self.shapes.push(shape);
        id
    }

    /// Makes room for a type that others refer to before it is known; it is free-form until [`Self::define`].
    pub fn reserve(&mut self, name: impl Into<CompactString>) -> TypeId {
        let id = self.add(Shape::Json);
        self.names.insert(name.into(), id);
        id
    }

    pub fn define(&mut self, id: TypeId, shape: Shape) {
        let at = self.own(id);
        self.shapes[at] = shape;
    }

    pub fn shape(&self, id: TypeId) -> &Shape {
        match self.base {
            Some(base) if (id.0 as usize) < base.len() => base.shape(id),
            _ => &self.shapes[self.own(id)],
        }
    }

    /// A type of this arena itself; the base's cannot be changed.
    pub fn shape_mut(&mut self, id: TypeId) -> &mut Shape {
        let at = self.own(id);
        &mut self.shapes[at]
    }

    /// The struct behind a type; `None` for any other shape.
    pub fn as_struct(&self, id: TypeId) -> Option<&Struct> {
        match self.shape(id) {
            Shape::Struct(s) => Some(s),
            _ => None,
        }
    }

    /// The type with a definition's name.
    pub fn by_name(&self, name: &str) -> Option<TypeId> {
        self.names
            .get(name)
            .copied()
            .or_else(|| self.base.and_then(|base| base.by_name(name)))
    }

    pub fn len(&self) -> usize {
        self.base.map_or(0, Types::len) + self.shapes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
