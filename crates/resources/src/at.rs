//! Where in an object validation stands: a path that is only written out when there is something to say.

use machinery::Value;
use machinery::field::{Error, Path};

/// A field path as a chain on the stack.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> At<'a> {
    /// A path that begins with a field; dots in it are part of the path. Empty: the object itself.
    pub const fn new(field: &'a str) -> Self {
        Self {
            parent: None,
            step: Step::Field(field),
        }
    }

    #[must_use]
    pub const fn child(&'a self, field: &'a str) -> Self {
        Self {
            parent: Some(self),
            step: Step::Field(field),
        }
    }

    #[must_use]
    pub const fn index(&'a self, index: usize) -> Self {
        Self {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    /// A map's entry, or a list's item by its key.
    #[must_use]
    pub const fn key(&'a self, key: &'a str) -> Self {
        Self {
            parent: Some(self),
            step: Step::Key(key),
        }
    }

    /// The path, written out.
    pub fn path(&self) -> Path {
        let above = self.parent.map_or_else(Path::root, At::path);
        match self.step {
            Step::Field("") => above,
            Step::Field(field) => above.child(field),
            Step::Index(index) => above.index(index),
            Step::Key(key) => above.key(key),
        }
    }

    pub fn invalid(&self, value: impl Into<Value>, detail: impl Into<String>) -> Error {
        Error::invalid(&self.path(), value, detail)
    }

    /// Invalid, without the value being shown.
    pub fn invalid_omitted(&self, detail: impl Into<String>) -> Error {
        Error::invalid(&self.path(), Value::Null, detail).without_value()
    }

    pub fn required(&self, detail: impl Into<String>) -> Error {
        Error::required(&self.path(), detail)
    }

    pub fn forbidden(&self, detail: impl Into<String>) -> Error {
        Error::forbidden(&self.path(), detail)
    }

    pub fn duplicate(&self, value: impl Into<Value>) -> Error {
        Error::duplicate(&self.path(), value)
    }

    pub fn not_found(&self, value: impl Into<Value>) -> Error {
        Error::not_found(&self.path(), value)
    }

    /// The allowed values are listed in the order given.
    pub fn not_supported(&self, value: impl Into<Value>, allowed: &[&str]) -> Error {
        Error::not_supported(&self.path(), value, allowed)
    }

    pub fn too_long(&self, max_bytes: i64) -> Error {
        Error::too_long(&self.path(), max_bytes)
    }

    pub fn too_many(&self, actual: usize, max: usize) -> Error {
        Error::too_many(&self.path(), actual, max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_out_from_the_root() {
        let spec = At::new("spec");
        let containers = spec.child("containers");
        assert_eq!(
            containers.index(2).child("name").path().to_string(),
            "spec.containers[2].name"
        );
        assert_eq!(
            At::new("").child("data").key("a.b").path().to_string(),
            "data[a.b]"
        );
    }
}
