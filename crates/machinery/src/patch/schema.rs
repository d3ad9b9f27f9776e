//! What the field tables say to a strategic merge patch.

use super::list::ListMeta;
use super::{PatchError, go};
use crate::Value;
use crate::schema::{Field, Shape, TypeId, Types};

/// The type of the object being patched.
#[derive(Clone, Copy)]
pub(super) struct View<'t> {
    types: &'t Types,
    id: TypeId,
}

impl<'t> View<'t> {
    pub(super) fn of(types: &'t Types, id: TypeId) -> Self {
        Self { types, id }
    }

    /// A field that holds an object.
    pub(super) fn field(self, name: &str) -> Result<(View<'t>, ListMeta<'t>), PatchError> {
        let Some(fields) = self.types.as_struct(self.id) else {
            return Err(PatchError::Failed(format!(
                "merging an object in json but data type is not struct, instead is: {}",
                self.go_kind()
            )));
        };
        let Some(field) = fields.field(name) else {
            let struct_name = fields.name.rsplit('.').next().unwrap_or_default();
            return Err(PatchError::Failed(format!(
                "unable to find api field in struct {struct_name} for the json field {}",
                go::quote(name)
            )));
        };
        Ok((Self::of(self.types, field.ty), meta(field)))
    }

    /// A field that holds a list: the type of its items.
    pub(super) fn list(self, name: &str) -> Result<(View<'t>, ListMeta<'t>), PatchError> {
        let (view, meta) = self.field(name)?;
        let Shape::List(list) = self.types.shape(view.id) else {
            return Err(PatchError::Failed(format!(
                "expected slice or array type, but got: {}",
                self.go_kind()
            )));
        };
        if matches!(self.types.shape(list.item), Shape::List(_)) {
            return Err(PatchError::Failed("unexpected slice of slice".to_owned()));
        }
        Ok((Self::of(self.types, list.item), meta))
    }

    /// What Go calls the kind of the type.
    pub(super) fn go_kind(self) -> &'static str {
        match self.types.shape(self.id) {
            Shape::Bool => "bool",
            Shape::Int32 => "int32",
            Shape::Int64 => "int64",
            Shape::Double => "float64",
            Shape::String => "string",
            Shape::Bytes | Shape::List(_) => "slice",
            Shape::Map(_) => "map",
            _ => "struct",
        }
    }
}

fn meta(field: &Field) -> ListMeta<'_> {
    let strategy = if field.patch.merge {
        "merge"
    } else if field.patch.replace {
        "replace"
    } else {
        ""
    };
    ListMeta {
        strategy,
        merge_key: field.merge_key.as_deref().unwrap_or_default(),
    }
}

/// A value of another JSON type than a directive needs.
pub(super) fn bad_type(expected: &str, actual: &Value) -> PatchError {
    let actual = match actual {
        Value::Null => "%!s(<nil>)",
        other => go::type_name(other),
    };
    PatchError::Failed(format!("expected a {expected}, but received a {actual}"))
}
