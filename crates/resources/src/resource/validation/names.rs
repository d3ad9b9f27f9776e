//! Names of pools and attributes.

use crate::At;
use crate::check;
use crate::pod_spec::validation::volumes::csi_driver_name;
use machinery::field::ErrorList;
use machinery::names;

const LONGEST_POOL: usize = 253;
const LONGEST_ID: usize = 32;

/// The name of a driver.
pub(super) fn driver(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    csi_driver_name(name, at, errors);
}

/// The name of a pool: subdomains with slashes between them.
pub(super) fn pool(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(at.required(""));
        return;
    }
    if name.len() > LONGEST_POOL {
        errors.push(at.too_long(LONGEST_POOL as i64));
    }
    for part in name.split('/') {
        check::subdomain(part, at, errors);
    }
}

/// An attribute's name, with or without a domain.
pub(super) fn qualified(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        [id] => identifier(id, at, errors),
        [domain, id] => {
            if domain.is_empty() {
                errors.push(at.invalid("", "the domain must not be empty"));
            } else {
                driver(domain, at, errors);
            }
            if id.is_empty() {
                errors.push(at.invalid("", "the name must not be empty"));
            } else {
                identifier(id, at, errors);
            }
        }
        // As upstream: more slashes are not looked at.
        _ => {}
    }
}

/// An attribute's name with its domain.
pub(super) fn fully_qualified(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    qualified(name, at, errors);
    if !name.contains('/') {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(at.invalid(name, why));
    }
}

fn identifier(id: &str, at: &At<'_>, errors: &mut ErrorList) {
    if id.len() > LONGEST_ID {
        errors.push(at.too_long(LONGEST_ID as i64));
    }
    check::each(names::c_identifier(id), id, at, errors);
}
