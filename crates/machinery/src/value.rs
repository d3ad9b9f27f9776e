//! The value tree: what JSON can say, held so that a decoded object costs few allocations.
//!
//! A [`Map`] is a vector sorted by key. A [`Key`] that a schema knows is a static string and costs nothing to
//! clone; other keys up to 24 bytes are held inline.
//!
//! **Invariant:** the entries of a [`Map`] are sorted by key and no key stands twice.
//!
//! Bytes stay base64 text, quantities and times normalised text: the tree is the JSON form of an object.

use compact_str::CompactString;
use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

/// One JSON value. Integers that fit `i64` are [`Value::Int`], all other numbers [`Value::Float`].
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(CompactString),
    Array(Vec<Value>),
    Object(Map),
}

impl Value {
    pub fn string(text: impl Into<CompactString>) -> Self {
        Self::String(text.into())
    }

    pub fn object() -> Self {
        Self::Object(Map::new())
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = self { Some(*b) } else { None }
    }

    pub fn as_i64(&self) -> Option<i64> {
        if let Self::Int(i) = self { Some(*i) } else { None }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(f) => Some(*f),
            // A number in JSON has no kind; precision past 2^53 is lost as in any JSON reader.
            Self::Int(i) => Some(*i as f64),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(s) = self { Some(s) } else { None }
    }

    pub fn as_array(&self) -> Option<&[Value]> {
        if let Self::Array(a) = self { Some(a) } else { None }
    }

    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Value>> {
        if let Self::Array(a) = self { Some(a) } else { None }
    }

    pub fn as_object(&self) -> Option<&Map> {
        if let Self::Object(m) = self { Some(m) } else { None }
    }

    pub fn as_object_mut(&mut self) -> Option<&mut Map> {
        if let Self::Object(m) = self { Some(m) } else { None }
    }

    /// The field of an object; `None` also for what is no object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.as_object_mut()?.get_mut(key)
    }

    /// The value at a path of object fields.
    pub fn get_path(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    pub fn get_path_mut(&mut self, path: &[&str]) -> Option<&mut Value> {
        path.iter().try_fold(self, |value, key| value.get_mut(key))
    }

    /// The text at a path; `None` when absent or no text.
    pub fn get_str_path(&self, path: &[&str]) -> Option<&str> {
        self.get_path(path)?.as_str()
    }

    /// This value as an object, which it becomes if it is none.
    pub fn make_object(&mut self) -> &mut Map {
        if !matches!(self, Self::Object(_)) {
            *self = Self::object();
        }
        match self {
            Self::Object(map) => map,
            _ => unreachable!("made an object above"),
        }
    }

    /// Sets the value at a path, making objects on the way.
    pub fn set_path(&mut self, path: &[&str], value: impl Into<Value>) {
        let mut at = self;
        for key in path {
            at = at.make_object().entry_or_null(key);
        }
        *at = value.into();
    }

    /// Removes and returns the value at a path.
    pub fn remove_path(&mut self, path: &[&str]) -> Option<Value> {
        let (last, way) = path.split_last()?;
        self.get_path_mut(way)?.as_object_mut()?.remove(last)
    }

    /// Null, or an empty text, array or object: what upstream's `omitempty` leaves out.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::String(s) => s.is_empty(),
            Self::Array(a) => a.is_empty(),
            Self::Object(m) => m.is_empty(),
            Self::Bool(_) | Self::Int(_) | Self::Float(_) => false,
        }
    }

    /// Equal as upstream's `Semantic.DeepEqual` sees it: absent, null and empty are the same.
    pub fn semantic_eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Self::Object(a), Self::Object(b)) => a.semantic_eq(b),
            (Self::Array(a), Self::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.semantic_eq(b))
            }
            (a, b) if a.is_empty() && b.is_empty() => true,
            (a, b) => a == b,
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::Int(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.into())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::String(value.into())
    }
}

impl From<CompactString> for Value {
    fn from(value: CompactString) -> Self {
        Self::String(value)
    }
}

