//! What of an object is sent when not all of it: tables, and metadata alone.

use super::{Include, set_kind, set_resource_version};
use crate::registry::Resource;
use crate::request::negotiate::MetaVersion;
use jiff::Timestamp;
use machinery::{Map, Value};

/// The object's metadata.
pub fn partial(object: Value, version: MetaVersion) -> Value {
    let mut out = Value::object();
    set_kind(&mut out, version.api_version(), "PartialObjectMetadata");
    if let Value::Object(mut map) = object
        && let Some(metadata) = map.remove("metadata")
    {
        out.make_object().insert("metadata", metadata);
    }
    out
}

/// What a list says beside its items.
#[derive(Debug, Clone, Default)]
pub struct ListMeta {
    pub revision: u64,
    pub continue_token: Option<String>,
    pub remaining: Option<u64>,
}

impl ListMeta {
    pub fn to_value(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue", token.as_str());
        }
        if let Some(remaining) = self.remaining {
            metadata.insert("remainingItemCount", remaining as i64);
        }
        metadata.insert("resourceVersion", self.revision.to_string());
        metadata.into()
    }
}

/// A table of objects of the storage version.
pub fn table(
    resource: &Resource,
    objects: impl IntoIterator<Item = (Value, Include)>,
    version: MetaVersion,
    now: Timestamp,
    list: &ListMeta,
) -> Value {
    table_value(resource, objects, version, now, Some(list))
}

/// A table; of one object its metadata holds that object's version.
pub fn table_value(
    resource: &Resource,
    objects: impl IntoIterator<Item = (Value, Include)>,
    version: MetaVersion,
    now: Timestamp,
    list: Option<&ListMeta>,
) -> Value {
    let columns = resource.strategy.column_definitions();
    let mut last_version = 0;
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|(object, include)| {
            last_version = machinery::meta::resource_version(&object).parse().unwrap_or(0);
            let mut row = Map::new();
            row.insert("cells", Value::Array(resource.strategy.row(&object, now)));
            match include {
                Include::None => {}
                Include::Metadata => {
                    row.insert("object", partial(object, version));
                }
                Include::Object => {
                    row.insert("object", object);
                }
            }
            Value::Object(row)
        })
        .collect();
    let mut table = Value::object();
    set_kind(&mut table, version.api_version(), "Table");
    match list {
        Some(list) => table.set_path(&["metadata"], list.to_value()),
        None => {
            table.set_path(&["metadata"], Map::new());
            set_resource_version(&mut table, last_version);
        }
    }
    table.set_path(&["columnDefinitions"], Value::Array(columns));
    table.set_path(&["rows"], Value::Array(rows));
    table
}

/// The `Status` of a request that has nothing else to answer.
pub fn status_success(code: u16, details: Option<Map>) -> Value {
    let mut status = Value::object();
    set_kind(&mut status, "v1", "Status");
    status.set_path(&["metadata"], Map::new());
    status.set_path(&["status"], "Success");
    if let Some(details) = details {
        status.set_path(&["details"], details);
    }
    if code != 200 {
        status.set_path(&["code"], i64::from(code));
    }
    status
}
