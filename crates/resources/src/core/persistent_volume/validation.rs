//! What a PersistentVolume must be, and what of it may change.

use crate::At;
use crate::check;
use crate::diff;
use crate::fields::{entries, list, present, same, text, text_at, texts};
use crate::pod_spec::validation::node_selector;
use crate::pod_spec::validation::volumes::{self, legacy, paths};
use machinery::field::ErrorList;
use machinery::quantity::Quantity;
use machinery::{Map, Value};

/// Sources in upstream's order.
#[rustfmt::skip]
const SOURCES: [&str; 22] = [
    "hostPath", "gcePersistentDisk", "awsElasticBlockStore", "glusterfs", "flocker", "nfs", "rbd", "quobyte", "cephfs",
    "iscsi", "cinder", "fc", "flexVolume", "azureFile", "vsphereVolume", "photonPersistentDisk", "portworxVolume",
    "azureDisk", "scaleIO", "local", "storageos", "csi",
];

const MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

/// Where the spec stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// In a volume of this name.
    Volume(&'a str),
    /// In a VolumeAttachment, in place of a volume.
    Inline,
}

/// Judges the spec of a volume.
pub(crate) fn spec(spec: &Value, place: Place<'_>, at: &At<'_>, errors: &mut ErrorList) {
    let inline = place == Place::Inline;
    if inline {
        inline_only(spec, at, errors);
    }
    access_modes(spec, &at.child("accessModes"), errors);
    if !inline {
        capacity(spec, &at.child("capacity"), errors);
    }
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    let at_policy = at.child("persistentVolumeReclaimPolicy");
    if !policy.is_empty() && !inline {
        check::one_of(policy, &["Delete", "Recycle", "Retain"], &at_policy, errors);
    } else if inline && !matches!(policy, "" | "Retain") {
        errors.push(at_policy.forbidden("may only be Retain in the context of inline volumes"));
    }
    let affinity = present(spec, "nodeAffinity");
    if let Some(affinity) = affinity.filter(|_| !inline) {
        let at = at.child("nodeAffinity.required");
        match present(affinity, "required") {
            Some(required) => node_selector(required, &at, errors),
            None => errors.push(at.required("must specify required node constraints")),
        }
    } else if affinity.is_some() {
        errors.push(not_inline(&at.child("nodeAffinity")));
    }
    sources(spec, place, at, errors);
    if policy == "Recycle" && is_root(text_at(spec, &["hostPath", "path"])) {
        errors.push(at_policy.forbidden("may not be 'recycle' for a hostPath mount of '/'"));
    }
    class_and_mode(spec, inline, at, errors);
}

fn not_inline(at: &At<'_>) -> machinery::field::Error {
    at.forbidden("may not be specified in the context of inline volumes")
}

fn inline_only(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if present(spec, "claimRef").is_some() {
        errors.push(not_inline(&at.child("claimRef")));
    }
    if !entries(spec, "capacity").is_empty() {
        errors.push(not_inline(&at.child("capacity")));
    }
    if present(spec, "csi").is_none() {
        let why = "has to be specified in the context of inline volumes";
        errors.push(at.child("csi").required(why));
    }
}

fn access_modes(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if list(spec, "accessModes").is_empty() {
        errors.push(at.required(""));
    }
    let (mut alone, mut shared) = (false, false);
    for mode in texts(spec, "accessModes") {
        check::one_of(mode, &MODES, at, errors);
        if mode == "ReadWriteOncePod" {
            alone = true;
        } else {
            shared |= MODES.contains(&mode);
        }
    }
    if alone && shared {
        errors.push(at.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
}

fn capacity(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let capacity = entries(spec, "capacity");
    if capacity.is_empty() {
        errors.push(at.required(""));
    }
    if capacity.len() != 1 || capacity[0].0 != "storage" {
        let shown = present(spec, "capacity").cloned().unwrap_or_default();
        errors.push(at.not_supported(shown, &["storage"]));
    }
    for (name, amount) in capacity {
        let at = at.key(name);
        let text = amount.as_str().unwrap_or_default();
        let Ok(amount) = text.parse::<Quantity>() else {
            continue;
        };
        if amount.value() < 0 {
            errors.push(at.invalid(amount.value(), "must be a valid resource quantity"));
        }
        if amount.sign() <= 0 {
            errors.push(at.invalid(text, check::POSITIVE));
        }
    }
}

fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "." | ".."))
}

