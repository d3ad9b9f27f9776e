//! ResourceQuota.

use crate::At;
use crate::check;
use crate::fields::{entries, list, present, text, texts};
use crate::pod_spec::resources;
use crate::pod_spec::validation::{is_hugepage, quantity_value, resource_name};
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource, keep};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct ResourceQuota;

const COLUMNS: [Column; 4] = [
    Column::NAME,
    Column::text("Request", "What is used of what may be requested."),
    Column::text("Limit", "What is used of what limits may be."),
    Column::AGE,
];

impl Strategy for ResourceQuota {
    fn default(&self, object: &mut Value) {
        for path in [["spec", "hard"], ["status", "hard"], ["status", "used"]] {
            resources::round(object.get_path_mut(&path));
        }
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        spec_errors(object.get("spec").unwrap_or(&Value::Null), &mut errors);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(context, new);
        let scopes = |quota: &Value| {
            let spec = quota.get("spec").unwrap_or(&Value::Null);
            let mut scopes: Vec<String> = texts(spec, "scopes").map(str::to_owned).collect();
            scopes.sort_unstable();
            scopes.dedup();
            scopes
        };
        if scopes(new) != scopes(old) {
            let shown = new.get_path(&["spec", "scopes"]).cloned().unwrap_or_default();
            errors.push(At::new("spec.scopes").invalid(shown, check::IMMUTABLE));
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

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        let status = object.get("status").unwrap_or(&Value::Null);
        for (name, hard) in entries(status, "hard") {
            let used = status
                .get_path(&["used", name])
                .and_then(Value::as_str)
                .unwrap_or("0");
            let side = if name.starts_with("limits.") {
                &mut limits
            } else {
                &mut requests
            };
            side.push(format!("{name}: {used}/{}", hard.as_str().unwrap_or("0")));
        }
        vec![
            table::name(object),
            requests.join(", ").into(),
            limits.join(", ").into(),
            table::age(object, now),
        ]
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let status = new.get("status").unwrap_or(&Value::Null);
        for field in ["hard", "used"] {
            let at = At::new("status");
            amounts(status, field, &at, &mut errors);
        }
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}

const STANDARD: [&str; 19] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || is_hugepage(name) || name.starts_with("requests.hugepages-")
}

fn amounts(holder: &Value, field: &str, at: &At<'_>, errors: &mut ErrorList) {
    let at = at.child(field);
    for (name, amount) in entries(holder, field) {
        let at = at.key(name);
        resource_name(name, &at, errors);
        if !name.contains('/') && !is_standard(name) {
            errors.push(at.invalid(name.as_str(), "must be a standard resource for quota"));
        }
        quantity_value(name, amount, &at, errors);
    }
}

fn spec_errors(spec: &Value, errors: &mut ErrorList) {
    let at = At::new("spec");
    amounts(spec, "hard", &at, errors);
    let shown = || spec.get("scopes").cloned().unwrap_or_default();
    let here = at.child("scopes");
    let mut scopes: Vec<&str> = Vec::new();
    for scope in texts(spec, "scopes") {
        if !is_scope(scope) {
            errors.push(here.invalid(shown(), "unsupported scope"));
        }
        for _ in strangers(spec, scope) {
            errors.push(here.invalid(shown(), "unsupported scope applied to resource"));
        }
        scopes.push(scope);
    }
    conflicts(&scopes, shown, &here, errors);
    if let Some(selector) = present(spec, "scopeSelector") {
        let here = at.child("scopeSelector.matchExpressions");
        let mut scopes: Vec<&str> = Vec::new();
        for requirement in list(selector, "matchExpressions") {
            let scope = text(requirement, "scopeName");
            requirement_errors(requirement, scope, &here, errors);
            for _ in strangers(spec, scope) {
                errors.push(here.invalid(selector.clone(), "unsupported scope applied to resource"));
            }
            scopes.push(scope);
        }
        conflicts(&scopes, shown, &here, errors);
    }
}

fn requirement_errors(requirement: &Value, scope: &str, at: &At<'_>, errors: &mut ErrorList) {
    if !is_scope(scope) {
        errors.push(at.child("scopeName").invalid(scope, "unsupported scope"));
    }
    let operator = text(requirement, "operator");
    let whole = [
        "BestEffort",
        "NotBestEffort",
        "Terminating",
        "NotTerminating",
        "CrossNamespacePodAffinity",
    ];
    if whole.contains(&scope) && operator != "Exists" {
        let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                   ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                   ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.push(at.child("operator").invalid(operator, why));
    }
    let values = list(requirement, "values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.push(at.child("values").required(why));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.push(at.child("values").invalid(Value::Array(values.to_vec()), why));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.push(
            at.child("operator")
                .invalid(other, "not a valid selector operator"),
        ),
    }
}

fn is_scope(scope: &str) -> bool {
    [
        "Terminating",
        "NotTerminating",
        "BestEffort",
        "NotBestEffort",
        "PriorityClass",
        "CrossNamespacePodAffinity",
        "VolumeAttributesClass",
    ]
    .contains(&scope)
}

/// Limited resources that a scope has nothing to do with.
fn strangers<'a>(spec: &'a Value, scope: &str) -> impl Iterator<Item = &'a str> {
    const COMPUTE: [&str; 6] = [
        "cpu",
        "memory",
        "limits.cpu",
        "limits.memory",
        "requests.cpu",
        "requests.memory",
    ];
    let scope = scope.to_owned();
    entries(spec, "hard")
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| is_standard(name))
        .filter(move |name| match scope.as_str() {
            "Terminating"
            | "NotTerminating"
            | "NotBestEffort"
            | "PriorityClass"
            | "CrossNamespacePodAffinity" => *name != "pods" && !COMPUTE.contains(name),
            "BestEffort" => *name != "pods",
            "VolumeAttributesClass" => !matches!(*name, "persistentvolumeclaims" | "requests.storage"),
            _ => false,
        })
}

fn conflicts(scopes: &[&str], shown: impl Fn() -> Value, at: &At<'_>, errors: &mut ErrorList) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.push(at.invalid(shown(), "conflicting scopes"));
        }
    }
}