impl From<Map> for Value {
    fn from(value: Map) -> Self {
        Self::Object(value)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(value: Vec<T>) -> Self {
        Self::Array(value.into_iter().map(Into::into).collect())
    }
}

/// A field's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(CompactString);

impl Key {
    /// A name that lives as long as the program: never copied.
    pub const fn from_static(name: &'static str) -> Self {
        Self(CompactString::const_new(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Key {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Key {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for Key {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<CompactString> for Key {
    fn from(name: CompactString) -> Self {
        Self(name)
    }
}

impl From<Key> for CompactString {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl PartialEq<str> for Key {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Key {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// An object's fields, sorted by key.
#[derive(Clone, Default, PartialEq)]
pub struct Map {
    entries: Vec<(Key, Value)>,
}

impl Map {
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            entries: Vec::with_capacity(capacity),
        }
    }

    /// A map of entries in any order; of equal keys the last one stays, and each such key is told to `repeated`.
    pub fn from_unsorted(mut entries: Vec<(Key, Value)>, mut repeated: impl FnMut(&Key)) -> Self {
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            entries.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    repeated(&later.0);
                    std::mem::swap(later, earlier);
                }
                same
            });
        }
        Self { entries }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.find(key).ok().map(|at| &self.entries[at].1)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.find(key).ok().map(|at| &mut self.entries[at].1)
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.find(key).is_ok()
    }

    /// Sets a field; the value it had is returned.
    pub fn insert(&mut self, key: impl Into<Key>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        // Decoders deliver keys mostly in order, so the end is tried first.
        if self.entries.last().is_none_or(|(last, _)| *last < key) {
            self.entries.push((key, value));
            return None;
        }
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.entries[at].1, value)),
            Err(at) => {
                self.entries.insert(at, (key, value));
                None
            }
        }
    }

    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.find(key).ok().map(|at| self.entries.remove(at).1)
    }

    /// The field's value, [`Value::Null`] put there when it is absent.
    pub fn entry_or_null(&mut self, key: &str) -> &mut Value {
        let at = match self.find(key) {
            Ok(at) => at,
            Err(at) => {
                self.entries.insert(at, (Key::from(key), Value::Null));
                at
            }
        };
        &mut self.entries[at].1
    }

    /// The field as an object, made when absent or of another type.
    pub fn object_entry(&mut self, key: &str) -> &mut Map {
        self.entry_or_null(key).make_object()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Key, &Value)> + DoubleEndedIterator {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&Key, &mut Value)> {
        self.entries.iter_mut().map(|(key, value)| (&*key, value))
    }

    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Key> {
        self.entries.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl ExactSizeIterator<Item = &Value> {
        self.entries.iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl ExactSizeIterator<Item = &mut Value> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&Key, &mut Value) -> bool) {
        self.entries.retain_mut(|(key, value)| keep(key, value));
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// The entries in order, as a slice.
    pub fn as_slice(&self) -> &[(Key, Value)] {
        &self.entries
    }

    pub fn semantic_eq(&self, other: &Map) -> bool {
        let (mut a, mut b) = (self.entries.iter().peekable(), other.entries.iter().peekable());
        loop {
            match (a.peek(), b.peek()) {
                (None, None) => return true,
                (Some((ka, va)), Some((kb, vb))) if ka == kb => {
                    if !va.semantic_eq(vb) {
                        return false;
                    }
                    a.next();
                    b.next();
                }
                (Some((ka, va)), other) if other.is_none_or(|(kb, _)| ka < kb) => {
                    if !va.is_empty() {
                        return false;
                    }
                    a.next();
                }
                (_, Some((_, vb))) => {
                    if !vb.is_empty() {
                        return false;
                    }
                    b.next();
                }
                (Some(_), None) => unreachable!("covered by the guard above"),
            }
        }
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|(probe, _)| probe.as_str().cmp(key))
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Into<Key>, V: Into<Value>> FromIterator<(K, V)> for Map {
    /// The last of equal keys wins.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl IntoIterator for Map {
    type Item = (Key, Value);
    type IntoIter = std::vec::IntoIter<(Key, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<'a> IntoIterator for &'a Map {
    type Item = &'a (Key, Value);
    type IntoIter = std::slice::Iter<'a, (Key, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_stay_sorted_and_unique() {
        let mut map = Map::new();
        for key in ["b", "a", "c", "b"] {
            map.insert(key, key);
        }
        assert_eq!(map.keys().map(Key::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(map.remove("b"), Some("b".into()));
        assert_eq!(map.get("b"), None);
    }

    #[test]
    fn semantic_equality_ignores_what_is_empty() {
        let mut a = Value::object();
        a.set_path(&["spec", "x"], 1);
        let mut b = a.clone();
        b.set_path(&["metadata", "labels"], Map::new());
        b.set_path(&["z"], Vec::<Value>::new());
        assert!(
            !a.semantic_eq(&b),
            "an object that holds an empty object is not empty itself"
        );
        b.remove_path(&["metadata"]);
        assert!(a.semantic_eq(&b) && b.semantic_eq(&a) && a != b);
        b.set_path(&["spec", "x"], 2);
        assert!(!a.semantic_eq(&b));
    }
}
