//! Validation of pods: new ones, and the little that may change.

use crate::At;
use crate::check;
use crate::diff;
use crate::fields::{int, int_at, list, list_at, present, same, text, text_at};
use crate::pod_spec::validation::{self, Holder, every_container};
use machinery::field::ErrorList;
use machinery::{Value, meta};

const MIRROR: &str = "kubernetes.io/config.mirror";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What an update may change, as upstream lists it.
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                         `spec.tolerations` (only additions to existing tolerations),\
                         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Judges a new pod.
pub(super) fn create(pod: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    whole(pod, &mut errors);
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let at = At::new("spec");
    if !list(spec, "ephemeralContainers").is_empty() {
        errors.push(
            at.child("ephemeralContainers")
                .forbidden("cannot be set on create"),
        );
    }
    if !text(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
        let why = "cannot be set until all schedulingGates have been cleared";
        errors.push(at.child("nodeName").forbidden(why));
    }
    app_armor_matches(pod, spec, &at, &mut errors);
    errors
}

/// Judges what a new and a changed pod have in common.
pub(super) fn whole(pod: &Value, errors: &mut ErrorList) {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let at = At::new("spec");
    annotations(pod, spec, errors);
    let holder = Holder {
        is_pod: true,
        name: meta::name(pod),
        mirror: meta::annotation(pod, MIRROR).is_some(),
    };
    validation::pod_spec(spec, holder, &at, errors);
    if text(spec, "serviceAccountName").is_empty() {
        tokens_without_account(spec, &at, errors);
    }
    for field in ["containers", "initContainers"] {
        let at = at.child(field);
        for (index, container) in list(spec, field).iter().enumerate() {
            validation::only_for_pods(container, &at.index(index), errors);
        }
    }
}

fn tokens_without_account(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let at = at.child("volumes");
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let Some(projected) = present(volume, "projected") else {
            continue;
        };
        for (at_source, source) in list(projected, "sources").iter().enumerate() {
            if present(source, "serviceAccountToken").is_some() {
                let at = at.index(index);
                let at = at.child("projected.sources");
                let at = at.index(at_source);
                let why = "must not be specified when serviceAccountName is not set";
                errors.push(at.child("serviceAccountToken").forbidden(why));
            }
        }
    }
}

/// Annotations that mean something to pods.
fn annotations(pod: &Value, spec: &Value, errors: &mut ErrorList) {
    let Some(annotations) = meta::annotations(pod) else {
        return;
    };
    let at = At::new("metadata.annotations");
    for (key, value) in annotations {
        let value = value.as_str().unwrap_or_default();
        if *key == MIRROR && text(spec, "nodeName").is_empty() {
            let why = "must set spec.nodeName if mirror pod annotation is set";
            errors.push(at.key(key).invalid(value, why));
        } else if *key == DELETION_COST && !is_deletion_cost(value) {
            errors.push(at.key(key).invalid(value, "must be a 32bit integer"));
        } else if let Some(name) = key.strip_prefix(APP_ARMOR) {
            if !every_container(spec).any(|(_, _, container)| text(container, "name") == name) {
                errors.push(at.key(key).invalid(name, "container not found"));
            }
            let known =
                matches!(value, "" | "unconfined" | "runtime/default") || value.starts_with("localhost/");
            if !known {
                errors.push(
                    at.key(key)
                        .invalid(value, format!("invalid AppArmor profile name: {value:?}")),
                );
            }
        }
    }
}

fn is_deletion_cost(value: &str) -> bool {
    // A plus sign or leading zeros are refused, so that the text says the number.
    value
        .parse::<i32>()
        .is_ok_and(|number| number.to_string() == value)
}

fn app_armor_matches(pod: &Value, spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let Some(annotations) = meta::annotations(pod) else {
        return;
    };
    if !annotations.keys().any(|key| key.starts_with(APP_ARMOR))
        || text_at(spec, &["os", "name"]) == "windows"
    {
        return;
    }
    const FIELD: [&str; 2] = ["securityContext", "appArmorProfile"];
    for (field, index, container) in every_container(spec) {
        let own = container.get_path(&FIELD).or_else(|| spec.get_path(&FIELD));
        let annotation = annotations.get(&format!("{APP_ARMOR}{}", text(container, "name")));
        let (Some(own), Some(annotation)) = (own, annotation.and_then(Value::as_str)) else {
            continue;
        };
        let localhost = annotation.strip_prefix("localhost/");
        let wrong = match text(own, "type") {
            "Unconfined" if annotation != "unconfined" => Some("type"),
            "RuntimeDefault" if annotation != "runtime/default" => Some("type"),
            "Localhost" if localhost.is_none() => Some("type"),
            "Localhost" if localhost != Some(text(own, "localhostProfile")) => Some("localhostProfile"),
            _ => None,
        };
        let Some(wrong) = wrong else { continue };
        let what = if wrong == "type" { "type" } else { "profile" };
        let at = at.child(field);
        let at = at.index(index);
        let at = at.child("securityContext.appArmorProfile");
        errors.push(
            at.child(wrong)
                .forbidden(format!("apparmor {what} in annotation and field must match")),
        );
    }
}

