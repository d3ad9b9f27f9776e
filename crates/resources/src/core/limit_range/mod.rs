//! LimitRange.

mod validation;

use crate::fields::{list_mut, text};
use crate::pod_spec::resources;
use crate::strategy::{Context, Strategy};
use machinery::field::ErrorList;
use machinery::{Map, Value};

pub(crate) struct LimitRange;

impl Strategy for LimitRange {
    fn default(&self, object: &mut Value) {
        for item in object
            .get_mut("spec")
            .map(|spec| list_mut(spec, "limits"))
            .unwrap_or_default()
        {
            for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                resources::round(item.get_mut(field));
            }
            if text(item, "type") == "Container"
                && let Some(item) = item.as_object_mut()
            {
                container_limits(item);
            }
        }
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::limits(object, &mut errors);
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

/// A missing default is the maximum; a missing default request is the default, or else the minimum.
fn container_limits(item: &mut Map) {
    copy_missing(item, "max", "default");
    copy_missing(item, "default", "defaultRequest");
    copy_missing(item, "min", "defaultRequest");
}

fn copy_missing(item: &mut Map, from: &str, to: &str) {
    let Some(source) = item
        .get(from)
        .and_then(Value::as_object)
        .filter(|map| !map.is_empty())
        .cloned()
    else {
        return;
    };
    let target = item.object_entry(to);
    for (name, value) in source {
        if !target.contains_key(&name) {
            target.insert(name, value);
        }
    }
}
