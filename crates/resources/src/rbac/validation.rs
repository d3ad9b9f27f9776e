//! What roles grant, and to whom bindings grant it.

use super::GROUP;
use crate::At;
use crate::check;
use crate::fields::{list, present, same, text};
use machinery::Value;
use machinery::field::ErrorList;
use machinery::selector::LabelSelector;

/// Whether a role or binding is of a namespace or of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Namespace,
    Cluster,
}

/// Judges a role's rules.
pub(super) fn rules(role: &Value, reach: Reach, errors: &mut ErrorList) {
    let at = At::new("rules");
    for (index, rule) in list(role, "rules").iter().enumerate() {
        self::rule(rule, reach, &at.index(index), errors);
    }
}

fn rule(rule: &Value, reach: Reach, at: &At<'_>, errors: &mut ErrorList) {
    let none = |field| list(rule, field).is_empty();
    if none("verbs") {
        errors.push(
            at.child("verbs")
                .required("verbs must contain at least one value"),
        );
    }
    if !none("nonResourceURLs") {
        let at = at.child("nonResourceURLs");
        let shown = || rule.get("nonResourceURLs").cloned().unwrap_or_default();
        if reach == Reach::Namespace {
            errors.push(at.invalid(shown(), "namespaced rules cannot apply to non-resource URLs"));
        }
        if !(none("apiGroups") && none("resources") && none("resourceNames")) {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(at.invalid(shown(), why));
        }
        return;
    }
    if none("apiGroups") {
        let why = "resource rules must supply at least one api group";
        errors.push(at.child("apiGroups").required(why));
    }
    if none("resources") {
        let why = "resource rules must supply at least one resource";
        errors.push(at.child("resources").required(why));
    }
}

/// Judges which roles a cluster role is made of.
pub(super) fn aggregation(role: &Value, errors: &mut ErrorList) {
    let Some(aggregation) = present(role, "aggregationRule") else {
        return;
    };
    let at = At::new("aggregationRule.clusterRoleSelectors");
    let selectors = list(aggregation, "clusterRoleSelectors");
    if selectors.is_empty() {
        let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(at.required(why));
    }
    for (index, selector) in selectors.iter().enumerate() {
        let at = at.index(index);
        check::label_selector(Some(selector), &at, errors);
        if LabelSelector::from_object(Some(selector)).is_err() {
            errors.push(at.invalid(selector.clone(), "invalid label selector."));
        }
    }
}

/// Judges a binding's role and subjects.
pub(super) fn binding(binding: &Value, reach: Reach, errors: &mut ErrorList) {
    let role = binding.get("roleRef").unwrap_or(&Value::Null);
    let at = At::new("roleRef");
    check::one_of(text(role, "apiGroup"), &[GROUP], &at.child("apiGroup"), errors);
    let kinds: &[&str] = match reach {
        Reach::Namespace => &["Role", "ClusterRole"],
        Reach::Cluster => &["ClusterRole"],
    };
    check::one_of(text(role, "kind"), kinds, &at.child("kind"), errors);
    check::required_path_segment(text(role, "name"), &at.child("name"), errors);
    let at = At::new("subjects");
    for (index, subject) in list(binding, "subjects").iter().enumerate() {
        self::subject(subject, reach, &at.index(index), errors);
    }
}

fn subject(subject: &Value, reach: Reach, at: &At<'_>, errors: &mut ErrorList) {
    let name = text(subject, "name");
    if name.is_empty() {
        errors.push(at.child("name").required(""));
    }
    let group = text(subject, "apiGroup");
    match text(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                check::subdomain(name, &at.child("name"), errors);
            }
            check::one_of(group, &[""], &at.child("apiGroup"), errors);
            if reach == Reach::Cluster && text(subject, "namespace").is_empty() {
                errors.push(at.child("namespace").required(""));
            }
        }
        "User" | "Group" => check::one_of(group, &[GROUP], &at.child("apiGroup"), errors),
        other => errors.push(
            at.child("kind")
                .not_supported(other, &["ServiceAccount", "User", "Group"]),
        ),
    }
}

/// The role of a binding stays.
pub(super) fn same_role(new: &Value, old: &Value, errors: &mut ErrorList) {
    if !same(new, old, &["roleRef"]) {
        let shown = new.get("roleRef").cloned().unwrap_or_default();
        errors.push(At::new("roleRef").invalid(shown, "cannot change roleRef"));
    }
}