/// Annotations that a pod is made with, or not.
pub(super) fn annotation_changes(new: &Value, old: &Value, errors: &mut ErrorList) {
    let at = At::new("metadata.annotations");
    let kinds = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        key if key.starts_with(APP_ARMOR) => Some("AppArmor annotations"),
        _ => None,
    };
    let value = |pod: &Value, key: &str| meta::annotation(pod, key).map(str::to_owned);
    for key in meta::annotations(old).into_iter().flat_map(machinery::Map::keys) {
        if let Some(kind) = kinds(key)
            && value(new, key) != value(old, key)
        {
            errors.push(at.key(key).forbidden(format!("may not remove or update {kind}")));
        }
    }
    for key in meta::annotations(new).into_iter().flat_map(machinery::Map::keys) {
        if let Some(kind) = kinds(key)
            && value(old, key).is_none()
        {
            errors.push(at.key(key).forbidden(format!("may not add {kind}")));
        }
    }
}

/// Judges a change of a pod.
pub(super) fn update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    whole(new, &mut errors);
    annotation_changes(new, old, &mut errors);
    let (Some(new_spec), Some(old_spec)) = (new.get("spec"), old.get("spec")) else {
        return errors;
    };
    let at = At::new("spec");
    for field in ["containers", "initContainers"] {
        let (news, olds) = (list(new_spec, field), list(old_spec, field));
        if news.len() != olds.len() {
            errors.push(
                at.child(field)
                    .forbidden("pod updates may not add or remove containers"),
            );
            return errors;
        }
    }
    if !deadline(
        new_spec,
        old_spec,
        &at.child("activeDeadlineSeconds"),
        &mut errors,
    ) {
        return errors;
    }
    let (news, olds) = (list(new_spec, "tolerations"), list(old_spec, "tolerations"));
    validation::only_added(news, olds, &at.child("tolerations"), &mut errors);
    let gates = at.child("schedulingGates");
    let olds = list(old_spec, "schedulingGates");
    for (index, gate) in list(new_spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        if !olds.iter().any(|old| text(old, "name") == name) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            let at = gates.index(index);
            errors.push(at.child("name").forbidden(why));
        }
    }
    if new_spec.semantic_eq(old_spec) {
        return errors;
    }
    let munged = munged(new_spec, old_spec, &at, &mut errors);
    if !munged.semantic_eq(old_spec) {
        let changes = diff::unified(old_spec, &munged);
        errors.push(at.forbidden(format!(
            "pod updates may not change fields other than {UPDATABLE}\n{changes}"
        )));
    }
    errors
}

/// A deadline may be set, and then only come nearer. Whether to go on.
fn deadline(new: &Value, old: &Value, at: &At<'_>, errors: &mut ErrorList) -> bool {
    let seconds = |spec| int(spec, "activeDeadlineSeconds");
    match (seconds(new), seconds(old)) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.push(at.invalid(new, format!("must be between 0 and {}, inclusive", i32::MAX)));
            false
        }
        (Some(new), Some(old)) if old < new => {
            errors.push(at.invalid(new, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            errors.push(at.invalid(
                Value::Null,
                "must not update from a positive integer to nil value",
            ));
            true
        }
        _ => true,
    }
}

