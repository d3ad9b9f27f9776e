//! The sequential model: objects, who owns their fields, and every change there was.
//!
//! It knows what the API promises and nothing of how the server does it. Objects are ConfigMaps, reduced to their labels,
//! data and finalizers.

use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Changes kept; what is older is not asked for.
const HISTORY: usize = 3000;

pub(crate) type Name = (String, String);

/// What of an object is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) uid: String,
    pub(crate) version: i64,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) data: BTreeMap<String, String>,
    pub(crate) finalizers: BTreeSet<String>,
    pub(crate) deleting: bool,
}

/// Who owns each field: `l:` a label, `d:` data. Managers that apply begin with `a`, others with `u`.
pub(crate) type Owners = BTreeMap<String, BTreeSet<String>>;

/// One change: what was there, what is there now.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) version: i64,
    pub(crate) name: Name,
    pub(crate) before: Option<Object>,
    pub(crate) after: Option<Object>,
}

#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) objects: BTreeMap<Name, Object>,
    pub(crate) owners: BTreeMap<Name, Owners>,
    pub(crate) history: VecDeque<Event>,
    /// The revision of the newest change.
    pub(crate) version: i64,
    /// Nothing before this revision is asked for.
    pub(crate) floor: i64,
}

/// What is asked of a list or a watch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Empty: all.
    pub(crate) namespace: String,
    pub(crate) label: Option<(String, String)>,
}

impl Filter {
    pub(crate) fn takes(&self, name: &Name, object: &Object) -> bool {
        (self.namespace.is_empty() || self.namespace == name.0)
            && self
                .label
                .as_ref()
                .is_none_or(|(key, value)| object.labels.get(key) == Some(value))
    }

    pub(crate) fn query(&self) -> String {
        match &self.label {
            Some((key, value)) => format!("labelSelector={key}%3D{value}"),
            None => String::new(),
        }
    }

    /// The collection's path.
    pub(crate) fn path(&self) -> String {
        if self.namespace.is_empty() {
            "/api/v1/configmaps".to_owned()
        } else {
            format!("/api/v1/namespaces/{}/configmaps", self.namespace)
        }
    }
}

impl Object {
    /// Reads an answer.
    pub(crate) fn read(json: &Json) -> (Name, Self) {
        let meta = &json["metadata"];
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let map = |value: &Json| -> BTreeMap<String, String> {
            let map = value.as_object().into_iter().flatten();
            map.map(|(k, v)| (k.clone(), text(v))).collect()
        };
        let finalizers = meta["finalizers"].as_array().into_iter().flatten();
        let object = Self {
            uid: text(&meta["uid"]),
            version: text(&meta["resourceVersion"]).parse().unwrap_or(-1),
            labels: map(&meta["labels"]),
            data: map(&json["data"]),
            finalizers: finalizers.map(text).collect(),
            deleting: !meta["deletionTimestamp"].is_null(),
        };
        ((text(&meta["namespace"]), text(&meta["name"])), object)
    }

    pub(crate) fn json(&self, name: &Name) -> Json {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": self.data, "metadata": {
            "namespace": name.0, "name": name.1, "labels": self.labels, "finalizers": self.finalizers}})
    }

    /// All but the version.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        Self {
            version: other.version,
            ..self.clone()
        } == *other
    }

    /// The fields managers own, with their values.
    pub(crate) fn fields(&self) -> BTreeMap<String, String> {
        let labels = self.labels.iter().map(|(k, v)| (format!("l:{k}"), v.clone()));
        let data = self.data.iter().map(|(k, v)| (format!("d:{k}"), v.clone()));
        labels.chain(data).collect()
    }

    fn set(&mut self, field: &str, value: Option<&String>) {
        let (map, key) = match field.split_once(':') {
            Some(("l", key)) => (&mut self.labels, key),
            Some((_, key)) => (&mut self.data, key),
            None => return,
        };
        match value {
            Some(value) => map.insert(key.to_owned(), value.clone()),
            None => map.remove(key),
        };
    }
}

impl World {
    /// Takes a change in.
    pub(crate) fn change(&mut self, name: &Name, version: i64, after: Option<Object>) {
        let before = self.objects.remove(name);
        if let Some(object) = &after {
            self.objects.insert(name.clone(), object.clone());
        } else {
            self.owners.remove(name);
        }
        assert!(
            version > self.version,
            "revision {version} after {}",
            self.version
        );
        self.version = version;
        self.history.push_back(Event {
            version,
            name: name.clone(),
            before,
            after,
        });
        if self.history.len() > HISTORY
            && let Some(old) = self.history.pop_front()
        {
            self.floor = self.floor.max(old.version);
        }
    }