fn class_and_mode(spec: &Value, inline: bool, at: &At<'_>, errors: &mut ErrorList) {
    let class = text(spec, "storageClassName");
    let here = at.child("storageClassName");
    if !class.is_empty() && inline {
        errors.push(not_inline(&here));
    } else if !class.is_empty() {
        check::subdomain(class, &here, errors);
    }
    if let Some(mode) = present(spec, "volumeMode").and_then(Value::as_str) {
        let at = at.child("volumeMode");
        if !inline {
            check::one_of(mode, &["Block", "Filesystem"], &at, errors);
        } else if mode != "Filesystem" {
            let why = "may not specify volumeMode other than Filesystem in the context of inline volumes";
            errors.push(at.forbidden(why));
        }
    }
    if let Some(class) = present(spec, "volumeAttributesClassName").and_then(Value::as_str) {
        let here = at.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.push(here.required("an empty string is disallowed"));
        } else {
            check::subdomain(class, &here, errors);
        }
        if present(spec, "csi").is_none() {
            let why = "has to be specified when using volumeAttributesClassName";
            errors.push(at.child("csi").required(why));
        }
    }
}

fn sources(spec: &Value, place: Place<'_>, at: &At<'_>, errors: &mut ErrorList) {
    let mut count = 0;
    for kind in SOURCES {
        let Some(source) = present(spec, kind) else {
            continue;
        };
        // Upstream lets this one stand beside another.
        if count > 0 && kind != "flexVolume" {
            let shown = if kind == "cephfs" { "cephFS" } else { kind };
            errors.push(
                at.child(shown)
                    .forbidden("may not specify more than 1 volume type"),
            );
            continue;
        }
        count += 1;
        one_source(kind, source, place, at, errors);
        if kind == "local" && (present(spec, "nodeAffinity").is_none() || place == Place::Inline) {
            let why = "Local volume requires node affinity";
            errors.push(at.child("nodeAffinity").required(why));
        }
    }
    if count == 0 {
        errors.push(at.required("must specify a volume type"));
    }
}

fn one_source(kind: &str, source: &Value, place: Place<'_>, spec: &At<'_>, errors: &mut ErrorList) {
    let at = spec.child(kind);
    match kind {
        "hostPath" => volumes::host_path(source, &at, errors),
        "local" => match text(source, "path") {
            "" => errors.push(at.child("path").required("")),
            path => paths::no_backsteps(path, &at.child("path"), errors),
        },
        "csi" => csi(source, &at, errors),
        "gcePersistentDisk" => legacy::source(kind, source, &spec.child("persistentDisk"), errors),
        _ => legacy::source(kind, source, &at, errors),
    }
    match kind {
        "iscsi" => {
            let name = match place {
                Place::Volume(name) => name,
                Place::Inline => "",
            };
            let portal = text(source, "targetPortal");
            if present(source, "initiatorName").is_some() {
                legacy::iscsi_length(name, portal, &at.child("targetportal"), portal, errors);
            }
            if present(source, "secretRef").is_some_and(|secret| text(secret, "name").is_empty()) {
                errors.push(at.child("secretRef.name").required(""));
            }
        }
        "cinder" | "storageos"
            if present(source, "secretRef").is_some_and(|secret| text(secret, "namespace").is_empty()) =>
        {
            errors.push(at.child("secretRef.namespace").required(""));
        }
        "glusterfs" => {
            let namespace = present(source, "endpointsNamespace").and_then(Value::as_str);
            let at = at.child("endpointsNamespace");
            match namespace {
                None => {}
                Some("") => {
                    let why = "if the endpointnamespace is set, it must be a valid namespace name";
                    errors.push(at.invalid("", why));
                }
                Some(namespace) => check::label(namespace, &at, errors),
            }
        }
        "azureFile" if present(source, "secretNamespace").is_some_and(Value::is_empty) => {
            errors.push(at.child("secretNamespace").required(""));
        }
        _ => {}
    }
}

