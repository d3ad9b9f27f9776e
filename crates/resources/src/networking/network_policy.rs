//! NetworkPolicy.

use crate::At;
use crate::KindInfo;
use crate::check;
use crate::fields::{fill_text, int, list, list_mut, present, text, texts};
use crate::ip;
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use ipnet::IpNet;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, names};

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

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        spec_errors(object.get("spec").unwrap_or(&Value::Null), &[], &mut errors);
        errors
    }

    /// Ranges of the old policy are taken as they are, wherever they stand now.
    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let known = ranges(old.get("spec").unwrap_or(&Value::Null));
        spec_errors(new.get("spec").unwrap_or(&Value::Null), &known, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let selector = table::selector(object.get_path(&["spec", "podSelector"]));
        vec![table::name(object), selector, table::age(object, now)]
    }
}

/// Both directions, with the field that holds the peers.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

fn ranges(spec: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    for (direction, peers) in DIRECTIONS {
        for peer in list(spec, direction).iter().flat_map(|rule| list(rule, peers)) {
            if let Some(block) = present(peer, "ipBlock") {
                found.push(text(block, "cidr"));
                found.extend(texts(block, "except"));
            }
        }
    }
    found
}

fn spec_errors(spec: &Value, known: &[&str], errors: &mut ErrorList) {
    let at = At::new("spec");
    check::label_selector(present(spec, "podSelector"), &at.child("podSelector"), errors);
    for (direction, peers) in DIRECTIONS {
        let at = at.child(direction);
        for (index, rule) in list(spec, direction).iter().enumerate() {
            let at = at.index(index);
            let here = at.child("ports");
            for (index, port) in list(rule, "ports").iter().enumerate() {
                port_errors(port, &here.index(index), errors);
            }
            let here = at.child(peers);
            for (index, peer) in list(rule, peers).iter().enumerate() {
                peer_errors(peer, known, &here.index(index), errors);
            }
        }
    }
    let types = list(spec, "policyTypes");
    let at = at.child("policyTypes");
    if types.len() > 2 {
        let why = "may not specify more than two policyTypes";
        errors.push(at.invalid(Value::Array(types.to_vec()), why));
        return;
    }
    for (index, kind) in texts(spec, "policyTypes").enumerate() {
        check::one_of(kind, &["Ingress", "Egress"], &at.index(index), errors);
    }
}

fn port_errors(port: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if let Some(protocol) = present(port, "protocol").and_then(Value::as_str) {
        check::one_of(protocol, &["TCP", "UDP", "SCTP"], &at.child("protocol"), errors);
    }
    let end = int(port, "endPort");
    let at_end = at.child("endPort");
    match (present(port, "port"), end) {
        (Some(Value::String(name)), end) => {
            if let Some(end) = end {
                errors.push(at_end.invalid(end, "may not be specified when `port` is non-numeric"));
            }
            check::each(names::port_name(name), name, &at.child("port"), errors);
        }
        (Some(number), end) => {
            let number = number.as_i64().unwrap_or(0);
            check::port(number, &at.child("port"), errors);
            if let Some(end) = end {
                if end < number {
                    errors.push(at_end.invalid(number, "must be greater than or equal to `port`"));
                }
                check::port(end, &at_end, errors);
            }
        }
        (None, Some(end)) => {
            errors.push(at_end.invalid(end, "may not be specified when `port` is not specified"));
        }
        (None, None) => {}
    }
}

fn peer_errors(peer: &Value, known: &[&str], at: &At<'_>, errors: &mut ErrorList) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        let selector = present(peer, field);
        count += usize::from(selector.is_some());
        check::label_selector(selector, &at.child(field), errors);
    }
    let block = present(peer, "ipBlock");
    if let Some(block) = block {
        block_errors(block, known, &at.child("ipBlock"), errors);
        if count > 0 {
            errors.push(at.forbidden("may not specify both ipBlock and another peer"));
        }
    } else if count == 0 {
        errors.push(at.required("must specify a peer"));
    }
}

fn block_errors(block: &Value, known: &[&str], at: &At<'_>, errors: &mut ErrorList) {
    let range = text(block, "cidr");
    if range.is_empty() {
        errors.push(at.child("cidr").required(""));
        return;
    }
    let judge = |range: &str, at: &At<'_>, errors: &mut ErrorList| {
        if let Some(wrong) = ip::wrong_network(range).filter(|_| !known.contains(&range)) {
            errors.push(at.invalid(range, wrong));
        }
    };
    judge(range, &at.child("cidr"), errors);
    let Ok(whole) = range.parse::<IpNet>() else { return };
    let at = at.child("except");
    for (index, except) in texts(block, "except").enumerate() {
        let at = at.index(index);
        judge(except, &at, errors);
        let Ok(part) = except.parse::<IpNet>() else {
            continue;
        };
        if !whole.contains(&part.addr()) || whole.prefix_len() >= part.prefix_len() {
            errors.push(at.invalid(except, "must be a strict subset of `cidr`"));
        }
    }
}
