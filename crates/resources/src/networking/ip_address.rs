//! IPAddress.

use crate::fields::text;
use crate::ip::wrong_strict_address;
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;

pub(crate) struct IpAddress;

const COLUMNS: [Column; 3] = [
    Column::NAME,
    Column::text("ParentRef", "What has the address."),
    Column::AGE,
];

impl Strategy for IpAddress {
    fn check_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        wrong_strict_address(name).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let parent = object
            .get_path(&["spec", "parentRef"])
            .map_or(table::NONE.to_owned(), |parent| {
                let group = text(parent, "group");
                let dot = if group.is_empty() { "" } else { "." };
                let resource = format!("{}{dot}{group}", text(parent, "resource")).to_lowercase();
                let parts = [resource.as_str(), text(parent, "namespace"), text(parent, "name")];
                table::join(parts.into_iter().filter(|part| !part.is_empty()), "/")
            });
        vec![table::name(object), parent.into(), table::age(object, now)]
    }
}
