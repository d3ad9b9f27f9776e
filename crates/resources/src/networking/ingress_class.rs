//! IngressClass.

use crate::At;
use crate::KindInfo;
use crate::check;
use crate::fields::{fill, present, text};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, meta};

pub(crate) struct IngressClass;

const COLUMNS: [Column; 4] = [
    Column::NAME,
    Column::text("Controller", "What serves the class."),
    Column::text("Parameters", "Where more is said."),
    Column::AGE,
];

impl Strategy for IngressClass {
    fn default(&self, object: &mut Value) {
        if let Some(parameters) = object
            .get_path_mut(&["spec", "parameters"])
            .and_then(Value::as_object_mut)
        {
            fill(parameters, "scope", "Cluster");
        }
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        spec_errors(object.get("spec").unwrap_or(&Value::Null), &mut errors);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let controller = |object| Value::get_path(object, &["spec", "controller"]);
        check::immutable(
            controller(new),
            controller(old),
            &At::new("spec.controller"),
            &mut errors,
        );
        errors.extend(self.validate(context, new));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut name = meta::name(object).to_owned();
        if meta::annotation(object, "ingressclass.kubernetes.io/is-default-class") == Some("true") {
            name.push_str(" (default)");
        }
        let parameters =
            object
                .get_path(&["spec", "parameters"])
                .map_or(table::NONE.to_owned(), |parameters| {
                    let group = text(parameters, "apiGroup");
                    let dot = if group.is_empty() { "" } else { "." };
                    format!(
                        "{}{dot}{group}/{}",
                        text(parameters, "kind"),
                        text(parameters, "name")
                    )
                });
        vec![
            name.into(),
            table::word(object, &["spec", "controller"]),
            parameters.into(),
            table::age(object, now),
        ]
    }
}

const LONGEST_CONTROLLER: usize = 250;

fn spec_errors(spec: &Value, errors: &mut ErrorList) {
    let at = At::new("spec");
    let controller = text(spec, "controller");
    if controller.len() > LONGEST_CONTROLLER {
        errors.push(at.child("controller").too_long(LONGEST_CONTROLLER as i64));
    }
    check::domain_prefixed_path(controller, &at.child("controller"), errors);
    let Some(parameters) = present(spec, "parameters") else {
        return;
    };
    let at = at.child("parameters");
    check::optional_subdomain(present(parameters, "apiGroup"), &at.child("apiGroup"), errors);
    for field in ["kind", "name"] {
        check::required_path_segment(text(parameters, field), &at.child(field), errors);
    }
    let namespace = present(parameters, "namespace").and_then(Value::as_str);
    let at_namespace = at.child("namespace");
    match (text(parameters, "scope"), namespace) {
        ("Namespace", None) => {
            errors.push(at_namespace.required("`parameters.scope` is set to 'Namespace'"));
        }
        ("Namespace", Some(namespace)) => check::label(namespace, &at_namespace, errors),
        ("Cluster", None) => {}
        ("Cluster", Some(_)) => {
            errors.push(at_namespace.forbidden("`parameters.scope` is set to 'Cluster'"));
        }
        (other, _) => errors.push(at.child("scope").not_supported(other, &["Cluster", "Namespace"])),
    }
}
