//! Values of expressions. What is part of an object is borrowed from it.

use crate::types::Type;
use base64::Engine as _;
use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp};
use machinery::Value;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A value.
#[derive(Debug, Clone)]
pub enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Cow<'a, str>),
    Bytes(Arc<[u8]>),
    Duration(SignedDuration),
    Time(Timestamp),
    List(Arc<Vec<Val<'a>>>),
    Map(Arc<Vec<(Val<'a>, Val<'a>)>>),
    /// A map that answers with an empty map for every key it does not have, although such a key is not in it.
    Domains(Arc<Vec<(Val<'a>, Val<'a>)>>),
    /// An array or object where it stands, and what is known of it.
    Part(&'a Value, Type),
    Optional(Option<Arc<Val<'a>>>),
    /// A type, by its name.
    Type(CompactString),
    Opaque(Arc<dyn Opaque>),
}

/// A value only functions can look into.
pub trait Opaque: fmt::Debug + Send + Sync {
    fn type_name(&self) -> &'static str;

    /// Calls a function on the value; `None` if it has no such function.
    fn call<'a>(&self, name: &str, arguments: &[Val<'a>]) -> Option<Result<Val<'a>, String>>;

    /// Whether another value of the same type is the same.
    fn equals(&self, other: &dyn Opaque) -> bool;

    /// A text that tells values apart, for [`Self::equals`].
    fn text(&self) -> String;
}

