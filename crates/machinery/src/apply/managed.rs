//! `metadata.managedFields`: who manages which fields of an object.
//!
//! A manager is a name, an operation, for updates a version, and a subresource; two entries with the same four are
//! one. Appliers are one manager whatever version they apply in.
//!
//! **Invariant:** an encoded list is in upstream's order (operation, time, manager, version, subresource), has no
//! entry that owns nothing, and at most [`MAX_UPDATE_MANAGERS`] updaters, the oldest merged into
//! `ancient-changes`.

use super::fields_v1;
use super::set::FieldSet;
use crate::{Key, Map, Value};
use compact_str::CompactString;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;

/// How many updaters an object may have before the oldest are merged.
pub const MAX_UPDATE_MANAGERS: usize = 10;

const ANCIENT: &str = "ancient-changes";

/// Who manages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Manager {
    pub name: CompactString,
    pub operation: Operation,
    pub subresource: CompactString,
}

/// By which operation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Apply,
    /// Anything else that writes, in this version.
    Update(CompactString),
}

impl Manager {
    pub fn apply(name: &str, subresource: &str) -> Self {
        Self::new(name, Operation::Apply, subresource)
    }

    pub fn update(name: &str, version: &str, subresource: &str) -> Self {
        Self::new(name, Operation::Update(version.into()), subresource)
    }

    fn new(name: &str, operation: Operation, subresource: &str) -> Self {
        Self {
            name: if name.is_empty() {
                "unknown".into()
            } else {
                name.into()
            },
            operation,
            subresource: subresource.into(),
        }
    }

    /// The version of an updater.
    pub fn update_version(&self) -> Option<&str> {
        match &self.operation {
            Operation::Update(version) => Some(version),
            Operation::Apply => None,
        }
    }
}

/// What one manager manages.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub manager: Manager,
    /// The version the fields are named in.
    pub version: CompactString,
    /// RFC 3339, as stored.
    pub time: Option<CompactString>,
    pub fields: FieldSet,
}

/// All managers of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ManagedFields {
    pub entries: Vec<Entry>,
}

impl ManagedFields {
    /// Reads `metadata.managedFields`.
    pub fn decode(list: Option<&Value>) -> Result<Self, String> {
        let items = match list {
            None | Some(Value::Null) => return Ok(Self::default()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err("managedFields must be a list".to_owned()),
        };
        let mut out = Self {
            entries: Vec::with_capacity(items.len()),
        };
        let mut places = HashMap::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let entry = decode_entry(i, item)?;
            match places.entry(entry.manager.clone()) {
                Place::Occupied(at) => out.entries[*at.get()] = entry,
                Place::Vacant(place) => {
                    place.insert(out.entries.len());
                    out.entries.push(entry);
                }
            }
        }
        Ok(out)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, manager: &Manager) -> Option<&Entry> {
        self.entries.iter().find(|e| e.manager == *manager)
    }

