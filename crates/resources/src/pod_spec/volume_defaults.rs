//! Defaults of a pod's volumes.

use super::{image, resources};
use crate::fields::{fill, fill_text, list_mut, text};
use machinery::{Map, Value};

const DEFAULT_MODE: i64 = 0o644;

/// Fills one volume; one without a source is an empty directory.
pub fn volume(volume: &mut Value) {
    let Some(map) = volume.as_object_mut() else { return };
    if map
        .iter()
        .all(|(field, value)| *field == "name" || value.is_null())
    {
        map.insert("emptyDir", Map::new());
    }
    for (kind, source) in map.iter_mut() {
        source_defaults(kind, source);
    }
}

fn source_defaults(kind: &str, source: &mut Value) {
    if kind == "ephemeral" {
        claim_template(source.get_mut("volumeClaimTemplate"));
        return;
    }
    if kind == "downwardAPI" {
        downward_items(source);
    }
    if kind == "projected" {
        projected_sources(source);
    }
    let policy = if kind == "image" {
        image::pull_policy(text(source, "reference"))
    } else {
        ""
    };
    let Some(map) = source.as_object_mut() else { return };
    match kind {
        "secret" | "configMap" | "downwardAPI" | "projected" => fill(map, "defaultMode", DEFAULT_MODE),
        "hostPath" => fill(map, "type", ""),
        "image" => fill_text(map, "pullPolicy", policy),
        "iscsi" => fill_text(map, "iscsiInterface", "default"),
        "rbd" => {
            fill_text(map, "pool", "rbd");
            fill_text(map, "user", "admin");
            fill_text(map, "keyring", "/etc/ceph/keyring");
        }
        "azureDisk" => azure_disk(map),
        "scaleIO" => {
            fill_text(map, "storageMode", "ThinProvisioned");
            fill_text(map, "fsType", "xfs");
        }
        _ => {}
    }
}

/// Fills the source of a volume or a PersistentVolume.
pub fn azure_disk(map: &mut Map) {
    fill(map, "cachingMode", "ReadWrite");
    fill(map, "fsType", "ext4");
    fill(map, "readOnly", false);
    fill(map, "kind", "Shared");
}

fn projected_sources(projected: &mut Value) {
    for source in list_mut(projected, "sources") {
        if let Some(token) = source
            .get_mut("serviceAccountToken")
            .and_then(Value::as_object_mut)
        {
            fill(token, "expirationSeconds", 3600);
        }
        if let Some(downward) = source.get_mut("downwardAPI") {
            downward_items(downward);
        }
    }
}

fn downward_items(source: &mut Value) {
    for item in list_mut(source, "items") {
        if let Some(field) = item.get_mut("fieldRef").and_then(Value::as_object_mut) {
            fill_text(field, "apiVersion", "v1");
        }
    }
}

/// Fills a PersistentVolumeClaim's template or the claim itself.
pub fn claim_template(claim: Option<&mut Value>) {
    let Some(spec) = claim
        .and_then(|claim| claim.get_mut("spec"))
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    fill(spec, "volumeMode", "Filesystem");
    resources::round_requirements(spec.get_mut("resources"));
}