impl<'a> Val<'a> {
    pub fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Text(text.into())
    }

    pub fn list(items: Vec<Val<'a>>) -> Self {
        Self::List(Arc::new(items))
    }

    /// A value of an object, as its type says it is to be read.
    pub fn of(value: &'a Value, ty: &Type) -> Self {
        match (value, ty) {
            (Value::Null, _) => Self::Null,
            (Value::Bool(flag), _) => Self::Bool(*flag),
            (Value::Int(number), Type::Double) => Self::Double(*number as f64),
            (Value::Int(number), _) => Self::Int(*number),
            (Value::Float(number), Type::Int) if number.fract() == 0.0 => Self::Int(*number as i64),
            (Value::Float(number), _) => Self::Double(*number),
            (Value::String(text), Type::Timestamp) => match text.parse() {
                Ok(time) => Self::Time(time),
                Err(_) => Self::Text(Cow::Borrowed(text)),
            },
            (Value::String(text), Type::Duration) => match crate::functions::time::parse_duration(text) {
                Some(duration) => Self::Duration(duration),
                None => Self::Text(Cow::Borrowed(text)),
            },
            (Value::String(text), Type::Bytes(_)) => {
                match base64::engine::general_purpose::STANDARD.decode(text.as_bytes()) {
                    Ok(bytes) => Self::Bytes(bytes.into()),
                    Err(_) => Self::Text(Cow::Borrowed(text)),
                }
            }
            (Value::String(text), _) => Self::Text(Cow::Borrowed(text)),
            (Value::Array(_) | Value::Object(_), ty) => Self::Part(value, ty.clone()),
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The items of a list.
    pub fn items(&self) -> Option<Vec<Val<'a>>> {
        match self {
            Self::List(items) => Some(items.as_ref().clone()),
            Self::Part(Value::Array(items), ty) => {
                let item = ty.item();
                Some(items.iter().map(|value| Self::of(value, &item)).collect())
            }
            _ => None,
        }
    }

    /// The entries of a map.
    pub fn entries(&self) -> Option<Vec<(Val<'a>, Val<'a>)>> {
        match self {
            Self::Map(entries) | Self::Domains(entries) => Some(entries.as_ref().clone()),
            Self::Part(Value::Object(map), ty) => {
                let entry = |(key, value): (&'a machinery::Key, &'a Value)| {
                    (Self::text(key.as_str()), Self::of(value, &field_type(ty, key)))
                };
                Some(map.iter().map(entry).collect())
            }
            _ => None,
        }
    }

    /// How many characters, items or entries there are.
    pub fn size(&self) -> Option<u64> {
        Some(match self {
            Self::Text(text) => text.chars().count() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(items) => items.len() as u64,
            Self::Map(entries) | Self::Domains(entries) => entries.len() as u64,
            Self::Part(Value::Array(items), _) => items.len() as u64,
            Self::Part(Value::Object(map), _) => map.len() as u64,
            _ => return None,
        })
    }

    /// A list's item.
    pub fn at(&self, index: i64) -> Option<Val<'a>> {
        let index = usize::try_from(index).ok()?;
        match self {
            Self::List(items) => items.get(index).cloned(),
            Self::Part(Value::Array(items), ty) => items.get(index).map(|value| Self::of(value, &ty.item())),
            _ => None,
        }
    }

    /// A map's or object's entry.
    pub fn get(&self, key: &Val<'_>) -> Option<Val<'a>> {
        match self {
            Self::Map(entries) => entries
                .iter()
                .find(|(known, _)| known.equals(key))
                .map(|(_, value)| value.clone()),
            Self::Domains(entries) => {
                let found = entries.iter().find(|(known, _)| known.equals(key));
                Some(found.map_or_else(|| Self::Map(Arc::default()), |(_, value)| value.clone()))
            }
            Self::Part(Value::Object(map), ty) => {
                let key = key.as_str()?;
                map.get(key).map(|value| Self::of(value, &field_type(ty, key)))
            }
            _ => None,
        }
    }

    /// CEL's equality: numbers by their value, lists and maps by their parts, all else by kind and value.
    pub fn equals(&self, other: &Val<'_>) -> bool {
        if let Some(order) = self.number_order(other) {
            return order.is_eq();
        }
        match (self, other) {
            (Self::Null, Val::Null) => true,
            (Self::Bool(a), Val::Bool(b)) => a == b,
            (Self::Text(a), Val::Text(b)) => a == b,
            (Self::Bytes(a), Val::Bytes(b)) => a == b,
            (Self::Duration(a), Val::Duration(b)) => a == b,
            (Self::Time(a), Val::Time(b)) => a == b,
            (Self::Type(a), Val::Type(b)) => a == b,
            (Self::Opaque(a), Val::Opaque(b)) => a.type_name() == b.type_name() && a.equals(b.as_ref()),
            (Self::Optional(a), Val::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equals(b),
                _ => false,
            },
            (a, b) => match (a.items(), b.items(), a.entries(), b.entries()) {
                (Some(a), Some(b), _, _) => a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.equals(b)),
                (_, _, Some(a), Some(b)) => {
                    let holds = |(key, value): &(Val<'_>, Val<'_>)| {
                        b.iter()
                            .any(|(known, other)| known.equals(key) && value.equals(other))
                    };
                    a.len() == b.len() && a.iter().all(holds)
                }
                _ => false,
            },
        }
    }

    fn number_order(&self, other: &Val<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Val::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Val::Uint(b)) => Some(a.cmp(b)),
            (Self::Int(a), Val::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Uint(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (a, b) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        }
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(number) => Some(*number as f64),
            Self::Uint(number) => Some(*number as f64),
            Self::Double(number) => Some(*number),
            _ => None,
        }
    }

    /// The order of two values of one kind.
    pub fn order(&self, other: &Val<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            (Self::Text(a), Val::Text(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
            (Self::Time(a), Val::Time(b)) => Some(a.cmp(b)),
            (a, b) => a.number_order(b),
        }
    }

    /// The name of the value's type.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Time(_) => "google.protobuf.Timestamp",
            Self::List(_) | Self::Part(Value::Array(_), _) => "list",
            Self::Part(_, Type::Object(object)) => &object.name,
            Self::Map(_) | Self::Domains(_) | Self::Part(..) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Opaque(value) => value.type_name(),
        }
    }

    /// As a value of machinery's: what an expression makes for an object or a message.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Null | Self::Optional(None) => Value::Null,
            Self::Bool(flag) => (*flag).into(),
            Self::Int(number) => (*number).into(),
            Self::Uint(number) => i64::try_from(*number).map_or(Value::Float(*number as f64), Value::Int),
            Self::Double(number) => (*number).into(),
            Self::Text(text) => text.as_ref().into(),
            Self::Bytes(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
            Self::Duration(duration) => crate::functions::time::format_duration(*duration).into(),
            Self::Time(time) => time.to_string().into(),
            Self::List(items) => Value::Array(items.iter().map(Val::to_value).collect()),
            Self::Map(entries) | Self::Domains(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, value)| (crate::functions::strings::display(key), value.to_value()))
                    .collect(),
            ),
            Self::Part(value, _) => (*value).clone(),
            Self::Optional(Some(inner)) => inner.to_value(),
            Self::Type(name) => name.as_str().into(),
            Self::Opaque(value) => value.text().into(),
        }
    }
}

/// The type of an object's field or a map's value.
fn field_type(ty: &Type, key: &str) -> Type {
    match ty {
        Type::Object(object) => object.json_field(key).cloned().unwrap_or(Type::Dyn),
        Type::Map(_, value, _) => Type::clone(value),
        _ => Type::Dyn,
    }
}