    pub(super) fn get_mut(&mut self, manager: &Manager) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|e| e.manager == *manager)
    }

    /// The list to store, if there is any manager left.
    pub fn encode(mut self) -> Option<Value> {
        self.entries.retain(|entry| !entry.fields.is_empty());
        if self.entries.is_empty() {
            return None;
        }
        if self.entries.len() > 1 {
            self.entries.sort_by_cached_key(|entry| {
                let (operation, version) = (operation(entry), entry.version.clone());
                let seconds = seconds(entry.time.as_deref());
                (
                    operation,
                    seconds,
                    entry.manager.name.clone(),
                    version,
                    entry.manager.subresource.clone(),
                )
            });
        }
        Some(Value::Array(self.entries.into_iter().map(encode_entry).collect()))
    }

    /// Merges the oldest updaters of each version into one, until no more than the allowed number are left.
    pub(super) fn cap_updaters(&mut self) {
        let mut updaters: Vec<usize> = (0..self.entries.len())
            .filter(|at| self.entries[*at].manager.update_version().is_some())
            .collect();
        let mut count = updaters.len();
        if count <= MAX_UPDATE_MANAGERS {
            return;
        }
        updaters.sort_by_cached_key(|at| {
            let entry = &self.entries[*at];
            (seconds(entry.time.as_deref()), entry.manager.clone())
        });
        // Per version the entry that takes the others in: the bucket there is, or the oldest, renamed.
        let mut buckets: HashMap<CompactString, usize> = HashMap::new();
        let mut oldest: HashMap<CompactString, usize> = HashMap::new();
        for at in &updaters {
            let entry = &self.entries[*at];
            if entry.manager == Manager::update(ANCIENT, &entry.version, "") {
                buckets.insert(entry.version.clone(), *at);
            }
        }
        for at in updaters {
            if count <= MAX_UPDATE_MANAGERS {
                break;
            }
            let version = self.entries[at].version.clone();
            let Some(first) = oldest.get(&version).copied() else {
                oldest.insert(version, at);
                continue;
            };
            let bucket = *buckets.entry(version.clone()).or_insert_with(|| {
                self.entries[first].manager = Manager::update(ANCIENT, &version, "");
                first
            });
            if bucket == at {
                continue; // its turn among the oldest
            }
            let fields = std::mem::take(&mut self.entries[at].fields);
            // The one being merged is the younger.
            let time = self.entries[at].time.clone();
            self.entries[bucket].fields.add(fields);
            self.entries[bucket].time = time;
            count -= 1;
        }
        self.entries.retain(|entry| !entry.fields.is_empty());
    }
}

/// The manager a write is credited to: the one the request names, or what stands before the first slash of its user
/// agent, without what cannot be printed and not longer than a manager's name may be.
pub fn manager_name(field_manager: &str, user_agent: &str) -> CompactString {
    const MAX_BYTES: usize = 128;
    if !field_manager.is_empty() {
        return field_manager.into();
    }
    let program = user_agent.split('/').next().unwrap_or_default();
    let mut name = CompactString::default();
    for c in program.chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MAX_BYTES {
            break;
        }
        name.push(c);
    }
    name
}

/// Gives `new` the times of `live` if nothing but times of its managers differs, so that a write that changes nothing
/// stores nothing.
pub fn keep_times(live: &Value, new: &mut Value) {
    const LIST: [&str; 2] = ["metadata", "managedFields"];
    let (Some(Value::Array(ours)), Some(Value::Array(theirs))) = (live.get_path(&LIST), new.get_path(&LIST))
    else {
        return;
    };
    let without_time = |entry: &Value| {
        let mut entry = entry.clone();
        entry.remove_path(&["time"]);
        entry
    };
    let same_times = ours
        .iter()
        .zip(theirs)
        .all(|(a, b)| a.get("time") == b.get("time"));
    if ours.len() != theirs.len() || ours.is_empty() || same_times {
        return;
    }
    if ours
        .iter()
        .zip(theirs)
        .any(|(a, b)| without_time(a) != without_time(b))
    {
        return;
    }
    let ours = ours.clone();
    let Some(at) = new.get_path_mut(&LIST) else { return };
    let theirs = std::mem::replace(at, Value::Array(ours));
    if !new.semantic_eq(live)
        && let Some(at) = new.get_path_mut(&LIST)
    {
        *at = theirs;
    }
}

/// An error if the list cannot be what upstream would store.
pub fn validate(list: Option<&Value>) -> Result<(), String> {
    ManagedFields::decode(list).map(drop)
}

/// True for a list by which a client asks to forget all managers: `[]` or `[{}]`.
pub(super) fn is_reset(list: Option<&Value>) -> bool {
    match list {
        Some(Value::Array(items)) => match items.as_slice() {
            [] => true,
            [Value::Object(map)] => map.iter().all(|(_, value)| is_unset(value)),
            _ => false,
        },
        _ => false,
    }
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        _ => false,
    }
}

