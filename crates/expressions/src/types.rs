//! What expressions know of values before there are any.

use compact_str::CompactString;
use std::fmt;
use std::sync::Arc;

/// A size nobody limits.
pub const UNBOUNDED: u64 = u64::MAX;

/// A type, with the largest size its values can have where that matters for cost.
#[derive(Debug, Clone)]
pub enum Type {
    /// Anything: checked when it is met.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    /// At most so many characters.
    String(u64),
    Bytes(u64),
    Timestamp,
    Duration,
    /// At most so many items.
    List(Arc<Type>, u64),
    Map(Arc<Type>, Arc<Type>, u64),
    Object(Arc<ObjectType>),
    Optional(Arc<Type>),
    /// The type of types.
    Type,
    /// A value only functions can look into: `kubernetes.Quantity`, `net.IP` …
    Opaque(&'static str),
}

/// An object with declared fields.
#[derive(Debug, Default)]
pub struct ObjectType {
    pub name: CompactString,
    /// Sorted by the name expressions use, which is the JSON name with what CEL cannot spell escaped.
    fields: Vec<(CompactString, CompactString, Type)>,
    /// It may have other fields, of which nothing is known.
    open: bool,
}

impl ObjectType {
    /// An object of fields by their JSON names; names that cannot be spelt in CEL are left out.
    pub fn new(
        name: impl Into<CompactString>,
        fields: impl IntoIterator<Item = (CompactString, Type)>,
    ) -> Self {
        let fields = fields
            .into_iter()
            .filter_map(|(name, ty)| Some((escape(&name)?, name, ty)));
        Self::spelt(name.into(), fields.collect())
    }

    /// An object of fields whose names expressions use as they stand: upstream escapes what schemas declare, and not
    /// what it declares itself (`request.namespace`).
    pub fn built_in(
        name: impl Into<CompactString>,
        fields: impl IntoIterator<Item = (CompactString, Type)>,
    ) -> Self {
        let fields = fields.into_iter().map(|(name, ty)| (name.clone(), name, ty));
        Self::spelt(name.into(), fields.collect())
    }

    fn spelt(name: CompactString, mut fields: Vec<(CompactString, CompactString, Type)>) -> Self {
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Self {
            name,
            fields,
            open: false,
        }
    }

    /// An object of any fields.
    pub fn open(name: impl Into<CompactString>) -> Self {
        Self {
            name: name.into(),
            fields: Vec::new(),
            open: true,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// The JSON name and type of a field.
    pub fn field(&self, name: &str) -> Option<(&CompactString, &Type)> {
        self.fields
            .binary_search_by(|(known, _, _)| known.as_str().cmp(name))
            .ok()
            .map(|at| (&self.fields[at].1, &self.fields[at].2))
    }

    /// The type of a field by its JSON name.
    pub fn json_field(&self, name: &str) -> Option<&Type> {
        self.fields
            .iter()
            .find(|(_, known, _)| known == name)
            .map(|(_, _, ty)| ty)
    }
}

impl Type {
    pub fn string() -> Self {
        Self::String(UNBOUNDED)
    }

    pub fn list(item: Self) -> Self {
        Self::List(Arc::new(item), UNBOUNDED)
    }

    pub fn map(value: Self) -> Self {
        Self::Map(Arc::new(Self::string()), Arc::new(value), UNBOUNDED)
    }

    pub fn object(object: ObjectType) -> Self {
        Self::Object(Arc::new(object))
    }

    pub fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    /// The largest size of a value.
    pub fn size(&self) -> u64 {
        match self {
            Self::String(most) | Self::Bytes(most) | Self::List(_, most) | Self::Map(_, _, most) => *most,
            Self::Dyn => UNBOUNDED,
            Self::Optional(inner) => inner.size(),
            _ => 1,
        }
    }

    /// The type of items, or of keys.
    pub fn item(&self) -> Self {
        match self {
            Self::List(item, _) => Self::clone(item),
            Self::Map(key, _, _) => Self::clone(key),
            _ => Self::Dyn,
        }
    }

    /// Whether values of the two can stand for each other.
    pub fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            // What may be absent may be null, and so may what only functions can look into.
            (Self::Null, Self::Null) => true,
            (Self::Null, other) | (other, Self::Null) => matches!(
                other,
                Self::Object(_) | Self::Timestamp | Self::Duration | Self::Optional(_) | Self::Opaque(_)
            ),
            (Self::List(a, _), Self::List(b, _)) | (Self::Optional(a), Self::Optional(b)) => a.fits(b),
            (Self::Map(k, v, _), Self::Map(l, w, _)) => k.fits(l) && v.fits(w),
            (Self::Object(a), Self::Object(b)) => Arc::ptr_eq(a, b) || a.name == b.name,
            (Self::Opaque(a), Self::Opaque(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    /// The type of either.
    pub fn join(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::String(a), Self::String(b)) => Self::String(*a.max(b)),
            // An empty list or map is one of whatever the other is of.
            (Self::List(item, 0), other @ Self::List(..)) | (other @ Self::List(..), Self::List(item, 0))
                if item.is_dyn() =>
            {
                other.clone()
            }
            (Self::Map(_, value, 0), other @ Self::Map(..))
            | (other @ Self::Map(..), Self::Map(_, value, 0))
                if value.is_dyn() =>
            {
                other.clone()
            }
            (Self::List(a, n), Self::List(b, m)) => Self::List(Arc::new(a.join(b)), *n.max(m)),
            (Self::Map(k, v, n), Self::Map(l, w, m)) => {
                Self::Map(Arc::new(k.join(l)), Arc::new(v.join(w)), *n.max(m))
            }
            (a, b) if a.is_dyn() || b.is_dyn() => Self::Dyn,
            (a, b) if a.fits(b) => a.clone(),
            _ => Self::Dyn,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String(_) => f.write_str("string"),
            Self::Bytes(_) => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(item, _) => write!(f, "list({item})"),
            Self::Map(key, value, _) => write!(f, "map({key}, {value})"),
            Self::Object(object) => f.write_str(&object.name),
            Self::Optional(inner) => write!(f, "optional_type({inner})"),
            Self::Type => f.write_str("type"),
            Self::Opaque(name) => f.write_str(name),
        }
    }
}

/// Words CEL keeps for itself.
const RESERVED: [&str; 22] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
    "__none__",
];

/// A field's name as expressions spell it; `None` if they cannot.
pub fn escape(name: &str) -> Option<CompactString> {
    if RESERVED.contains(&name) {
        return Some(compact_str::format_compact!("__{name}__"));
    }
    let first = name.chars().next()?;
    if !(first.is_ascii_alphabetic() || first == '_') {
        return None;
    }
    let mut out = CompactString::default();
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            out.push_str("__underscores__");
            rest = after;
            continue;
        }
        match c {
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}
