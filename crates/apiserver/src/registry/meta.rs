//! Rules for the metadata of every kind, with upstream's messages.

use machinery::field::{Error, ErrorList, Path};
use machinery::meta;
use machinery::names;
use machinery::{Map, Value};

const MAX_ANNOTATIONS: usize = 256 * 1024;
const IMMUTABLE: &str = "field is immutable";

/// How a name is judged; `prefix` when it is only the beginning of one.
pub type NameCheck<'a> = &'a dyn Fn(&str, bool) -> Vec<String>;

/// Judges the metadata of an object.
pub fn validate(object: &Value, namespaced: bool, check_name: NameCheck<'_>) -> ErrorList {
    let at = Path::new("metadata");
    let mut errors = ErrorList::new();
    let generate = meta::generate_name(object);
    if !generate.is_empty() {
        for wrong in check_name(generate, true) {
            errors.push(Error::invalid(&at.child("generateName"), generate, wrong));
        }
    }
    let name = meta::name(object);
    if name.is_empty() {
        errors.push(Error::required(
            &at.child("name"),
            "name or generateName is required",
        ));
    } else {
        for wrong in check_name(name, false) {
            errors.push(Error::invalid(&at.child("name"), name, wrong));
        }
    }
    let namespace = meta::namespace(object);
    if namespaced {
        if namespace.is_empty() {
            errors.push(Error::required(&at.child("namespace"), ""));
        } else {
            for wrong in names::dns1123_label(namespace) {
                errors.push(Error::invalid(&at.child("namespace"), namespace, wrong));
            }
        }
    } else if !namespace.is_empty() {
        errors.push(Error::forbidden(
            &at.child("namespace"),
            "not allowed on this type",
        ));
    }
    if meta::generation(object) < 0 {
        errors.push(Error::invalid(
            &at.child("generation"),
            meta::generation(object),
            "must be greater than or equal to 0",
        ));
    }
    if let Some(labels) = meta::labels(object) {
        validate_labels(labels, &at.child("labels"), &mut errors);
    }
    if let Some(annotations) = meta::annotations(object) {
        validate_annotations(annotations, &at.child("annotations"), &mut errors);
    }
    validate_owners(
        meta::owner_references(object),
        &at.child("ownerReferences"),
        &mut errors,
    );
    validate_finalizers(object, &at.child("finalizers"), &mut errors);
    errors
}

/// Judges a change of metadata.
pub fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let at = Path::new("metadata");
    let mut errors = ErrorList::new();
    // Finalizers may only go while an object is being deleted.
    if meta::deletion_timestamp(old).is_some() {
        let kept: Vec<&str> = meta::finalizers(old).collect();
        let mut added: Vec<&str> = meta::finalizers(new).filter(|f| !kept.contains(f)).collect();
        if !added.is_empty() {
            added.sort_unstable();
            let shown = added
                .iter()
                .map(|f| machinery::field::quote(f))
                .collect::<Vec<_>>()
                .join(", ");
            errors.push(Error::forbidden(
                &at.child("finalizers"),
                format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{shown}}}"),
            ));
        }
    }
    let version = meta::resource_version(new);
    if version.is_empty() {
        errors.push(Error::invalid(
            &at.child("resourceVersion"),
            version,
            "must be specified for an update",
        ));
    }
    if meta::generation(new) < meta::generation(old) {
        errors.push(Error::invalid(
            &at.child("generation"),
            meta::generation(new),
            "must not be decremented",
        ));
    }
    let mut immutable = |field: &'static str| {
        let value = |object: &Value| {
            meta::metadata(object)
                .and_then(|m| m.get(field))
                .cloned()
                .unwrap_or_default()
        };
        let (new, old) = (value(new), value(old));
        if !new.semantic_eq(&old) {
            errors.push(Error::invalid(&at.child(field), new, IMMUTABLE));
        }
    };
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        immutable(field);
    }
    errors
}

/// Judges labels.
pub fn validate_labels(labels: &Map, at: &Path, errors: &mut ErrorList) {
    for (key, value) in labels.iter() {
        for wrong in names::qualified_name(key) {
            errors.push(Error::invalid(at, key.as_str(), wrong));
        }
        let value = value.as_str().unwrap_or_default();
        for wrong in names::label_value(value) {
            errors.push(Error::invalid(at, value, wrong));
        }
    }
}

