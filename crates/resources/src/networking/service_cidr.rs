//! ServiceCIDR.

use crate::At;
use crate::KindInfo;
use crate::check;
use crate::fields::{list_at, texts};
use crate::ip;
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource, keep, reset_metadata};
use crate::table;
use jiff::Timestamp;
use machinery::Value;
use machinery::field::ErrorList;

pub(crate) struct ServiceCidr;

const COLUMNS: [Column; 3] = [Column::NAME, Column::text("CIDRs", "The ranges."), Column::AGE];

impl Strategy for ServiceCidr {
    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        false
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        spec_errors(object.get("spec").unwrap_or(&Value::Null), &mut errors);
        errors
    }

    /// A range of the other family may be added; nothing else changes.
    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let [now, before] = [new, old].map(|object| list_at(object, &["spec", "cidrs"]));
        let at = At::new("spec.cidrs");
        if now.len() != before.len() && (before.len(), now.len()) != (1, 2) {
            errors.push(at.invalid(Value::Array(now.to_vec()), check::IMMUTABLE));
            return errors;
        }
        for (index, (now, before)) in now.iter().zip(before).enumerate() {
            if now != before {
                errors.push(at.index(index).invalid(now.clone(), check::IMMUTABLE));
            }
        }
        if now.len() != before.len() {
            spec_errors(new.get("spec").unwrap_or(&Value::Null), &mut errors);
        }
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
        let spec = object.get("spec").unwrap_or(&Value::Null);
        vec![
            table::name(object),
            table::join(texts(spec, "cidrs"), ",").into(),
            table::age(object, now),
        ]
    }
}

fn spec_errors(spec: &Value, errors: &mut ErrorList) {
    let at = At::new("spec.cidrs");
    let ranges: Vec<&str> = texts(spec, "cidrs").collect();
    if ranges.is_empty() {
        errors.push(at.required("at least one CIDR required"));
        return;
    }
    if ranges.len() > 2 {
        errors.push(at.invalid(spec.clone(), "may only hold up to 2 values"));
        return;
    }
    for (index, range) in ranges.iter().enumerate() {
        if let Some(wrong) = ip::wrong_strict_network(range) {
            errors.push(at.index(index).invalid(*range, wrong));
        }
    }
    let is_v6 = |range: &str| range.parse::<ipnet::IpNet>().ok().map(|net| net.addr().is_ipv6());
    if let [first, second] = ranges[..]
        && let (Some(first), Some(second)) = (is_v6(first), is_v6(second))
        && first == second
    {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(at.invalid(ranges, why));
    }
}

struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        reset_metadata(new, old);
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:metadata"], &["f:spec"]]
    }
}
