//! Endpoints.

use crate::At;
use crate::check;
use crate::fields::{fill_text, int, list, list_mut, present, same, text};
use crate::ip;
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

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

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = At::new("subsets");
        for (index, subset) in list(object, "subsets").iter().enumerate() {
            subset_errors(subset, &at.index(index), &mut errors);
        }
        errors
    }

    /// Older versions let more pass; what was taken is not judged again.
    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let errors = self.validate(context, new);
        if !errors.is_empty() && same(new, old, &["subsets"]) {
            return ErrorList::new();
        }
        errors
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

fn subset_errors(subset: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const ADDRESSES: [&str; 2] = ["addresses", "notReadyAddresses"];
    if ADDRESSES.iter().all(|field| list(subset, field).is_empty()) {
        errors.push(at.required("must specify `addresses` or `notReadyAddresses`"));
    }
    for field in ADDRESSES {
        let at = at.child(field);
        for (index, address) in list(subset, field).iter().enumerate() {
            let at = at.index(index);
            let ip = text(address, "ip");
            if let Some(wrong) = ip::wrong_address(ip) {
                errors.push(at.child("ip").invalid(ip, wrong));
            }
            let hostname = text(address, "hostname");
            if !hostname.is_empty() {
                check::label(hostname, &at.child("hostname"), errors);
            }
            check::optional_subdomain(present(address, "nodeName"), &at.child("nodeName"), errors);
            ip::endpoint_address(ip, &at.child("ip"), errors);
        }
    }
    let ports = list(subset, "ports");
    let at = at.child("ports");
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        match text(port, "name") {
            "" if ports.len() > 1 => errors.push(at.child("name").required("")),
            "" => {}
            name => check::label(name, &at.child("name"), errors),
        }
        check::port(int(port, "port").unwrap_or(0), &at.child("port"), errors);
        let protocols = ["SCTP", "TCP", "UDP"];
        check::required_one_of(text(port, "protocol"), &protocols, &at.child("protocol"), errors);
        if let Some(protocol) = present(port, "appProtocol").and_then(Value::as_str) {
            check::qualified(protocol, &at.child("appProtocol"), errors);
        }
    }
}
