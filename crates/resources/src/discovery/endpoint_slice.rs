//! EndpointSlice.

use crate::At;
use crate::KindInfo;
use crate::check;
use crate::fields::{entries, fill, int, list, list_mut, present, same, text, texts};
use crate::ip;
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, names};
use std::net::IpAddr;

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

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        shape_errors(object, &mut errors);
        endpoints_errors(object, &mut errors);
        errors
    }

    /// Older versions let more pass; endpoints that were taken are not judged again.
    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        shape_errors(new, &mut errors);
        if !same(new, old, &["endpoints"]) {
            endpoints_errors(new, &mut errors);
        }
        let kind = |object: &Value| object.get("addressType").cloned();
        check::immutable(
            kind(new).as_ref(),
            kind(old).as_ref(),
            &At::new("addressType"),
            &mut errors,
        );
        errors
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

const MOST_ENDPOINTS: usize = 1000;
const MOST_ADDRESSES: usize = 100;
const MOST_PORTS: usize = 20_000;
const MOST_LABELS: usize = 16;
const MOST_HINTS: usize = 8;

fn shape_errors(slice: &Value, errors: &mut ErrorList) {
    check::required_one_of(
        text(slice, "addressType"),
        &["FQDN", "IPv4", "IPv6"],
        &At::new("addressType"),
        errors,
    );
    let at = At::new("ports");
    let ports = list(slice, "ports");
    if ports.len() > MOST_PORTS {
        errors.push(at.too_many(ports.len(), MOST_PORTS));
        return;
    }
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            check::label(name, &at.child("name"), errors);
        }
        if ports[..index].iter().any(|other| text(other, "name") == name) {
            errors.push(at.child("name").duplicate(name));
        }
        check::one_of(
            text(port, "protocol"),
            &["SCTP", "TCP", "UDP"],
            &at.child("protocol"),
            errors,
        );
        if let Some(protocol) = present(port, "appProtocol").and_then(Value::as_str) {
            check::qualified(protocol, &at.child("appProtocol"), errors);
        }
    }
}

fn endpoints_errors(slice: &Value, errors: &mut ErrorList) {
    let at = At::new("endpoints");
    let endpoints = list(slice, "endpoints");
    if endpoints.len() > MOST_ENDPOINTS {
        errors.push(at.too_many(endpoints.len(), MOST_ENDPOINTS));
        return;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        endpoint_errors(endpoint, text(slice, "addressType"), &at.index(index), errors);
    }
}

fn endpoint_errors(endpoint: &Value, kind: &str, at: &At<'_>, errors: &mut ErrorList) {
    let addresses = list(endpoint, "addresses");
    let here = at.child("addresses");
    if addresses.is_empty() {
        errors.push(here.required("must contain at least 1 address"));
    } else if addresses.len() > MOST_ADDRESSES {
        errors.push(here.too_many(addresses.len(), MOST_ADDRESSES));
    }
    for (index, address) in texts(endpoint, "addresses").enumerate() {
        address_errors(address, kind, &here, index, errors);
    }
    check::optional_subdomain(present(endpoint, "nodeName"), &at.child("nodeName"), errors);
    let labels = entries(endpoint, "deprecatedTopology");
    let here = at.child("deprecatedTopology");
    if labels.len() > MOST_LABELS {
        errors.push(here.too_many(labels.len(), MOST_LABELS));
    }
    check::labels(labels, &here, errors);
    if let Some(name) = present(endpoint, "hostname").and_then(Value::as_str) {
        check::label(name, &at.child("hostname"), errors);
    }
    if let Some(hints) = present(endpoint, "hints") {
        hint_errors(hints, &at.child("hints"), errors);
    }
}

/// Where an address is of the other family, upstream names the whole list.
fn address_errors(address: &str, kind: &str, list: &At<'_>, index: usize, errors: &mut ErrorList) {
    let at = list.index(index);
    let wrong = match kind {
        "IPv4" => ip::wrong_address(address).map(str::to_owned),
        "IPv6" => ip::wrong_strict_address(address),
        "FQDN" => return domain_errors(address, &at, errors),
        _ => return,
    };
    if let Some(wrong) = wrong {
        errors.push(at.invalid(address, wrong));
        return;
    }
    let family = match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => "IPv6",
        _ => "IPv4",
    };
    if family != kind {
        errors.push(list.invalid(address, format!("must be an {kind} address")));
    }
    ip::endpoint_address(address, &at, errors);
}

fn domain_errors(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(at.required(""));
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let wrong = names::dns1123_subdomain(name);
    if !wrong.is_empty() {
        errors.push(at.invalid(name, wrong.join(",")));
        return;
    }
    if !name.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.push(at.invalid(name, why));
        return;
    }
    let long = name
        .split('.')
        .find(|label| !names::dns1123_label(label).is_empty());
    if let Some(label) = long {
        errors.push(at.invalid(label, names::dns1123_label(label).join(",")));
    }
}

fn hint_errors(hints: &Value, at: &At<'_>, errors: &mut ErrorList) {
    for (field, judge) in [
        ("forZones", names::label_value as fn(&str) -> Vec<String>),
        ("forNodes", names::dns1123_subdomain),
    ] {
        let at = at.child(field);
        let all = list(hints, field);
        if all.len() > MOST_HINTS {
            errors.push(at.too_many(all.len(), MOST_HINTS));
            return;
        }
        for (index, hint) in all.iter().enumerate() {
            let at = at.index(index);
            let at = at.child("name");
            let name = text(hint, "name");
            if all[..index].iter().any(|other| text(other, "name") == name) {
                errors.push(at.duplicate(name));
            }
            check::each(judge(name), name, &at, errors);
        }
    }
}