fn validate_annotations(annotations: &Map, at: &Path, errors: &mut ErrorList) {
    let mut size = 0;
    for (key, value) in annotations.iter() {
        // The case of an annotation's prefix does not matter.
        for wrong in names::qualified_name(&key.to_lowercase()) {
            errors.push(Error::invalid(at, key.as_str(), wrong));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        errors.push(Error::too_long(at, MAX_ANNOTATIONS as i64));
    }
}

fn validate_owners(owners: &[Value], at: &Path, errors: &mut ErrorList) {
    let mut controller: Option<String> = None;
    for owner in owners {
        let text = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        let api_version = text("apiVersion");
        match machinery::gvk::GroupVersion::parse(api_version) {
            Some(gv) if !gv.version.is_empty() => {
                if gv.group.is_empty() && gv.version == "v1" && text("kind") == "Event" {
                    errors.push(Error::invalid(
                        at,
                        owner.clone(),
                        "/v1, Kind=Event is disallowed from being an owner",
                    ));
                }
            }
            _ => errors.push(Error::invalid(
                &at.child("apiVersion"),
                api_version,
                "version must not be empty",
            )),
        }
        for (key, wrong) in [
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(key).is_empty() {
                errors.push(Error::invalid(&at.child(key), "", wrong));
            }
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) => errors.push(Error::invalid(
                    at,
                    Value::Array(owners.to_vec()),
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"),
                )),
                None => controller = Some(this),
            }
        }
    }
}

fn validate_finalizers(object: &Value, at: &Path, errors: &mut ErrorList) {
    let (mut orphan, mut foreground) = (false, false);
    for finalizer in meta::finalizers(object) {
        for wrong in names::qualified_name(finalizer) {
            errors.push(Error::invalid(at, finalizer, wrong));
        }
        orphan |= finalizer == "orphan";
        foreground |= finalizer == "foregroundDeletion";
    }
    if orphan && foreground {
        let all: Vec<Value> = meta::finalizers(object).map(Value::from).collect();
        errors.push(Error::invalid(
            at,
            all,
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
}

/// Takes out what only the server sets (upstream's `WipeObjectMetaSystemFields`).
pub fn wipe_system_fields(object: &mut Value) {
    let metadata = meta::metadata_mut(object);
    for field in [
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "selfLink",
        "uid",
    ] {
        metadata.remove(field);
    }
}

/// Removes repeated owner references; whether there were any.
pub fn dedup_owners(object: &mut Value) -> Vec<String> {
    let Some(owners) = object
        .get_path_mut(&["metadata", "ownerReferences"])
        .and_then(Value::as_array_mut)
    else {
        return Vec::new();
    };
    let mut seen: Vec<Value> = Vec::with_capacity(owners.len());
    let mut repeated = Vec::new();
    owners.retain(|owner| {
        if seen.contains(owner) {
            let uid = owner
                .get("uid")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            if !repeated.contains(&uid) {
                repeated.push(uid);
            }
            return false;
        }
        seen.push(owner.clone());
        true
    });
    repeated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(metadata: &str, expect: &[&str]) {
        let text = format!(r#"{{"metadata":{metadata}}}"#);
        let object = machinery::codec::json::decode_any(text.as_bytes())
            .expect("json")
            .value;
        let errors = validate(&object, true, &|n, p| names::subdomain_rule(n, p));
        let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(got, expect, "{metadata}");
    }

    #[test]
    fn metadata_is_judged_as_upstream() {
        check(r#"{"name":"a","namespace":"b"}"#, &[]);
        check(
            r#"{"namespace":"b"}"#,
            &["metadata.name: Required value: name or generateName is required"],
        );
        check(r#"{"name":"a"}"#, &["metadata.namespace: Required value"]);
        check(
            r#"{"name":"a","namespace":"b","finalizers":["orphan","foregroundDeletion"]}"#,
            &[
                r#"metadata.finalizers: Invalid value: ["orphan","foregroundDeletion"]: finalizer orphan and foregroundDeletion cannot be both set"#,
            ],
        );
    }

    #[test]
    fn owners_are_told_once() {
        let text = br#"{"metadata":{"ownerReferences":[{"uid":"1"},{"uid":"2"},{"uid":"1"}]}}"#;
        let mut object = machinery::codec::json::decode_any(text).expect("json").value;
        assert_eq!(dedup_owners(&mut object), ["1"]);
        assert_eq!(meta::owner_references(&object).len(), 2);
    }
}
