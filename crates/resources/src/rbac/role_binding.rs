//! RoleBinding, and what it shares with ClusterRoleBinding.

use super::validation::{Reach, binding, same_role};
use crate::fields::{fill_text, list, list_mut, text, text_at};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;
use machinery::names::path_segment_rule;

pub(crate) struct RoleBinding;

pub(super) const COLUMNS: [Column; 6] = [
    Column::NAME,
    Column::text("Role", "What is granted."),
    Column::AGE,
    Column::text("Users", "To whom.").wide(),
    Column::text("Groups", "To which groups.").wide(),
    Column::text("ServiceAccounts", "To which service accounts.").wide(),
];

impl Strategy for RoleBinding {
    fn default(&self, object: &mut Value) {
        binding_defaults(object);
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        path_segment_rule(name, prefix)
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        binding(object, Reach::Namespace, &mut errors);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(context, new);
        same_role(new, old, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        binding_row(object, now)
    }
}

/// Fills the groups of the role and of users and groups of users.
pub(super) fn binding_defaults(object: &mut Value) {
    if let Some(role) = object.get_mut("roleRef").and_then(Value::as_object_mut) {
        fill_text(role, "apiGroup", super::GROUP);
    }
    for subject in list_mut(object, "subjects") {
        let named = matches!(text(subject, "kind"), "User" | "Group");
        if let Some(subject) = subject.as_object_mut().filter(|_| named) {
            fill_text(subject, "apiGroup", super::GROUP);
        }
    }
}

/// The cells of a binding.
pub(super) fn binding_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!(
        "{}/{}",
        text_at(object, &["roleRef", "kind"]),
        text_at(object, &["roleRef", "name"])
    );
    let subjects = |kind: &str| -> String {
        let of_kind = list(object, "subjects")
            .iter()
            .filter(|subject| text(subject, "kind") == kind);
        let named = of_kind.map(|subject| match text(subject, "namespace") {
            namespace if kind == "ServiceAccount" && !namespace.is_empty() => {
                format!("{namespace}/{}", text(subject, "name"))
            }
            _ => text(subject, "name").to_owned(),
        });
        named.collect::<Vec<_>>().join(", ")
    };
    vec![
        table::name(object),
        role.into(),
        table::age(object, now),
        subjects("User").into(),
        subjects("Group").into(),
        subjects("ServiceAccount").into(),
    ]
}
