//! Environment variables and where they come from.

use super::{Scope, every_container, volumes::paths};
use crate::At;
use crate::check;
use crate::fields::{list, present, text};
use machinery::field::ErrorList;
use machinery::quantity::Quantity;
use machinery::{Value, names};

/// Fields of a pod an environment variable may show.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Judges `env` and `envFrom` of a container.
pub(super) fn env(container: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let env = at.child("env");
    for (index, variable) in list(container, "env").iter().enumerate() {
        let at = env.index(index);
        let name = text(variable, "name");
        if name.is_empty() {
            errors.push(at.child("name").required(""));
        } else {
            check::each(names::env_var_name(name), name, &at.child("name"), errors);
        }
        if let Some(from) = present(variable, "valueFrom") {
            let has_value = !text(variable, "value").is_empty();
            value_from(from, has_value, &at.child("valueFrom"), errors);
        }
    }
    env_from(container, &at.child("envFrom"), errors);
}

fn value_from(from: &Value, has_value: bool, at: &At<'_>, errors: &mut ErrorList) {
    let mut sources = 0;
    let mut source = |field| {
        let source = present(from, field);
        sources += usize::from(source.is_some());
        source
    };
    if let Some(selector) = source("fieldRef") {
        object_field(selector, &FIELDS, &at.child("fieldRef"), errors);
    }
    if let Some(selector) = source("resourceFieldRef") {
        resource_field(selector, false, &at.child("resourceFieldRef"), errors);
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(selector) = source(field) {
            key_selector(selector, &at.child(field), errors);
        }
    }
    if let Some(selector) = source("fileKeyRef") {
        file_key(selector, &at.child("fileKeyRef"), errors);
    }
    if sources == 0 {
        let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(at.invalid("", why));
    } else if has_value {
        errors.push(at.invalid("", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(at.invalid("", "may not have more than one field specified at a time"));
    }
}

fn env_from(container: &Value, at: &At<'_>, errors: &mut ErrorList) {
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        let here = at.index(index);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            check::each(names::env_var_name(prefix), prefix, &here.child("prefix"), errors);
        }
        let mut sources = 0;
        for field in ["configMapRef", "secretRef"] {
            let Some(reference) = present(source, field) else {
                continue;
            };
            sources += 1;
            let here = here.child(field);
            match text(reference, "name") {
                "" => errors.push(here.child("name").required("")),
                name => check::each(
                    names::subdomain_rule(name, true),
                    name,
                    &here.child("name"),
                    errors,
                ),
            }
        }
        match sources {
            0 => errors.push(at.invalid("", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errors.push(at.invalid("", "may not have more than one field specified at a time")),
        }
    }
}

fn key_selector(selector: &Value, at: &At<'_>, errors: &mut ErrorList) {
    check::subdomain(text(selector, "name"), &at.child("name"), errors);
    match text(selector, "key") {
        "" => errors.push(at.child("key").required("")),
        key => check::each(names::config_map_key(key), key, &at.child("key"), errors),
    }
}

fn file_key(selector: &Value, at: &At<'_>, errors: &mut ErrorList) {
    match text(selector, "key") {
        "" => errors.push(at.child("key").required("")),
        key => check::each(names::env_var_name(key), key, &at.child("key"), errors),
    }
    match text(selector, "volumeName") {
        "" => errors.push(at.child("volumeName").required("")),
        name => check::label(name, &at.child("volumeName"), errors),
    }
    match text(selector, "path") {
        "" => errors.push(at.child("path").required("")),
        path => paths::no_backsteps(path, &at.child("path"), errors),
    }
}

/// Judges a reference to a field of the pod; `fields` are those it may name beside single labels and annotations.
pub(super) fn object_field(selector: &Value, fields: &[&str], at: &At<'_>, errors: &mut ErrorList) {
    let version = text(selector, "apiVersion");
    if version.is_empty() {
        errors.push(at.child("apiVersion").required(""));
        return;
    }
    let path = text(selector, "fieldPath");
    if path.is_empty() {
        errors.push(at.child("fieldPath").required(""));
        return;
    }
    if version != "v1" {
        let why = format!("error converting fieldPath: unsupported pod version: {version}");
        errors.push(at.child("fieldPath").invalid(path, why));
        return;
    }
    if let Some((whole, key)) = path.strip_suffix(']').and_then(|path| path.split_once("['")) {
        let key = key.strip_suffix('\'').unwrap_or(key);
        match whole {
            "metadata.annotations" if key.bytes().any(|c| c.is_ascii_uppercase()) => {
                check::qualified(&key.to_lowercase(), at, errors);
            }
            "metadata.annotations" | "metadata.labels" => check::qualified(key, at, errors),
            _ => {
                let why =
                    format!("error converting fieldPath: field label does not support subscript: {path}");
                errors.push(at.child("fieldPath").invalid(path, why));
            }
        }
        return;
    }
    if !is_known_label(path) {
        errors.push(unknown_label(path, at));
        return;
    }
    let path = if path == "spec.host" {
        "spec.nodeName"
    } else {
        path
    };
    if !fields.contains(&path) {
        errors.push(at.child("fieldPath").not_supported(path, fields));
    }
}

/// Field labels a pod's version knows at all.
fn is_known_label(path: &str) -> bool {
    FIELDS.contains(&path)
        || matches!(
            path,
            "metadata.annotations"
                | "metadata.labels"
                | "spec.restartPolicy"
                | "spec.schedulerName"
                | "spec.host"
                | "status.phase"
        )
}

fn unknown_label(path: &str, at: &At<'_>) -> machinery::field::Error {
    let why = format!("error converting fieldPath: field label not supported: {path}");
    at.child("fieldPath").invalid(path, why)
}

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Judges a reference to a resource of a container.
pub(super) fn resource_field(selector: &Value, in_volume: bool, at: &At<'_>, errors: &mut ErrorList) {
    let resource = text(selector, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && text(selector, "containerName").is_empty() {
        errors.push(at.child("containerName").required(""));
    } else if resource.is_empty() {
        errors.push(at.child("resource").required(""));
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.push(at.child("resource").not_supported(resource, &RESOURCES));
    }
    let divisor = text(selector, "divisor");
    if divisor.is_empty()
        || divisor
            .parse::<Quantity>()
            .is_ok_and(|quantity| quantity.is_zero())
    {
        return;
    }
    const SIZES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let (allowed, of) = match resource {
        "limits.cpu" | "requests.cpu" => ("1m and 1", "cpu"),
        "limits.memory" | "requests.memory" => (SIZES, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (SIZES, "local ephemeral storage"),
        _ if huge => (SIZES, "hugepages"),
        _ => return,
    };
    let good = if of == "cpu" {
        matches!(divisor, "1m" | "1")
    } else {
        SIZES.split(", ").any(|size| size == divisor)
    };
    if !good {
        let why = format!("only divisor's values {allowed} are supported with the {of} resource");
        errors.push(at.child("divisor").invalid(resource, why));
    }
}

/// Files that variables are read from lie in empty directories.
pub(super) fn file_key_volumes(scope: &Scope<'_>, at: &At<'_>, errors: &mut ErrorList) {
    for (field, index, container) in every_container(scope.spec) {
        for (at_env, variable) in list(container, "env").iter().enumerate() {
            let Some(reference) = variable
                .get_path(&["valueFrom", "fileKeyRef"])
                .filter(|r| !r.is_null())
            else {
                continue;
            };
            let name = text(reference, "volumeName");
            let volume = list(scope.spec, "volumes")
                .iter()
                .rev()
                .find(|volume| text(volume, "name") == name);
            if volume.is_some_and(|volume| present(volume, "emptyDir").is_some()) {
                continue;
            }
            let at = at.child(field);
            let at = at.index(index);
            let at = at.child("env");
            let at = at.index(at_env);
            let at = at.child("valueFrom.fileKeyRef.volumeName");
            errors.push(match volume {
                None => at.not_found(name),
                Some(_) => at.invalid(name, "referenced volume must be of type emptyDir"),
            });
        }
    }
}
