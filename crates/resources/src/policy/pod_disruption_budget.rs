//! PodDisruptionBudget.

use crate::At;
use crate::check;
use crate::conditions::conditions;
use crate::fields::{int, list, present};
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource, keep};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct PodDisruptionBudget;

const COLUMNS: [Column; 5] = [
    Column::NAME,
    Column::text("Min Available", "Pods that must stay available."),
    Column::text("Max Unavailable", "Pods that may be unavailable."),
    Column::number("Allowed Disruptions", "Pods that may go now."),
    Column::AGE,
];

impl Strategy for PodDisruptionBudget {
    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], empty_status());
        object.set_path(&["metadata", "generation"], 1);
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        spec_errors(object.get("spec").unwrap_or(&Value::Null), &mut errors);
        errors
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        if name == "status" {
            Some(&Status)
        } else {
            default_subresource(name)
        }
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let amount = |field| match object.get_path(&["spec", field]) {
            Some(Value::Int(number)) => Value::from(number.to_string()),
            Some(Value::String(text)) => text.clone().into(),
            _ => "N/A".into(),
        };
        vec![
            table::name(object),
            amount("minAvailable"),
            amount("maxUnavailable"),
            table::number(object, &["status", "disruptionsAllowed"]),
            table::age(object, now),
        ]
    }
}

/// The counts are always written.
fn empty_status() -> Value {
    let mut status = Value::object();
    for count in [
        "currentHealthy",
        "desiredHealthy",
        "disruptionsAllowed",
        "expectedPods",
    ] {
        status.set_path(&[count], 0);
    }
    status
}

fn spec_errors(spec: &Value, errors: &mut ErrorList) {
    let at = At::new("spec");
    let amounts = ["minAvailable", "maxUnavailable"].map(|field| (field, present(spec, field)));
    if amounts.iter().all(|(_, amount)| amount.is_some()) {
        let why = "minAvailable and maxUnavailable cannot be both set";
        errors.push(at.invalid(spec.clone(), why));
    }
    for (field, amount) in amounts {
        if let Some(amount) = amount {
            check::positive_int_or_percent(amount, &at.child(field), errors);
            check::at_most_hundred_percent(amount, &at.child(field), errors);
        }
    }
    check::label_selector(present(spec, "selector"), &at.child("selector"), errors);
    if let Some(policy) = present(spec, "unhealthyPodEvictionPolicy").and_then(Value::as_str) {
        let policies = ["AlwaysAllow", "IfHealthyBudget"];
        check::one_of(policy, &policies, &at.child("unhealthyPodEvictionPolicy"), errors);
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = At::new("status");
        let status = new.get("status").unwrap_or(&Value::Null);
        conditions(list(status, "conditions"), &at.child("conditions"), &mut errors);
        for field in [
            "disruptionsAllowed",
            "currentHealthy",
            "desiredHealthy",
            "expectedPods",
        ] {
            check::not_negative(int(status, field).unwrap_or(0), &at.child(field), &mut errors);
        }
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}
