//! NetworkPolicy.

use crate::KindInfo;
use crate::fields::{fill_text, list, list_mut};
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct NetworkPolicy;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::text("Pod-Selector", "Which pods are meant."),
    Column::AGE,
];

impl Strategy for NetworkPolicy {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else {
            return;
        };
        if list(spec, "policyTypes").is_empty() {
            let mut types = vec!["Ingress"];
            if !list(spec, "egress").is_empty() {
                types.push("Egress");
            }
            spec.set_path(&["policyTypes"], types);
        }
        for direction in ["ingress", "egress"] {
            for port in list_mut(spec, direction)
                .iter_mut()
                .flat_map(|rule| list_mut(rule, "ports"))
            {
                if let Some(port) = port.as_object_mut() {
                    fill_text(port, "protocol", "TCP");
                }
            }
        }
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let selector = table::selector(object.get_path(&["spec", "podSelector"]));
        vec![table::name(object), selector, table::age(object, now)]
    }
}
