//! StatefulSet.

use crate::At;
use crate::check;
use crate::core;
use crate::fields::{fill, fill_object, fill_text, int, int_at, list, list_mut, present, same, text};
use crate::pod_spec::validation;
use crate::pod_spec::{self, volume_defaults};
use crate::strategy::{Column, Context, Strategy, Subresource, bump_generation, default_subresource, keep};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct StatefulSet;

const COLUMNS: [Column; 5] = [
    Column::NAME,
    Column::text("Ready", "Ready pods of those wanted."),
    Column::AGE,
    Column::text("Containers", "Names of the template's containers.").wide(),
    Column::text("Images", "Images of the template's containers.").wide(),
];

impl Strategy for StatefulSet {
    fn default(&self, object: &mut Value) {
        pod_spec::pod_template(object.get_path_mut(&["spec", "template"]));
        if let Some(spec) = object.get_mut("spec") {
            for claim in list_mut(spec, "volumeClaimTemplates") {
                claim_template(claim);
            }
        }
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        fill_text(spec, "podManagementPolicy", "OrderedReady");
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        let strategy = fill_object(spec, "updateStrategy");
        if strategy.get("type").is_none_or(Value::is_empty) {
            fill_text(strategy, "type", "RollingUpdate");
            fill_object(strategy, "rollingUpdate");
        }
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate")
            && let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut)
        {
            fill(rolling, "partition", 0);
        }
        let retention = fill_object(spec, "persistentVolumeClaimRetentionPolicy");
        fill_text(retention, "whenDeleted", "Retain");
        fill_text(retention, "whenScaled", "Retain");
    }

    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["metadata", "generation"], 1);
        drop_disabled(object, None);
        pod_spec::drop_disabled(object, None, &pod_spec::TEMPLATE);
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "status");
        drop_disabled(new, Some(old));
        pod_spec::drop_disabled(new, Some(old), &pod_spec::TEMPLATE);
        if !same(new, old, &["spec"]) {
            bump_generation(new, old);
        }
    }

    fn warnings_on_create(&self, _context: &Context<'_>, object: &Value) -> Vec<String> {
        pod_spec::template_warnings(object, None, &["spec", "template"])
    }

    fn warnings_on_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> Vec<String> {
        pod_spec::template_warnings(new, Some(old), &["spec", "template"])
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = |path: &[&str]| int_at(object, path).unwrap_or(0);
        let ready = format!(
            "{}/{}",
            count(&["status", "readyReplicas"]),
            count(&["spec", "replicas"])
        );
        let [names, images] = table::template_containers(object);
        vec![
            table::name(object),
            ready.into(),
            table::age(object, now),
            names,
            images,
        ]
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        machinery::names::label_rule(name, prefix)
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(spec) = object.get("spec") {
            let name = text(spec, "serviceName");
            if !name.is_empty() {
                check::label(name, &At::new("spec.serviceName"), &mut errors);
            }
            let claims = At::new("spec.volumeClaimTemplates");
            for (index, claim) in list(spec, "volumeClaimTemplates").iter().enumerate() {
                if let Some(spec) = claim.get("spec") {
                    let at = claims.index(index);
                    core::claim_spec(spec, &at.child("spec"), &mut errors);
                }
            }
            spec_errors(spec, &At::new("spec"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(spec) = new.get("spec") {
            spec_errors(spec, &At::new("spec"), &mut errors);
        }
        let mut kept = new.get("spec").cloned().unwrap_or_default();
        let before = old.get("spec").cloned().unwrap_or_default();
        for field in CHANGEABLE {
            keep(&mut kept, &before, field);
        }
        if !kept.semantic_eq(&before) {
            errors.push(At::new("spec").forbidden(
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                 'minReadySeconds' are forbidden",
            ));
        }
        errors
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        if name == "status" {
            Some(&Status)
        } else {
            default_subresource(name)
        }
    }
}

/// `maxUnavailable` is not on by default in this version.
fn drop_disabled(object: &mut Value, old: Option<&Value>) {
    const FIELD: [&str; 4] = ["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"];
    if old
        .and_then(|old| old.get_path(&FIELD))
        .is_none_or(Value::is_null)
    {
        object.remove_path(&FIELD);
    }
}

/// A whole claim, status and all, as upstream writes it.
fn claim_template(claim: &mut Value) {
    volume_defaults::claim_template(Some(claim));
    let Some(map) = claim.as_object_mut() else { return };
    fill_text(map, "apiVersion", "v1");
    fill_text(map, "kind", "PersistentVolumeClaim");
    fill_text(fill_object(map, "status"), "phase", "Pending");
}

/// What of the spec an update may change.
const CHANGEABLE: [&str; 7] = [
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
];

fn spec_errors(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    match text(spec, "podManagementPolicy") {
        "" => errors.push(at.child("podManagementPolicy").required("")),
        "OrderedReady" | "Parallel" => {}
        other => {
            let why = "must be 'OrderedReady' or 'Parallel'";
            errors.push(at.child("podManagementPolicy").invalid(other, why));
        }
    }
    strategy_errors(
        spec.get("updateStrategy").unwrap_or(&Value::Null),
        &at.child("updateStrategy"),
        errors,
    );
    if let Some(retention) = present(spec, "persistentVolumeClaimRetentionPolicy") {
        let at = at.child("persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            check::one_of(
                text(retention, field),
                &["Retain", "Delete"],
                &at.child(field),
                errors,
            );
        }
    }
    for field in ["replicas", "minReadySeconds"] {
        check::not_negative(int(spec, field).unwrap_or(0), &at.child(field), errors);
    }
    let start = spec
        .get_path(&["ordinals", "start"])
        .and_then(Value::as_i64)
        .unwrap_or(0);
    check::not_negative(start, &at.child("ordinals.start"), errors);
    if let Some(selector) = check::workload_selector(spec, "statefulset", at, errors) {
        let template = template_as_used(spec);
        validation::running_template(
            Some(&template),
            Some(&selector),
            "StatefulSet",
            &at.child("template"),
            errors,
        );
    }
}

/// The template as the controller uses it: the claims are volumes, and names are its own business.
fn template_as_used(spec: &Value) -> Value {
    let mut template = spec.get("template").cloned().unwrap_or_default();
    template.remove_path(&["spec", "subdomain"]);
    template.remove_path(&["spec", "hostname"]);
    let claims = list(spec, "volumeClaimTemplates");
    if claims.is_empty() {
        return template;
    }
    let name = |claim: &Value| {
        claim
            .get_str_path(&["metadata", "name"])
            .unwrap_or_default()
            .to_owned()
    };
    let mut volumes: Vec<Value> = claims
        .iter()
        .map(|claim| {
            let mut volume = Value::object();
            volume.set_path(&["name"], name(claim));
            volume.set_path(&["persistentVolumeClaim", "claimName"], name(claim));
            volume
        })
        .collect();
    let own = template
        .get("spec")
        .map(|spec| list(spec, "volumes"))
        .unwrap_or_default();
    let others = own
        .iter()
        .filter(|volume| !claims.iter().any(|claim| name(claim) == text(volume, "name")));
    volumes.extend(others.cloned());
    template.set_path(&["spec", "volumes"], volumes);
    template
}

fn strategy_errors(strategy: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let rolling = present(strategy, "rollingUpdate");
    match (text(strategy, "type"), rolling) {
        ("", _) => errors.push(at.required("")),
        ("OnDelete", Some(rolling)) => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(at.child("rollingUpdate").invalid(rolling.clone(), why));
        }
        ("RollingUpdate", Some(rolling)) => {
            let at = at.child("rollingUpdate");
            check::not_negative(
                int(rolling, "partition").unwrap_or(0),
                &at.child("partition"),
                errors,
            );
            if let Some(most) = present(rolling, "maxUnavailable") {
                let at = at.child("maxUnavailable");
                check::positive_int_or_percent(most, &at, errors);
                if check::percent(most).or(most.as_i64()) == Some(0) {
                    errors.push(at.invalid(most.clone(), "cannot be 0"));
                }
                check::at_most_hundred_percent(most, &at, errors);
            }
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        _ => errors.push(at.invalid(strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'")),
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        const COUNTS: [&str; 7] = [
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ];
        let mut errors = ErrorList::new();
        let status = new.get("status").unwrap_or(&Value::Null);
        check::status_counts(
            status,
            &COUNTS,
            &[
                "readyReplicas",
                "currentReplicas",
                "updatedReplicas",
                "availableReplicas",
            ],
            "status.readyReplicas",
            &mut errors,
        );
        check::collisions_not_forgotten(new, old, &mut errors);
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}