/// The new spec with everything taken back that may change.
fn munged(new: &Value, old: &Value, at: &At<'_>, errors: &mut ErrorList) -> Value {
    let mut spec = new.clone();
    for field in ["containers", "initContainers"] {
        for (container, old) in crate::fields::list_mut(&mut spec, field)
            .iter_mut()
            .zip(list(old, field))
        {
            restore(container, old, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        restore(&mut spec, old, field);
    }
    let grace = |spec: &Value| int(spec, "terminationGracePeriodSeconds");
    if grace(old).is_some_and(|grace| grace < 0) && grace(&spec) == Some(1) {
        restore(&mut spec, old, "terminationGracePeriodSeconds");
    }
    if !list(old, "schedulingGates").is_empty() {
        gated(&mut spec, old, at, errors);
    }
    spec
}

fn restore(new: &mut Value, old: &Value, field: &'static str) {
    crate::strategy::keep(new, old, field);
}

/// Where a pod may go can be narrowed as long as the scheduler does not look at it.
fn gated(spec: &mut Value, old: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if !same(spec, old, &["nodeSelector"]) {
        let kept = crate::fields::entries(old, "nodeSelector")
            .iter()
            .all(|(key, value)| spec.get_path(&["nodeSelector", key]) == Some(value));
        if !kept {
            let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            let shown = spec.get("nodeSelector").cloned().unwrap_or_default();
            errors.push(at.child("nodeSelector").invalid(shown, why));
        }
        restore(spec, old, "nodeSelector");
    }
    const NODE: [&str; 2] = ["affinity", "nodeAffinity"];
    if same(spec, old, &NODE) {
        return;
    }
    node_affinity_narrowed(spec, old, at, errors);
    match old.get_path(&NODE).filter(|affinity| !affinity.is_null()) {
        Some(affinity) => spec.set_path(&NODE, affinity.clone()),
        None => {
            spec.remove_path(&NODE);
            let empty = spec.get("affinity").is_some_and(Value::is_empty);
            if empty && present(old, "affinity").is_none() {
                spec.remove_path(&["affinity"]);
            }
        }
    }
}

fn node_affinity_narrowed(new: &Value, old: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const TERMS: [&str; 4] = [
        "affinity",
        "nodeAffinity",
        "requiredDuringSchedulingIgnoredDuringExecution",
        "nodeSelectorTerms",
    ];
    let (news, olds) = (list_at(new, &TERMS), list_at(old, &TERMS));
    if olds.is_empty() {
        return;
    }
    let path = TERMS.join(".");
    let at = at.child(&path);
    if news.len() != olds.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(at.invalid(Value::Array(news.to_vec()), why));
        return;
    }
    for (index, (new, old)) in news.iter().zip(olds).enumerate() {
        let only_added = ["matchExpressions", "matchFields"].iter().all(|field| {
            let (news, olds) = (list(new, field), list(old, field));
            news.len() >= olds.len() && news.iter().zip(olds).all(|(new, old)| new.semantic_eq(old))
        });
        let was_empty = old.is_empty()
            || ["matchExpressions", "matchFields"]
                .iter()
                .all(|f| list(old, f).is_empty());
        if !only_added || (was_empty && !new.semantic_eq(old)) {
            let why = "only additions are allowed (no mutations or deletions)";
            errors.push(at.index(index).invalid(new.clone(), why));
        }
    }
}

/// Judges a change of the ephemeral containers.
pub(super) fn ephemeral_update(new: &Value, old: &Value) -> ErrorList {
    let root = At::new("");
    if meta::annotation(old, MIRROR).is_some() {
        return vec![root.forbidden("static pods do not support ephemeral containers")];
    }
    let mut errors = ErrorList::new();
    whole(new, &mut errors);
    annotation_changes(new, old, &mut errors);
    const FIELD: [&str; 2] = ["spec", "ephemeralContainers"];
    let at = At::new("spec.ephemeralContainers");
    for old in list_at(old, &FIELD) {
        let name = text(old, "name");
        match list_at(new, &FIELD)
            .iter()
            .rev()
            .find(|new| text(new, "name") == name)
        {
            None => {
                errors.push(at.forbidden(format!(
                    "existing ephemeral containers {name:?} may not be removed\n"
                )));
            }
            Some(new) if !new.semantic_eq(old) => {
                let changes = diff::unified(old, new);
                let why = format!("existing ephemeral containers {name:?} may not be changed\n{changes}");
                errors.push(at.forbidden(why));
            }
            Some(_) => {}
        }
    }
    errors
}

/// Judges a change of the status.
pub(super) fn status_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    annotation_changes(new, old, &mut errors);
    let at = At::new("status");
    let conditions = at.child("conditions");
    for (index, condition) in list_at(new, &["status", "conditions"]).iter().enumerate() {
        let at = conditions.index(index);
        if let Some(generation) = int(condition, "observedGeneration").filter(|generation| *generation < 0) {
            errors.push(
                at.child("observedGeneration")
                    .invalid(generation, "must be a non-negative integer"),
            );
        }
        let kind = text(condition, "type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            check::qualified(kind, &at.child("Type"), &mut errors);
        }
    }
    let nominated = text_at(new, &["status", "nominatedNodeName"]);
    if !nominated.is_empty() && nominated != text_at(old, &["status", "nominatedNodeName"]) {
        check::subdomain(nominated, &at.child("nominatedNodeName"), &mut errors);
    }
    if let Some(generation) =
        int_at(new, &["status", "observedGeneration"]).filter(|generation| *generation < 0)
    {
        errors.push(
            at.child("observedGeneration")
                .invalid(generation, "must be a non-negative integer"),
        );
    }
    let class = |pod| Value::get_path(pod, &["status", "qosClass"]);
    check::immutable(class(new), class(old), &at.child("qosClass"), &mut errors);
    super::transitions::terminated_stay(new, old, &mut errors);
    addresses(new, "podIPs", &at, &mut errors);
    addresses(new, "hostIPs", &at, &mut errors);
    errors
}

fn addresses(pod: &Value, field: &str, at: &At<'_>, errors: &mut ErrorList) {
    let ips = list_at(pod, &["status", field]);
    let at = at.child(field);
    for (index, ip) in ips.iter().enumerate() {
        let ip = text(ip, "ip");
        if let Some(wrong) = crate::ip::wrong_address(ip) {
            errors.push(at.index(index).invalid(ip, wrong));
        }
    }
    let sixes = ips.iter().filter(|ip| text(ip, "ip").contains(':')).count();
    if ips.len() > 2 || (ips.len() == 2 && sixes != 1) {
        errors.push(at.invalid(
            Value::Array(ips.to_vec()),
            "may specify no more than one IP for each IP family",
        ));
    }
}
