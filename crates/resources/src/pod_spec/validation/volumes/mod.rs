//! A pod's volumes.

mod files;
pub mod legacy;
pub mod paths;
mod projected;

use super::Holder;
use crate::At;
use crate::check;
use crate::core::claim_spec;
use crate::fields::{list, present, text};
use machinery::Value;
use machinery::field::ErrorList;
use machinery::names;

/// Sources of a volume in upstream's order. At two of them upstream's path is not the field's name.
#[rustfmt::skip]
const SOURCES: [&str; 30] = [
    "emptyDir", "hostPath", "gitRepo", "gcePersistentDisk", "awsElasticBlockStore", "secret", "nfs", "iscsi",
    "glusterfs", "flocker", "persistentVolumeClaim", "rbd", "cinder", "cephfs", "quobyte", "downwardAPI", "fc",
    "flexVolume", "configMap", "azureFile", "vsphereVolume", "photonPersistentDisk", "portworxVolume", "azureDisk",
    "storageos", "projected", "scaleIO", "csi", "ephemeral", "image",
];

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Judges the volumes; those nothing is wrong with are returned by name.
pub(super) fn volumes<'a>(
    spec: &'a Value,
    holder: Holder<'_>,
    at: &At<'_>,
    errors: &mut ErrorList,
) -> Vec<(&'a str, &'a Value)> {
    let all = list(spec, "volumes");
    let mut good: Vec<(&str, &Value)> = Vec::with_capacity(all.len());
    for (index, volume) in all.iter().enumerate() {
        let at = at.index(index);
        let name = text(volume, "name");
        let before = errors.len();
        source(volume, name, holder, &at, errors);
        if name.is_empty() {
            errors.push(at.child("name").required(""));
        } else {
            check::label(name, &at.child("name"), errors);
        }
        if good.iter().any(|(other, _)| *other == name) {
            errors.push(at.child("name").duplicate(name));
        }
        if errors.len() == before {
            good.push((name, volume));
        }
        if let Some(claim) = present(volume, "persistentVolumeClaim")
            && is_made_for_pod(text(claim, "claimName"), all, holder)
        {
            let claim = text(claim, "claimName");
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(at.child("persistentVolumeClaim.claimName").invalid(claim, why));
        }
    }
    good
}

fn is_made_for_pod(claim: &str, volumes: &[Value], holder: Holder<'_>) -> bool {
    !holder.name.is_empty()
        && volumes
            .iter()
            .filter(|volume| present(volume, "ephemeral").is_some())
            .any(|volume| {
                let rest = claim
                    .strip_prefix(holder.name)
                    .and_then(|rest| rest.strip_prefix('-'));
                rest == Some(text(volume, "name"))
            })
}

fn source(volume: &Value, name: &str, holder: Holder<'_>, at: &At<'_>, errors: &mut ErrorList) {
    let mut sources = 0;
    for kind in SOURCES {
        let Some(source) = present(volume, kind) else {
            continue;
        };
        if sources > 0 {
            let kind = match kind {
                "cephfs" => "cephFS",
                "downwardAPI" => "downwarAPI",
                kind => kind,
            };
            errors.push(
                at.child(kind)
                    .forbidden("may not specify more than 1 volume type"),
            );
            continue;
        }
        sources += 1;
        one_source(kind, source, holder, at, errors);
        if kind == "iscsi" && present(source, "initiatorName").is_some() {
            legacy::iscsi_length(
                name,
                text(source, "targetPortal"),
                &at.child("name"),
                name,
                errors,
            );
        }
        if kind == "ephemeral" && !holder.name.is_empty() && !name.is_empty() {
            let claim = format!("{}-{name}", holder.name);
            for why in names::dns1123_subdomain(&claim) {
                errors.push(
                    at.child("name")
                        .invalid(name, format!("PVC name {claim:?}: {why}")),
                );
            }
        }
    }
    if sources == 0 {
        errors.push(at.required("must specify a volume type"));
    }
}

fn one_source(kind: &str, source: &Value, holder: Holder<'_>, volume: &At<'_>, errors: &mut ErrorList) {
    let at = volume.child(kind);
    match kind {
        "emptyDir" => {
            if text(source, "sizeLimit").starts_with('-') {
                errors.push(
                    at.child("sizeLimit")
                        .forbidden("SizeLimit field must be a valid resource quantity"),
                );
            }
        }
        "hostPath" => host_path(source, &at, errors),
        "gitRepo" => {
            legacy::required(source, &["repository"], &at, errors);
            paths::descending(text(source, "directory"), &at.child("directory"), errors);
        }
        "secret" => files::from_object(source, "secretName", &at, errors),
        "configMap" => files::from_object(source, "name", &at, errors),
        "downwardAPI" => {
            mode(source, "defaultMode", &at, errors);
            for item in list(source, "items") {
                files::downward_file(item, &at, errors);
            }
        }
        "projected" => projected::projected(source, &at, errors),
        "csi" => {
            csi_driver_name(text(source, "driver"), &at.child("driver"), errors);
            if let Some(secret) = present(source, "nodePublishSecretRef") {
                match text(secret, "name") {
                    "" => errors.push(at.child("nodePublishSecretRef.name").required("")),
                    name => check::subdomain(name, &at.child("name"), errors),
                }
            }
        }
        "ephemeral" => match present(source, "volumeClaimTemplate") {
            None => errors.push(at.child("volumeClaimTemplate").required("")),
            Some(template) => claim_template(template, &at.child("volumeClaimTemplate"), errors),
        },
        "image" => {
            if holder.is_pod && text(source, "reference").is_empty() {
                errors.push(at.child("reference").required(""));
            }
            let policies = ["Always", "IfNotPresent", "Never"];
            check::required_one_of(
                text(source, "pullPolicy"),
                &policies,
                &at.child("pullPolicy"),
                errors,
            );
        }
        "gcePersistentDisk" => legacy::source(kind, source, &volume.child("persistentDisk"), errors),
        _ => legacy::source(kind, source, &at, errors),
    }
}

/// A directory of the host.
pub fn host_path(source: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const TYPES: [&str; 8] = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    let path = text(source, "path");
    if path.is_empty() {
        errors.push(at.child("path").required(""));
        return;
    }
    paths::no_backsteps(path, &at.child("path"), errors);
    check::one_of(text(source, "type"), &TYPES, &at.child("type"), errors);
}

/// The name of a CSI driver.
pub fn csi_driver_name(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(at.required(""));
        return;
    }
    if name.len() > 63 {
        errors.push(at.too_long(63));
    }
    check::each(names::dns1123_subdomain(&name.to_lowercase()), name, at, errors);
}

fn claim_template(template: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if let Some(metadata) = template.get("metadata") {
        let here = at.child("metadata");
        check::annotations(
            crate::fields::entries(metadata, "annotations"),
            &here.child("annotations"),
            errors,
        );
        check::labels(
            crate::fields::entries(metadata, "labels"),
            &here.child("labels"),
            errors,
        );
        for (field, value) in metadata.as_object().into_iter().flatten() {
            if !matches!(field.as_str(), "annotations" | "labels") && !value.is_empty() {
                errors.push(here.child(field).forbidden("cannot be set"));
            }
        }
    }
    if let Some(spec) = template.get("spec") {
        claim_spec(spec, &at.child("spec"), errors);
    }
}

/// Permission bits.
fn mode(source: &Value, field: &str, at: &At<'_>, errors: &mut ErrorList) {
    if let Some(mode) = crate::fields::int(source, field)
        && !(0..=0o777).contains(&mode)
    {
        errors.push(at.child(field).invalid(mode, MODE));
    }
}
