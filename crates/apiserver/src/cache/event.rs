//! Cached objects and what happened to them: immutable, shared, encoded at most once per form.
//!
//! The JSON of an entry is kept inside its watch frame (`{"type":"ADDED","object":…}\n`), so that a write's
//! answer, later reads and the event of every watcher are slices of one allocation. Protobuf, and metadata alone, are
//! cut from what is stored and from the JSON whenever they are asked for.

use crate::object::{self, Form};
use crate::registry::Resource;
use crate::request::Encoding;
use crate::request::negotiate::Shape;
use bytes::Bytes;
use compact_str::CompactString;
use machinery::Value;
use machinery::codec::frame;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};

/// What happened, as a watch says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// What selectors and keys need to know of an object.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    pub namespace: CompactString,
    pub name: CompactString,
    pub labels: Box<[(CompactString, CompactString)]>,
    /// Values of the strategy's selectable fields, in its order.
    pub fields: Box<[CompactString]>,
}

impl Meta {
    /// Reads an object's metadata.
    pub fn of(resource: &Resource, object: &Value) -> Self {
        let metadata = object.get("metadata");
        let text = |key: &str| {
            let value = metadata.and_then(|m| m.get(key)).and_then(Value::as_str);
            CompactString::from(value.unwrap_or_default())
        };
        let labels = metadata.and_then(|m| m.get("labels")).and_then(Value::as_object);
        let labels = labels.into_iter().flatten().filter_map(|(key, value)| {
            Some((
                CompactString::from(key.as_str()),
                CompactString::from(value.as_str()?),
            ))
        });
        Self {
            namespace: text("namespace"),
            name: text("name"),
            labels: labels.collect(),
            fields: resource.strategy.select(object).into_boxed_slice(),
        }
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .binary_search_by(|(k, _)| k.as_str().cmp(key))
            .ok()
            .map(|at| self.labels[at].1.as_str())
    }
}

/// One object at one revision.
#[derive(Debug)]
pub struct Entry {
    pub key: Bytes,
    pub meta: Meta,
    pub revision: u64,
    pub create_revision: u64,
    /// As the store holds it.
    pub stored: Bytes,
    json: OnceLock<JsonFrame>,
    forms: Mutex<Vec<(Form, Bytes)>>,
}

/// An entry's JSON within its frame.
#[derive(Debug, Clone)]
struct JsonFrame {
    frame: Bytes,
    change: Change,
}

impl Entry {
    pub fn new(key: Bytes, meta: Meta, revision: u64, create_revision: u64, stored: Bytes) -> Self {
        Self {
            key,
            meta,
            revision,
            create_revision,
            stored,
            json: OnceLock::new(),
            forms: Mutex::default(),
        }
    }

    /// The object as stored, in the storage version, with its resource version.
    pub fn value(&self, resource: &Resource) -> Result<Value, object::StoredError> {
        object::decode_stored(resource, &self.stored, self.revision)
    }

    /// Encodes from an object that is at hand; `object` must be what [`Self::value`] would give.
    pub fn prime_json(&self, object: &Value) {
        self.json.get_or_init(|| self.encode_json(object));
    }

    /// The object in a form; encoded at most once, the first time it is asked for.
    pub fn encoded(&self, resource: &Resource, form: Form) -> Result<Bytes, object::StoredError> {
        if form == Form::stored_json(resource) {
            let frame = self.json_frame(resource)?;
            let head = frame_head(frame.change).len();
            return Ok(frame.frame.slice(head..frame.frame.len() - frame::JSON_END.len()));
        }
        if let Some(bytes) = self.spliced(resource, form) {
            return Ok(bytes);
        }
        if let Some((_, bytes)) = self.forms.lock().iter().find(|(f, _)| *f == form) {
            return Ok(bytes.clone());
        }
        let bytes = object::encode(resource, self.value(resource)?, form)?;
        if form.is_kept() {
            self.forms.lock().push((form, bytes.clone()));
        }
        Ok(bytes)
    }