    /// The objects at a revision not below the floor.
    pub(crate) fn at(&self, version: i64, filter: &Filter) -> BTreeMap<Name, Object> {
        let mut objects = self.objects.clone();
        for event in self.history.iter().rev().take_while(|e| e.version > version) {
            match &event.before {
                Some(before) => objects.insert(event.name.clone(), before.clone()),
                None => objects.remove(&event.name),
            };
        }
        objects.retain(|name, object| filter.takes(name, object));
        objects
    }

    /// The next change after a revision that a watcher sees, as it sees it.
    pub(crate) fn next_event(&self, after: i64, filter: &Filter) -> Option<(&'static str, Name, Object)> {
        let from = self.history.partition_point(|e| e.version <= after);
        self.history.range(from..).find_map(|event| {
            let seen = |object: &Option<Object>| object.clone().filter(|o| filter.takes(&event.name, o));
            let at = |object: Object| Object {
                version: event.version,
                ..object
            };
            let (kind, object) = match (seen(&event.before), seen(&event.after)) {
                (None, Some(after)) => ("ADDED", after),
                (Some(_), Some(after)) => ("MODIFIED", after),
                // What was there last, at the revision of its end.
                (Some(before), None) => ("DELETED", at(before)),
                (None, None) => return None,
            };
            Some((kind, event.name.clone(), object))
        })
    }

    /// Credits `manager` with what an update has changed.
    pub(crate) fn credit(&mut self, name: &Name, before: Option<&Object>, after: &Object, manager: &str) {
        let owners = self.credited(name, before, after, manager);
        self.owners.insert(name.clone(), owners);
    }

    /// The owners after an update by `manager`.
    pub(crate) fn credited(
        &self,
        name: &Name,
        before: Option<&Object>,
        after: &Object,
        manager: &str,
    ) -> Owners {
        let mut owners = self.owners.get(name).cloned().unwrap_or_default();
        let old = before.map(Object::fields).unwrap_or_default();
        let new = after.fields();
        owners.retain(|field, _| new.contains_key(field));
        for (field, value) in &new {
            if old.get(field) != Some(value) {
                owners.insert(field.clone(), BTreeSet::from([manager.to_owned()]));
            }
        }
        owners
    }

    /// Server-side apply of `config` by `manager`: the object and its owners then, or the fields in conflict.
    pub(crate) fn apply(
        &self,
        name: &Name,
        config: &BTreeMap<String, String>,
        manager: &str,
        force: bool,
    ) -> Result<(Object, Owners), BTreeSet<String>> {
        let mut object = self.objects.get(name).cloned().unwrap_or_else(|| Object {
            uid: String::new(),
            version: 0,
            labels: BTreeMap::new(),
            data: BTreeMap::new(),
            finalizers: BTreeSet::new(),
            deleting: false,
        });
        let mut owners = self.owners.get(name).cloned().unwrap_or_default();
        let live = object.fields();
        let contested: BTreeSet<String> = config
            .iter()
            .filter(|(field, value)| live.get(*field).is_some_and(|l| l != *value))
            .filter(|(field, _)| owners.get(*field).is_some_and(|o| o.iter().any(|m| m != manager)))
            .map(|(field, _)| field.clone())
            .collect();
        if !force && !contested.is_empty() {
            return Err(contested);
        }
        for (field, value) in config {
            let of = owners.entry(field.clone()).or_default();
            if contested.contains(field) {
                of.clear();
            }
            of.insert(manager.to_owned());
            object.set(field, Some(value));
        }
        let given_up: Vec<String> = owners
            .iter()
            .filter(|(field, of)| of.contains(manager) && !config.contains_key(*field))
            .map(|(field, _)| field.clone())
            .collect();
        for field in given_up {
            let of = owners.entry(field.clone()).or_default();
            of.remove(manager);
            if of.is_empty() {
                owners.remove(&field);
                object.set(&field, None);
            }
        }
        Ok((object, owners))
    }
}

/// The owners an answer's `managedFields` name.
pub(crate) fn owners_of(json: &Json) -> Owners {
    let mut owners = Owners::new();
    for entry in json["metadata"]["managedFields"].as_array().into_iter().flatten() {
        let manager = entry["manager"].as_str().unwrap_or_default();
        let fields = &entry["fieldsV1"];
        for (kind, map) in [("l", &fields["f:metadata"]["f:labels"]), ("d", &fields["f:data"])] {
            for key in map
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(k, _)| k.strip_prefix("f:"))
            {
                owners
                    .entry(format!("{kind}:{key}"))
                    .or_default()
                    .insert(manager.to_owned());
            }
        }
    }
    owners
}
