//! PersistentVolumeClaim.

use super::persistent_volume::{access_modes, class, phase};
use crate::At;
use crate::check;
use crate::diff;
use crate::fields::{entries, fill_text, list, present, same, text, text_at, texts};
use crate::pod_spec::validation::is_native;
use crate::pod_spec::warnings::claim_warnings;
use crate::pod_spec::{resources, volume_defaults};
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource, keep};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::quantity::Quantity;
use machinery::{Value, meta};

pub(crate) struct PersistentVolumeClaim;

const COLUMNS: [Column; 9] = [
    Column::NAME,
    Column::text("Status", "Its phase."),
    Column::text("Volume", "The volume it is bound to."),
    Column::text("Capacity", "The volume's size."),
    Column::text("Access Modes", "How the volume may be mounted."),
    Column::text("StorageClass", "Its class."),
    Column::text("VolumeAttributesClass", "The class of its attributes."),
    Column::AGE,
    Column::text("VolumeMode", "File system or block device.").wide(),
];

impl Strategy for PersistentVolumeClaim {
    fn default(&self, object: &mut Value) {
        volume_defaults::claim_template(Some(object));
        if let Some(status) = object.get_mut("status") {
            if let Some(status) = status.as_object_mut() {
                fill_text(status, "phase", "Pending");
            }
            resources::round(status.get_mut("capacity"));
            resources::round(status.get_mut("allocatedResources"));
        }
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["status", "phase"], "Pending");
        drop_foreign_source(object, None);
        drop_unknown_source(object, None);
        normalize_data_source(object);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        drop_foreign_source(new, Some(old));
        drop_unknown_source(new, Some(old));
        normalize_data_source(new);
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(spec) = object.get("spec") {
            claim_spec(spec, &At::new("spec"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(context, new);
        change(new, old, &mut errors);
        errors
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        if name == "status" {
            Some(&Status)
        } else {
            default_subresource(name)
        }
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["name"]
    }

    fn select(&self, object: &Value) -> Vec<compact_str::CompactString> {
        vec![machinery::meta::name(object).into()]
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn warnings_on_create(&self, _context: &Context<'_>, object: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(spec) = object.get("spec") {
            claim_warnings(spec, &At::new("spec"), &mut warnings);
        }
        warnings
    }

    fn warnings_on_update(&self, context: &Context<'_>, new: &Value, _old: &Value) -> Vec<String> {
        self.warnings_on_create(context, new)
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let status = object.get("status").unwrap_or(&Value::Null);
        let volume = text(spec, "volumeName");
        let (capacity, modes) = match (volume, status.get_str_path(&["capacity", "storage"])) {
            ("", _) => ("", String::new()),
            (_, capacity) => (capacity.unwrap_or("0"), access_modes(status)),
        };
        vec![
            table::name(object),
            phase(object).into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            class(object, "storageClassName").into(),
            table::or(text(spec, "volumeAttributesClassName"), table::UNSET),
            table::age(object, now),
            table::or(text(spec, "volumeMode"), table::UNSET),
        ]
    }
}

/// Sources in other namespaces are off by default in this version.
fn drop_foreign_source(claim: &mut Value, old: Option<&Value>) {
    const FIELD: [&str; 2] = ["spec", "dataSourceRef"];
    let is_foreign = |reference: &Value| !text(reference, "namespace").is_empty();
    let in_use = |old: &Value| old.get_path(&FIELD).is_some_and(|value| !value.is_null());
    if claim.get_path(&FIELD).is_some_and(is_foreign) && !old.is_some_and(in_use) {
        claim.remove_path(&FIELD);
    }
}

/// Sources other than claims and snapshots were always passed over in silence when given the old way.
fn drop_unknown_source(claim: &mut Value, old: Option<&Value>) {
    let source = |claim: &Value, field| claim.get("spec").and_then(|spec| present(spec, field).cloned());
    let in_use = |claim| {
        source(claim, "dataSource")
            .or_else(|| source(claim, "dataSourceRef"))
            .is_some()
    };
    if old.is_some_and(in_use) || source(claim, "dataSourceRef").is_some() {
        return;
    }
    let known = source(claim, "dataSource").is_some_and(|source| {
        matches!(
            (text(&source, "apiGroup"), text(&source, "kind")),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    });
    if !known {
        claim.remove_path(&["spec", "dataSource"]);
    }
}

/// `dataSource` and `dataSourceRef` say the same, unless the latter names another namespace.
fn normalize_data_source(claim: &mut Value) {
    let Some(spec) = claim.get_mut("spec") else { return };
    match (
        present(spec, "dataSource").cloned(),
        present(spec, "dataSourceRef").cloned(),
    ) {
        (Some(source), None) => spec.set_path(&["dataSourceRef"], source),
        (None, Some(reference)) if text(&reference, "namespace").is_empty() => {
            spec.set_path(&["dataSource"], reference);
            spec.remove_path(&["dataSource", "namespace"]);
        }
        _ => {}
    }
}

const MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

/// Judges a claim's spec, or a template's.
pub(crate) fn claim_spec(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let modes = list(spec, "accessModes");
    let at_modes = at.child("accessModes");
    if modes.is_empty() {
        errors.push(at_modes.required("at least 1 access mode is required"));
    }
    check::label_selector(present(spec, "selector"), &at.child("selector"), errors);
    for mode in texts(spec, "accessModes") {
        check::one_of(mode, &MODES, &at_modes, errors);
    }
    let alone = texts(spec, "accessModes").any(|mode| mode == "ReadWriteOncePod");
    if alone && texts(spec, "accessModes").any(|mode| mode != "ReadWriteOncePod" && MODES.contains(&mode)) {
        errors.push(at_modes.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
    let at_size = at.child("resources");
    let at_size = at_size.key("storage");
    match spec.get_str_path(&["resources", "requests", "storage"]) {
        None => errors.push(at_size.required("")),
        Some(size) if size.parse::<Quantity>().is_ok_and(|size| size.sign() <= 0) => {
            errors.push(at_size.invalid(size, check::POSITIVE));
        }
        Some(_) => {}
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        check::subdomain(class, &at.child("storageClassName"), errors);
    }
    if let Some(mode) = present(spec, "volumeMode").and_then(Value::as_str) {
        check::one_of(mode, &["Block", "Filesystem"], &at.child("volumeMode"), errors);
    }
    sources(spec, at, errors);
    let class = text(spec, "volumeAttributesClassName");
    if !class.is_empty() {
        check::subdomain(class, &at.child("volumeAttributesClassName"), errors);
    }
}

fn sources(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    for field in ["dataSource", "dataSourceRef"] {
        let Some(source) = present(spec, field) else {
            continue;
        };
        let at = at.child(field);
        for field in ["name", "kind"] {
            if text(source, field).is_empty() {
                errors.push(at.child(field).required(""));
            }
        }
        let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
        if group.is_empty() && kind != "PersistentVolumeClaim" {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(at.invalid(kind, why));
        }
        if !group.is_empty() {
            check::subdomain(group, &at.child("apiGroup"), errors);
        }
        let namespace = text(source, "namespace");
        if !namespace.is_empty() {
            check::label(namespace, &at.child("namespace"), errors);
        }
    }
    let (Some(source), Some(reference)) = (present(spec, "dataSource"), present(spec, "dataSourceRef"))
    else {
        return;
    };
    let shown = at.child("dataSource").path().to_string();
    let same = ["apiGroup", "kind", "name"]
        .iter()
        .all(|field| text(source, field) == text(reference, field));
    if !text(reference, "namespace").is_empty() {
        errors.push(at.invalid(
            shown,
            "may not be specified when dataSourceRef.namespace is specified",
        ));
    } else if !same {
        errors.push(at.invalid(shown, "must match dataSourceRef"));
    }
}

/// A claim keeps its spec, but its size while it is bound, its attributes, and the volume it gets.
fn change(new: &Value, old: &Value, errors: &mut ErrorList) {
    const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
    const SIZE: [&str; 4] = ["spec", "resources", "requests", "storage"];
    let mut munged = new.clone();
    let mut restore = |path: &[&str]| match old.get_path(path) {
        Some(value) => munged.set_path(path, value.clone()),
        None => {
            munged.remove_path(path);
        }
    };
    if text_at(old, &["spec", "volumeName"]).is_empty() {
        restore(&["spec", "volumeName"]);
    }
    let annotation = |claim| meta::annotation(claim, CLASS_ANNOTATION).unwrap_or_default();
    if annotation(new) != annotation(old) {
        let at = At::new("metadata.annotations");
        errors.push(
            at.key(CLASS_ANNOTATION)
                .invalid(annotation(new), check::IMMUTABLE),
        );
    }
    let class = |claim: &Value| {
        claim
            .get_path(&["spec", "storageClassName"])
            .filter(|v| !v.is_null())
            .is_some()
    };
    let annotated = annotation(old);
    if class(new)
        && !class(old)
        && (annotated.is_empty() || annotated == text_at(new, &["spec", "storageClassName"]))
    {
        restore(&["spec", "storageClassName"]);
    }
    if text_at(new, &["status", "phase"]) == "Bound" {
        restore(&SIZE);
        restore(&["spec", "volumeAttributesClassName"]);
    }
    let at = At::new("spec");
    if !same(&munged, old, &["spec"]) {
        let spec = |claim: &Value| claim.get("spec").cloned().unwrap_or_default();
        let changes = diff::unified(&spec(old), &spec(&munged));
        errors.push(at.forbidden(format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
             claims\n{changes}"
        )));
    }
    let amount =
        |claim: &Value, path: &[&str]| text_at(claim, path).parse::<Quantity>().unwrap_or(Quantity::ZERO);
    if amount(new, &SIZE) < amount(old, &SIZE)
        && amount(new, &SIZE) <= amount(old, &["status", "capacity", "storage"])
    {
        let at = at.child("resources.requests.storage");
        errors.push(at.forbidden("field can not be less than status.capacity"));
    }
    let mode = |claim| Value::get_path(claim, &["spec", "volumeMode"]);
    check::immutable(mode(new), mode(old), &At::new("volumeMode"), errors);
    let attributes = text_at(new, &["spec", "volumeAttributesClassName"]);
    if attributes.is_empty() && !text_at(old, &["status", "currentVolumeAttributesClassName"]).is_empty() {
        let at = at.child("volumeAttributesClassName");
        let why = "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil";
        errors.push(at.forbidden(why));
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, _old: &Value) -> ErrorList {
        const STATES: [&str; 5] = [
            "ControllerResizeInProgress",
            "ControllerResizeInfeasible",
            "NodeResizeInProgress",
            "NodeResizeInfeasible",
            "NodeResizePending",
        ];
        let mut errors = ErrorList::new();
        let status = new.get("status").unwrap_or(&Value::Null);
        let at = At::new("status");
        let here = at.child("capacity");
        for (name, amount) in entries(status, "capacity") {
            resource_amount(amount, &here.key(name), &mut errors);
        }
        let here = at.child("allocatedResourceStatuses");
        for (name, state) in entries(status, "allocatedResourceStatuses") {
            resource_key(name, &here, &mut errors);
            if !STATES.contains(&state.as_str().unwrap_or_default()) {
                // Upstream shows the resource, not its state.
                errors.push(here.not_supported(name.as_str(), &STATES));
            }
        }
        let here = at.child("allocatedResources");
        for (name, amount) in entries(status, "allocatedResources") {
            let before = errors.len();
            resource_key(name, &here, &mut errors);
            if errors.len() == before {
                resource_amount(amount, &here.key(name), &mut errors);
            }
        }
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}

fn resource_amount(amount: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let amount = amount.as_str().map(str::parse::<Quantity>);
    if let Some(Ok(amount)) = amount.filter(|amount| amount.as_ref().is_ok_and(|amount| amount.value() < 0)) {
        errors.push(at.invalid(amount.value(), "must be a valid resource quantity"));
    }
}

/// Of the resources Kubernetes knows itself only storage is a claim's.
fn resource_key(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    let before = errors.len();
    check::qualified(name, at, errors);
    if errors.len() == before && is_native(name) && name != "storage" {
        errors.push(at.not_supported(name, &["storage"]));
    }
}
