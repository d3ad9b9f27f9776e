//! Paths inside volumes: relative, and never upwards.

use crate::At;
use machinery::field::ErrorList;

/// No element is `..`.
pub fn no_backsteps(path: &str, at: &At<'_>, errors: &mut ErrorList) {
    if path.split('/').any(|part| part == "..") {
        errors.push(at.invalid(path, "must not contain '..'"));
    }
}

/// Relative, without `..`.
pub fn descending(path: &str, at: &At<'_>, errors: &mut ErrorList) {
    if path.starts_with('/') {
        errors.push(at.invalid(path, "must be a relative path"));
    }
    no_backsteps(path, at, errors);
}

/// Relative, without `..`, and not beginning with two dots: such names are the kubelet's.
pub fn not_reserved(path: &str, at: &At<'_>, errors: &mut ErrorList) {
    descending(path, at, errors);
    if path.starts_with("..") && !path.starts_with("../") {
        errors.push(at.invalid(path, "must not start with '..'"));
    }
}