    /// The object in a form that is made of what is held anyway, and so is not held too.
    fn spliced(&self, resource: &Resource, form: Form) -> Option<Bytes> {
        match (form.shape, form.encoding) {
            (Shape::Object, Encoding::Protobuf) => {
                object::stamped_envelope(resource, &self.stored, self.revision, form.version)
            }
            (Shape::Partial(version), Encoding::Json) if resource.conversion.is_none() => {
                let json = self.json.get()?;
                let head = frame_head(json.change).len();
                object::metadata_alone(&json.frame[head..], version)
            }
            _ => None,
        }
    }

    /// The same object, said at another revision: what a watcher is told of an object that is gone.
    pub fn restamped(&self, revision: u64) -> Self {
        Self::new(
            self.key.clone(),
            self.meta.clone(),
            revision,
            self.create_revision,
            self.stored.clone(),
        )
    }

    fn json_frame(&self, resource: &Resource) -> Result<&JsonFrame, object::StoredError> {
        if let Some(frame) = self.json.get() {
            return Ok(frame);
        }
        let object = self.value(resource)?;
        Ok(self.json.get_or_init(|| self.encode_json(&object)))
    }

    fn encode_json(&self, object: &Value) -> JsonFrame {
        let change = if self.revision == self.create_revision {
            Change::Added
        } else {
            Change::Modified
        };
        let mut out = Vec::with_capacity(self.stored.len() * 2 + 64);
        out.extend_from_slice(frame_head(change));
        machinery::codec::json::encode(object, &mut out);
        out.extend_from_slice(frame::JSON_END);
        out.shrink_to_fit();
        JsonFrame {
            frame: out.into(),
            change,
        }
    }

    /// The watch frame that says `change` happened to this entry.
    pub fn frame(
        &self,
        resource: &Resource,
        change: Change,
        form: Form,
    ) -> Result<Bytes, object::StoredError> {
        if form == Form::stored_json(resource) {
            let frame = self.json_frame(resource)?;
            if frame.change == change {
                return Ok(frame.frame.clone());
            }
        }
        let object = self.encoded(resource, form)?;
        Ok(match form.encoding {
            Encoding::Protobuf => frame::protobuf(change.as_str(), &object).into(),
            Encoding::Cbor => frame::cbor(change.as_str(), &object).into(),
            Encoding::Json | Encoding::Yaml => frame::json(change.as_str(), &object).into(),
        })
    }
}

fn frame_head(change: Change) -> &'static [u8] {
    match change {
        Change::Added => br#"{"type":"ADDED","object":"#,
        Change::Modified => br#"{"type":"MODIFIED","object":"#,
        Change::Deleted => br#"{"type":"DELETED","object":"#,
    }
}

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    pub change: Change,
    /// After the change; for a deletion the last state, said at the revision of the deletion.
    pub entry: Arc<Entry>,
    /// Before the change.
    pub previous: Option<Arc<Entry>>,
    pub at: tokio::time::Instant,
    left: OnceLock<Arc<Entry>>,
    /// Frames that are not an entry's own: deletions, and other forms.
    frames: Mutex<Vec<((Change, Form), Bytes)>>,
}

impl Event {
    pub fn new(change: Change, entry: Arc<Entry>, previous: Option<Arc<Entry>>) -> Self {
        Self {
            change,
            entry,
            previous,
            at: tokio::time::Instant::now(),
            left: OnceLock::new(),
            frames: Mutex::default(),
        }
    }

    pub fn revision(&self) -> u64 {
        self.entry.revision
    }

    /// The frame for watchers to whom this is `change`; made once for all of them.
    pub fn frame(
        &self,
        resource: &Resource,
        change: Change,
        form: Form,
    ) -> Result<Bytes, object::StoredError> {
        let entry = match (change, self.change, &self.previous) {
            // Left the selection: the last state that was in it.
            (Change::Deleted, Change::Modified, Some(previous)) => self
                .left
                .get_or_init(|| Arc::new(previous.restamped(self.entry.revision))),
            _ => &self.entry,
        };
        if change != Change::Deleted && form == Form::stored_json(resource) {
            return entry.frame(resource, change, form);
        }
        if let Some((_, frame)) = self.frames.lock().iter().find(|(key, _)| *key == (change, form)) {
            return Ok(frame.clone());
        }
        let frame = entry.frame(resource, change, form)?;
        self.frames.lock().push(((change, form), frame.clone()));
        Ok(frame)
    }
}
