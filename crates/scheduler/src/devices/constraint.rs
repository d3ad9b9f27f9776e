//! Constraints over the devices of a claim.

use super::request::Request;
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceConstraint};

/// What all devices of some requests must have in common, or must not.
///
/// **Invariant:** what was refused stays refused while devices are added, so a search may stop early.
#[derive(Debug)]
pub(super) struct Constraint<'a> {
    requests: &'a [String],
    attribute: &'a str,
    distinct: bool,
    /// Of the devices that were added, in that order.
    values: Vec<&'a DeviceAttribute>,
}

impl<'a> Constraint<'a> {
    /// `None` for one of a kind that is not known.
    pub(super) fn new(constraint: &'a DeviceConstraint) -> Option<Self> {
        let (attribute, distinct) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(attribute), _) => (attribute, false),
            (None, Some(attribute)) => (attribute, true),
            (None, None) => return None,
        };
        Some(Self {
            requests: constraint.requests.as_deref().unwrap_or(&[]),
            attribute,
            distinct,
            values: Vec::new(),
        })
    }

    fn applies(&self, request: &Request<'_>) -> bool {
        self.requests.is_empty() || request.is_named_by(self.requests)
    }

    /// Adds a device, if it fits to those that are there.
    pub(super) fn add(&mut self, request: &Request<'_>, driver: &str, device: &'a Device) -> bool {
        if !self.applies(request) {
            return true;
        }
        let Some(value) = attribute(device, driver, self.attribute) else {
            return false;
        };
        let fits = if self.distinct {
            self.values.iter().all(|known| !same(known, value))
        } else {
            self.values.first().is_none_or(|known| same(known, value))
        };
        if fits {
            self.values.push(value);
        }
        fits
    }

    /// Takes back the device that was added last.
    pub(super) fn remove(&mut self, request: &Request<'_>) {
        if self.applies(request) {
            self.values.pop();
        }
    }
}

/// An attribute by its full name; the driver's own may lack its domain.
fn attribute<'a>(device: &'a Device, driver: &str, name: &str) -> Option<&'a DeviceAttribute> {
    let attributes = device.attributes.as_ref()?;
    attributes.get(name).or_else(|| {
        let (domain, id) = name.split_once('/')?;
        attributes.get(id).filter(|_| domain == driver)
    })
}

fn same(a: &DeviceAttribute, b: &DeviceAttribute) -> bool {
    if let Some(text) = &b.string {
        return a.string.as_ref() == Some(text);
    }
    if let Some(number) = b.int {
        return a.int == Some(number);
    }
    if let Some(flag) = b.bool {
        return a.bool == Some(flag);
    }
    b.version.is_some() && a.version == b.version
}
