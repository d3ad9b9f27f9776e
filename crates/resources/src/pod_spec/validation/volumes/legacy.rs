//! Sources of storage systems: of a pod's volumes and of PersistentVolumes.

use crate::At;
use crate::check;
use crate::fields::{entries, flag, int, list, present, text};
use machinery::Value;
use machinery::field::ErrorList;

/// Fields a source must have.
const REQUIRED: &[(&str, &[&str])] = &[
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("glusterfs", &["endpoints", "path"]),
    ("iscsi", &["targetPortal"]),
    ("nfs", &["server", "path"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("rbd", &["image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];

/// Judges a source by its kind.
pub fn source(kind: &str, source: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if matches!(kind, "rbd" | "cephfs") && list(source, "monitors").is_empty() {
        errors.push(at.child("monitors").required(""));
    }
    if let Some((_, fields)) = REQUIRED.iter().find(|(other, _)| *other == kind) {
        required(source, fields, at, errors);
    }
    match kind {
        "gcePersistentDisk" | "awsElasticBlockStore" => partition(source, at, errors),
        "nfs" if !text(source, "path").starts_with('/') => {
            errors.push(
                at.child("path")
                    .invalid(text(source, "path"), "must be an absolute path"),
            );
        }
        "iscsi" => iscsi(source, at, errors),
        "fc" => fc(source, at, errors),
        "flocker" => flocker(source, at, errors),
        "quobyte" => quobyte(source, at, errors),
        "flexVolume" => flex_options(source, at, errors),
        "azureDisk" => azure_disk(source, at, errors),
        "storageos" => storageos(source, at, errors),
        _ => {}
    }
    if matches!(kind, "cinder" | "storageos") {
        secret(source, at, errors);
    }
}

/// Fields that may not be empty.
pub(super) fn required(source: &Value, fields: &[&str], at: &At<'_>, errors: &mut ErrorList) {
    for field in fields {
        if text(source, field).is_empty() {
            errors.push(at.child(field).required(""));
        }
    }
}

fn secret(source: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if present(source, "secretRef").is_some_and(|secret| text(secret, "name").is_empty()) {
        errors.push(at.child("secretRef.name").required(""));
    }
}

fn partition(source: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let partition = int(source, "partition").unwrap_or(0);
    if !(0..=255).contains(&partition) {
        errors.push(
            at.child("partition")
                .invalid(partition, "must be between 1 and 255, inclusive"),
        );
    }
}

fn lun(lun: i64, at: &At<'_>, errors: &mut ErrorList) {
    if !(0..=255).contains(&lun) {
        errors.push(
            at.child("lun")
                .invalid(lun, "must be between 0 and 255, inclusive"),
        );
    }
}

fn iscsi(source: &Value, at: &At<'_>, errors: &mut ErrorList) {
    match text(source, "iqn") {
        "" => errors.push(at.child("iqn").required("")),
        name => initiator(name, &at.child("iqn"), errors),
    }
    lun(int(source, "lun").unwrap_or(0), at, errors);
    let authenticated = flag(source, "chapAuthDiscovery") || flag(source, "chapAuthSession");
    if authenticated && present(source, "secretRef").is_none() {
        errors.push(at.child("secretRef").required(""));
    }
    if let Some(name) = present(source, "initiatorName").and_then(Value::as_str) {
        initiator(name, &at.child("initiatorname"), errors);
    }
}

/// Portal and volume together are a name of limited length.
pub fn iscsi_length(name: &str, portal: &str, at: &At<'_>, shown: &str, errors: &mut ErrorList) {
    if name.len() + 1 + portal.len() > 64 {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
                   iscsi.initiatorName is specified.";
        errors.push(at.invalid(shown, why));
    }
}

fn initiator(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    let alphanumeric = |text: &str| text.bytes().all(|c| c.is_ascii_alphanumeric());
    let good = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => name.len() == 20 && alphanumeric(&name[4..]),
        Some("naa") => name.len() == 36 && alphanumeric(&name[4..]),
        _ => {
            errors.push(at.invalid(name, "must be valid format starting with iqn, eui, or naa"));
            return;
        }
    };
    if !good {
        errors.push(at.invalid(name, "must be valid format"));
    }
}

/// `iqn.2001-04.com.example:storage`
fn is_iqn(name: &str) -> bool {
    let Some((head, tail)) = name.split_once(':') else {
        return false;
    };
    let mut parts = head.splitn(3, '.');
    let (_, date, authority) = (
        parts.next(),
        parts.next().unwrap_or(""),
        parts.next().unwrap_or(""),
    );
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    let dated = date.len() == 7 && digits(&date[..4]) && &date[4..5] == "-" && digits(&date[5..]);
    dated
        && !authority.is_empty()
        && authority
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-.".contains(&c))
        && !tail.is_empty()
        && !tail.contains([',', ';', '*', '&', '$', '|', ' ', '\t', '\n', '\r'])
}

fn fc(source: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let names = list(source, "targetWWNs");
    let ids = list(source, "wwids");
    let at_names = at.child("targetWWNs");
    if names.is_empty() && ids.is_empty() {
        errors.push(at_names.required("must specify either targetWWNs or wwids, but not both"));
    }
    if names.is_empty() {
        return;
    }
    if !ids.is_empty() {
        let shown = Value::Array(names.to_vec());
        errors.push(at_names.invalid(shown, "targetWWNs and wwids can not be specified simultaneously"));
    }
    match int(source, "lun") {
        None => errors.push(
            at.child("lun")
                .required("lun is required if targetWWNs is specified"),
        ),
        Some(number) => lun(number, at, errors),
    }
}

fn flocker(source: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let (name, uuid) = (text(source, "datasetName"), text(source, "datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        errors.push(at.required("one of datasetName and datasetUUID is required"));
    }
    if !name.is_empty() && !uuid.is_empty() {
        errors.push(at.invalid(
            "resource",
            "datasetName and datasetUUID can not be specified simultaneously",
        ));
    }
    if name.contains('/') {
        errors.push(at.child("datasetName").invalid(name, "must not contain '/'"));
    }
}

fn quobyte(source: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(source, "registry");
    if registry.is_empty() {
        errors.push(at.child("registry").required(PAIRS));
    } else if text(source, "tenant").len() >= 65 {
        let why = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(at.child("tenant").required(why));
    } else {
        for pair in registry.split(',') {
            if pair.matches(':').count() != 1 {
                errors.push(at.child("registry").invalid(registry, PAIRS));
            }
        }
    }
    required(source, &["volume"], at, errors);
}

fn flex_options(source: &Value, at: &At<'_>, errors: &mut ErrorList) {
    for (key, _) in entries(source, "options") {
        let namespace = key
            .split_once('/')
            .map_or(key.as_str(), |(namespace, _)| namespace);
        let normalized = format!(".{}", namespace.to_lowercase());
        if normalized.ends_with(".kubernetes.io") || normalized.ends_with(".k8s.io") {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            let at = at.child("options");
            errors.push(at.key(key).invalid(key.as_str(), why));
        }
    }
}

fn azure_disk(source: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    let (kind, uri) = (text(source, "kind"), text(source, "diskURI"));
    check::one_of(
        text(source, "cachingMode"),
        &["None", "ReadOnly", "ReadWrite"],
        &at.child("cachingMode"),
        errors,
    );
    check::one_of(
        kind,
        &["Dedicated", "Managed", "Shared"],
        &at.child("kind"),
        errors,
    );
    let at = at.child("diskURI");
    if kind == "Managed" && !uri.starts_with("/subscriptions/") {
        errors.push(at.not_supported(uri, &[MANAGED]));
    }
    if kind != "Managed" && !uri.starts_with("https://") {
        errors.push(at.not_supported(uri, &[BLOB]));
    }
}

fn storageos(source: &Value, at: &At<'_>, errors: &mut ErrorList) {
    match text(source, "volumeName") {
        "" => errors.push(at.child("volumeName").required("")),
        name => check::label(name, &at.child("volumeName"), errors),
    }
    let namespace = text(source, "volumeNamespace");
    if !namespace.is_empty() {
        check::label(namespace, &at.child("volumeNamespace"), errors);
    }
}
