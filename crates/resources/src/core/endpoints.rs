//! Endpoints.

use crate::fields::{fill_text, int, list, list_mut, text};
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct Endpoints;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::text("Endpoints", "Addresses and ports."),
    Column::AGE,
];

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        for subset in list_mut(object, "subsets") {
            for port in list_mut(subset, "ports") {
                if let Some(port) = port.as_object_mut() {
                    fill_text(port, "protocol", "TCP");
                }
            }
        }
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![table::name(object), shown(object).into(), table::age(object, now)]
    }
}

/// The first three addresses with their ports.
fn shown(endpoints: &Value) -> String {
    let subsets = list(endpoints, "subsets");
    if subsets.is_empty() {
        return table::NONE.to_owned();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let ips = || {
            list(subset, "addresses")
                .iter()
                .map(|address| text(address, "ip"))
        };
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in ports {
            let port = int(port, "port").unwrap_or(0);
            all.extend(ips().map(|ip| {
                if ip.contains(':') {
                    format!("[{ip}]:{port}")
                } else {
                    format!("{ip}:{port}")
                }
            }));
        }
    }
    if all.is_empty() {
        String::new()
    } else {
        table::first_three(all.into_iter())
    }
}
