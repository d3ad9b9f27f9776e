//! ResourceSlice.

use super::validation::{slice_change, slice_spec};
use crate::KindInfo;
use crate::fields::{entries, list_at, list_mut, object_mut, present, same, text_at};
use crate::strategy::{Column, Context, Strategy, bump_generation};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct ResourceSlice;

const COLUMNS: [Column; 5] = [
    Column::NAME,
    Column::text("Node", "The node it is of."),
    Column::text("Driver", "The driver that wrote it."),
    Column::text("Pool", "The pool it is part of."),
    Column::AGE,
];

impl Strategy for ResourceSlice {
    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.nodeName", "spec.driver"]
    }

    fn select(&self, object: &Value) -> Vec<compact_str::CompactString> {
        ["nodeName", "driver"]
            .map(|field| text_at(object, &["spec", field]).into())
            .to_vec()
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["metadata", "generation"], 1);
        drop_disabled(object, None);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        drop_disabled(new, Some(old));
        if !same(new, old, &["spec"]) {
            bump_generation(new, old);
        }
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        slice_spec(object, &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        slice_change(new, old, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::word(object, &["spec", "nodeName"]),
            table::word(object, &["spec", "driver"]),
            table::word(object, &["spec", "pool", "name"]),
            table::age(object, now),
        ]
    }
}

const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];
const MAPPINGS: &str = "nodeAllocatableResourceMappings";

/// Lists as attributes, and devices that stand for resources of nodes, are off by default in this version.
fn drop_disabled(slice: &mut Value, old: Option<&Value>) {
    let before = old
        .map(|old| list_at(old, &["spec", "devices"]))
        .unwrap_or_default();
    let has_list = |device: &Value| {
        let mut attributes = entries(device, "attributes").iter();
        attributes.any(|(_, value)| LISTS.iter().any(|field| present(value, field).is_some()))
    };
    let lists = before.iter().any(has_list);
    let mappings = before.iter().any(|device| present(device, MAPPINGS).is_some());
    let Some(spec) = slice.get_mut("spec") else { return };
    for device in list_mut(spec, "devices") {
        if !mappings {
            device.remove_path(&[MAPPINGS]);
        }
        let attributes = object_mut(device, "attributes").filter(|_| !lists);
        for attribute in attributes
            .into_iter()
            .flat_map(|attributes| attributes.values_mut())
        {
            for field in LISTS {
                attribute.remove_path(&[field]);
            }
        }
    }
}