fn csi(source: &Value, at: &At<'_>, errors: &mut ErrorList) {
    volumes::csi_driver_name(text(source, "driver"), &at.child("driver"), errors);
    if text(source, "volumeHandle").is_empty() {
        errors.push(at.child("volumeHandle").required(""));
    }
    for field in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let Some(secret) = present(source, field) else {
            continue;
        };
        let at = at.child(field);
        match text(secret, "name") {
            "" => errors.push(at.child("name").required("")),
            name => check::subdomain(name, &at.child("name"), errors),
        }
        match text(secret, "namespace") {
            "" => errors.push(at.child("namespace").required("")),
            namespace => check::label(namespace, &at.child("namespace"), errors),
        }
    }
}

/// Judges what an update changed.
pub(super) fn change(new: &Value, old: &Value, errors: &mut ErrorList) {
    const SECRET: [&str; 2] = ["csi", "controllerExpandSecretRef"];
    let source = |volume: &Value| -> Value {
        let spec = volume.get("spec").unwrap_or(&Value::Null);
        let mut source = Map::new();
        for kind in SOURCES {
            if let Some(value) = present(spec, kind) {
                source.insert(kind, value.clone());
            }
        }
        source.into()
    };
    let (mut now, before) = (source(new), source(old));
    // A secret that was not there can be given.
    if before.get("csi").is_some() && before.get_path(&SECRET).is_none() {
        now.remove_path(&SECRET);
    }
    if !now.semantic_eq(&before) {
        let changes = diff::unified(&before, &now);
        errors.push(At::new("spec.persistentvolumesource").forbidden(format!(
            "spec.persistentvolumesource is immutable after creation\n{changes}"
        )));
    }
    let field = |volume: &Value, field: &str| volume.get_path(&["spec", field]).cloned().unwrap_or_default();
    let mode = |volume| field(volume, "volumeMode");
    check::immutable(Some(&mode(new)), Some(&mode(old)), &At::new("volumeMode"), errors);
    const AFFINITY: [&str; 2] = ["spec", "nodeAffinity"];
    if !field(old, "nodeAffinity").is_null() && !same(&without_beta(new), &without_beta(old), &AFFINITY) {
        let why = "field is immutable, except for updating from beta label to GA";
        errors.push(At::new("nodeAffinity").invalid(field(new, "nodeAffinity"), why));
    }
    if !field(old, "volumeAttributesClassName").is_null() && field(new, "volumeAttributesClassName").is_null()
    {
        let at = At::new("spec.volumeAttributesClassName");
        errors.push(at.forbidden("update from non-nil value to nil is forbidden"));
    }
}

/// The volume with the labels of nodes in their present names.
fn without_beta(volume: &Value) -> Value {
    const NAMES: [(&str, &str); 5] = [
        (
            "failure-domain.beta.kubernetes.io/zone",
            "topology.kubernetes.io/zone",
        ),
        (
            "failure-domain.beta.kubernetes.io/region",
            "topology.kubernetes.io/region",
        ),
        (
            "beta.kubernetes.io/instance-type",
            "node.kubernetes.io/instance-type",
        ),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ];
    let mut volume = volume.clone();
    if let Some(required) = volume.get_path_mut(&["spec", "nodeAffinity", "required"]) {
        for term in crate::fields::list_mut(required, "nodeSelectorTerms") {
            for expression in crate::fields::list_mut(term, "matchExpressions") {
                let key = text(expression, "key");
                if let Some((_, present)) = NAMES.iter().find(|(beta, _)| *beta == key) {
                    expression.set_path(&["key"], *present);
                }
            }
        }
    }
    volume
}