fn operation(entry: &Entry) -> &'static str {
    match entry.manager.operation {
        Operation::Apply => "Apply",
        Operation::Update(_) => "Update",
    }
}

fn seconds(time: Option<&str>) -> i64 {
    time.and_then(|time| time.parse::<jiff::Timestamp>().ok())
        .map_or(0, jiff::Timestamp::as_second)
}

fn decode_entry(at: usize, item: &Value) -> Result<Entry, String> {
    let Value::Object(map) = item else {
        return Err("managedFields entries must be objects".to_owned());
    };
    let version = text(map, "apiVersion");
    let operation = match text(map, "operation") {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update(version.into()),
        _ => return Err("operation must be `Apply` or `Update`".to_owned()),
    };
    if version.is_empty() {
        return Err("apiVersion must not be empty".to_owned());
    }
    match text(map, "fieldsType") {
        "FieldsV1" => {}
        "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
        other => {
            return Err(format!(
                "invalid fieldsType {} in managed fields entry {at}",
                crate::patch::go::quote(other)
            ));
        }
    }
    let fields = match map.get("fieldsV1") {
        None | Some(Value::Null) => FieldSet::new(),
        Some(fields) => fields_v1::from_value(fields)
            .map_err(|e| format!("error decoding versioned set: error decoding set: {e}"))?,
    };
    Ok(Entry {
        manager: Manager {
            name: text(map, "manager").into(),
            operation,
            subresource: text(map, "subresource").into(),
        },
        version: version.into(),
        time: match text(map, "time") {
            "" => None,
            time => Some(time.into()),
        },
        fields,
    })
}

fn encode_entry(entry: Entry) -> Value {
    let mut map = Map::with_capacity(7);
    let mut put = |key: &'static str, value: Value| {
        map.insert(Key::from_static(key), value);
    };
    let operation = operation(&entry);
    put("apiVersion", Value::from(entry.version.as_str()));
    put("fieldsType", Value::from("FieldsV1"));
    put("fieldsV1", fields_v1::to_value(entry.fields));
    put("manager", Value::from(entry.manager.name.as_str()));
    put("operation", Value::from(operation));
    if !entry.manager.subresource.is_empty() {
        put("subresource", Value::from(entry.manager.subresource.as_str()));
    }
    if let Some(time) = &entry.time {
        put("time", Value::from(time.as_str()));
    }
    Value::Object(map)
}

fn text<'m>(map: &'m Map, key: &str) -> &'m str {
    match map.get(key) {
        Some(Value::String(text)) => text,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managers_are_named_by_the_request_or_its_agent() {
        for (manager, agent, want) in [
            ("me", "kubectl/v1.36 (linux/amd64)", "me"),
            ("", "kubectl/v1.36 (linux/amd64)", "kubectl"),
            ("", "curl", "curl"),
            ("", "a\u{7}b/c", "ab"),
            ("", "", ""),
        ] {
            assert_eq!(manager_name(manager, agent), want);
        }
        assert_eq!(manager_name("", &"é".repeat(100)), "é".repeat(64));
    }

    #[test]
    fn times_alone_are_no_change() {
        let object = |time: &str, data: &str| {
            let mut object = Value::object();
            let mut entry = Value::object();
            entry.set_path(&["manager"], "m");
            entry.set_path(&["time"], time);
            object.set_path(&["metadata", "managedFields"], vec![entry]);
            object.set_path(&["data"], data);
            object
        };
        let live = object("2026-01-01T00:00:00Z", "x");
        let mut new = object("2026-01-02T00:00:00Z", "x");
        keep_times(&live, &mut new);
        assert_eq!(new, live);
        let changed = object("2026-01-02T00:00:00Z", "y");
        let mut new = changed.clone();
        keep_times(&live, &mut new);
        assert_eq!(new, changed);
    }
}
