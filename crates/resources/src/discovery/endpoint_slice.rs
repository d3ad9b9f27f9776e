//! EndpointSlice.

use crate::KindInfo;
use crate::fields::{fill, int, list, list_mut, same, text, texts};
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct EndpointSlice;

const COLUMNS: [Column; 5] = [
    Column::NAME,
    Column::text("AddressType", "What the addresses are."),
    Column::text("Ports", "Ports of every endpoint."),
    Column::text("Endpoints", "Their addresses."),
    Column::AGE,
];

impl Strategy for EndpointSlice {
    fn default(&self, object: &mut Value) {
        for port in list_mut(object, "ports") {
            if let Some(port) = port.as_object_mut() {
                fill(port, "name", "");
                fill(port, "protocol", "TCP");
            }
        }
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    /// Everything but the metadata counts, and the labels.
    fn spec_changed(&self, new: &Value, old: &Value) -> bool {
        let parts = [
            &["addressType"][..],
            &["endpoints"],
            &["ports"],
            &["metadata", "labels"],
        ];
        parts.iter().any(|path| !same(new, old, path))
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let ports = list(object, "ports").iter().map(|port| match int(port, "port") {
            Some(number) => number.to_string(),
            None => port.get("name").and_then(Value::as_str).unwrap_or("*").to_owned(),
        });
        let addresses = list(object, "endpoints")
            .iter()
            .flat_map(|endpoint| texts(endpoint, "addresses"));
        vec![
            table::name(object),
            text(object, "addressType").into(),
            table::first_three(ports).into(),
            table::first_three(addresses.map(str::to_owned)).into(),
            table::age(object, now),
        ]
    }
}
