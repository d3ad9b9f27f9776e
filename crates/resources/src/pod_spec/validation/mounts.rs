//! Where a container's volumes are mounted, and which of its volumes are devices.

use super::{Scope, volumes::paths};
use crate::At;
use crate::check;
use crate::fields::{flag, list, present, text};
use machinery::Value;
use machinery::field::ErrorList;

/// Judges `volumeMounts` and `volumeDevices`.
pub(super) fn mounts_and_devices(container: &Value, scope: &Scope<'_>, at: &At<'_>, errors: &mut ErrorList) {
    mounts(container, scope, &at.child("volumeMounts"), errors);
    devices(container, scope, &at.child("volumeDevices"), errors);
}

fn mounts(container: &Value, scope: &Scope<'_>, at: &At<'_>, errors: &mut ErrorList) {
    let mounts = list(container, "volumeMounts");
    let devices = list(container, "volumeDevices");
    for (index, mount) in mounts.iter().enumerate() {
        let here = at.index(index);
        let (name, path) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.push(here.child("name").required(""));
        }
        if !scope.volumes.iter().any(|(volume, _)| *volume == name) {
            errors.push(here.child("name").not_found(name));
        }
        if path.is_empty() {
            errors.push(here.child("mountPath").required(""));
        }
        if mounts[..index]
            .iter()
            .any(|other| text(other, "mountPath") == path)
        {
            errors.push(here.child("mountPath").invalid(path, "must be unique"));
        }
        if devices.iter().any(|device| text(device, "name") == name) {
            errors.push(
                here.child("name")
                    .invalid(name, "must not already exist in volumeDevices"),
            );
        }
        if devices.iter().any(|device| text(device, "devicePath") == path) {
            let why = "must not already exist as a path in volumeDevices";
            errors.push(here.child("mountPath").invalid(path, why));
        }
        sub_paths(mount, at, &here, errors);
        propagation(mount, container, at, errors);
    }
}

/// Upstream names the list, not the item, in what it says of a path below a volume.
fn sub_paths(mount: &Value, at: &At<'_>, here: &At<'_>, errors: &mut ErrorList) {
    let (path, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
    if !path.is_empty() {
        paths::descending(path, &at.child("subPath"), errors);
    }
    if !expression.is_empty() {
        if !path.is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.push(here.child("subPathExpr").invalid(expression, why));
        }
        paths::descending(expression, &at.child("subPathExpr"), errors);
    }
}

fn propagation(mount: &Value, container: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let mode = present(mount, "mountPropagation").and_then(Value::as_str);
    if let Some(mode) = mode {
        let at = at.child("mountPropagation");
        check::one_of(mode, &["Bidirectional", "HostToContainer", "None"], &at, errors);
        let privileged = container
            .get("securityContext")
            .is_some_and(|context| flag(context, "privileged"));
        if mode == "Bidirectional" && !privileged {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(at.forbidden(why));
        }
    }
    let at = at.child("recursiveReadOnly");
    match present(mount, "recursiveReadOnly").and_then(Value::as_str) {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !flag(mount, "readOnly") {
                errors.push(at.forbidden("may only be specified when readOnly is true"));
            }
            if mode.is_some_and(|mode| mode != "None") {
                let why = "may only be specified when mountPropagation is None or not specified";
                errors.push(at.forbidden(why));
            }
        }
        Some(other) => errors.push(at.not_supported(other, &["Disabled", "Enabled", "IfPossible"])),
    }
}

fn devices(container: &Value, scope: &Scope<'_>, at: &At<'_>, errors: &mut ErrorList) {
    let mounts = list(container, "volumeMounts");
    let devices = list(container, "volumeDevices");
    for (index, device) in devices.iter().enumerate() {
        let at = at.index(index);
        let (name, path) = (text(device, "name"), text(device, "devicePath"));
        let (at_name, at_path) = (at.child("name"), at.child("devicePath"));
        if name.is_empty() {
            errors.push(at_name.required(""));
        }
        let before = &devices[..index];
        if !name.is_empty() && before.iter().any(|other| text(other, "name") == name) {
            errors.push(at_name.invalid(name, "must be unique"));
        }
        match scope.volumes.iter().find(|(volume, _)| *volume == name) {
            None => errors.push(at_name.not_found(name)),
            Some((_, volume)) => {
                let claim = ["persistentVolumeClaim", "ephemeral"];
                if !claim.iter().any(|source| present(volume, source).is_some()) {
                    let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                    errors.push(at_name.invalid(name, why));
                }
            }
        }
        if path.is_empty() {
            errors.push(at_path.required(""));
        }
        if before.iter().any(|other| text(other, "devicePath") == path) {
            errors.push(at_path.invalid(path, "must be unique"));
        }
        if path.split('/').any(|part| part == "..") {
            errors.push(at_path.invalid(path, "can not contain backsteps ('..')"));
        }
        if mounts.iter().any(|mount| text(mount, "name") == name) {
            errors.push(at_name.invalid(name, "must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|mount| text(mount, "mountPath") == path) {
            errors.push(at_path.invalid(path, "must not already exist as a path in volumeMounts"));
        }
    }
}
