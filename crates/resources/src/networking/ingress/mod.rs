//! Ingress.

mod validation;

use crate::fields::{list_at, text, text_at};
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, meta};

const CLASS: &str = "kubernetes.io/ingress.class";

pub(crate) struct Ingress;

const COLUMNS: [Column; 6] = [
    Column::NAME,
    Column::text("Class", "The class that serves it."),
    Column::text("Hosts", "Hosts it is for."),
    Column::text("Address", "Where it is reached."),
    Column::text("Ports", "Ports it is reached at."),
    Column::AGE,
];

impl Strategy for Ingress {
    fn prepare_for_create(&self, _context: &Context<'_>, object: &mut Value) {
        object.set_path(&["status"], Value::object());
        object.set_path(&["status", "loadBalancer"], Value::object());
        object.set_path(&["metadata", "generation"], 1);
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::spec(object, None, &mut errors);
        validation::class_annotation(object, &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::spec(new, Some(old), &mut errors);
        errors
    }

    fn warnings_on_create(&self, _context: &Context<'_>, object: &Value) -> Vec<String> {
        let named = object
            .get_path(&["spec", "ingressClassName"])
            .is_some_and(|name| !name.is_null());
        if named || meta::annotation(object, CLASS).is_none() {
            return Vec::new();
        }
        vec![format!(
            "annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead"
        )]
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        if name == "status" {
            Some(&validation::Status)
        } else {
            default_subresource(name)
        }
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let tls = list_at(object, &["spec", "tls"]).is_empty();
        vec![
            table::name(object),
            table::or(text_at(object, &["spec", "ingressClassName"]), table::NONE),
            hosts(object).into(),
            addresses(object).into(),
            if tls { "80" } else { "80, 443" }.into(),
            table::age(object, now),
        ]
    }
}

fn hosts(ingress: &Value) -> String {
    let rules = list_at(ingress, &["spec", "rules"]);
    let named: Vec<&str> = rules
        .iter()
        .map(|rule| text(rule, "host"))
        .filter(|host| !host.is_empty())
        .collect();
    match named.len() {
        0 => "*".to_owned(),
        // Rules without a host count only once more than three hosts are there.
        _ if named.len() >= 3 && rules.len() > 3 => {
            format!("{} + {} more...", named[..3].join(","), rules.len() - 3)
        }
        _ => named.join(","),
    }
}

/// The addresses of load balancers, each once, sorted.
pub(crate) fn addresses(object: &Value) -> String {
    let mut found: Vec<&str> = list_at(object, &["status", "loadBalancer", "ingress"])
        .iter()
        .map(|ingress| {
            if text(ingress, "ip").is_empty() {
                text(ingress, "hostname")
            } else {
                text(ingress, "ip")
            }
        })
        .filter(|address| !address.is_empty())
        .collect();
    found.sort_unstable();
    found.dedup();
    found.join(",")
}
