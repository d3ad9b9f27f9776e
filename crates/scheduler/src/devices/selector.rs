//! Expressions that select devices, compiled once.

use expressions::device::{Attribute, Device, Selector};
use hashbrown::HashMap;
use k8s_openapi::api::resource::v1::Device as Spec;
use machinery::quantity::Quantity;
use parking_lot::Mutex;
use std::sync::Arc;

/// So many compiled expressions are kept, as many as upstream keeps.
const KEPT: usize = 10;

/// Compiled expressions by their texts; the one that was not used for longest makes room.
#[derive(Debug, Default)]
pub(crate) struct Selectors(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    compiled: HashMap<String, (u64, Compiled)>,
    uses: u64,
}

pub(super) type Compiled = Arc<Result<Selector, String>>;

impl Selectors {
    pub(super) fn get(&self, text: &str) -> Compiled {
        let mut kept = self.0.lock();
        kept.uses += 1;
        let now = kept.uses;
        if let Some((used, known)) = kept.compiled.get_mut(text) {
            *used = now;
            return Arc::clone(known);
        }
        let compiled = Arc::new(Selector::compile(text).map_err(|error| error.to_string()));
        if kept.compiled.len() >= KEPT {
            let oldest = kept.compiled.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(text, _)| text.clone()) {
                kept.compiled.remove(&oldest);
            }
        }
        kept.compiled
            .insert(text.to_owned(), (now, Arc::clone(&compiled)));
        compiled
    }
}

/// A device as expressions see it.
pub(super) fn device<'a>(driver: &'a str, spec: &'a Spec) -> Result<Device<'a>, String> {
    let mut attributes = Vec::new();
    for (name, attribute) in spec.attributes.iter().flatten() {
        let value = if let Some(number) = attribute.int {
            Attribute::Int(number)
        } else if let Some(flag) = attribute.bool {
            Attribute::Bool(flag)
        } else if let Some(text) = &attribute.string {
            Attribute::Text(text)
        } else if let Some(text) = &attribute.version {
            Attribute::Version(text)
        } else {
            return Err(format!("attribute {name}: unsupported attribute value"));
        };
        attributes.push((name.as_str(), value));
    }
    let capacity = spec.capacity.iter().flatten();
    let capacity = capacity.map(|(name, c)| (name.as_str(), c.value.0.parse().unwrap_or(Quantity::ZERO)));
    Device::new(
        driver,
        spec.allow_multiple_allocations == Some(true),
        attributes,
        capacity,
    )
}
