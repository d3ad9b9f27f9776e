//! Whether the fields about cluster addresses fit together.

use super::addresses::{NONE, family_policy, is_headless, needs_cluster_ip};
use super::families::{IPV4, IPV6, family_of};
use crate::At;
use crate::fields::{list_at, text_at};
use crate::ip;
use machinery::Value;
use machinery::field::ErrorList;

/// Judges `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`.
pub(super) fn related_fields(service: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    if !needs_cluster_ip(service) {
        return;
    }
    let spec = At::new("spec");
    let at = spec.child("clusterIPs");
    let ips = list_at(service, &["spec", "clusterIPs"]);
    let all = || Value::Array(ips.to_vec());
    let one = text_at(service, &["spec", "clusterIP"]);
    let first = ips.first().and_then(Value::as_str);
    match first {
        None if !one.is_empty() => errors.push(at.required("")),
        Some(_) if one.is_empty() => {
            errors.push(at.invalid(all(), "must be empty when `clusterIP` is not specified"));
        }
        Some(first) if first != one => errors.push(at.invalid(all(), "first value must match `clusterIP`")),
        _ => {}
    }
    families_and_policy(service, &spec, errors);
    let existing = old
        .map(|old| list_at(old, &["spec", "clusterIPs"]))
        .unwrap_or_default();
    let mut bad = false;
    for (index, text) in ips.iter().filter_map(Value::as_str).enumerate() {
        if index == 0 && text == NONE {
            if ips.len() > 1 {
                bad = true;
                errors.push(at.invalid(all(), "'None' must be the first and only value"));
            }
            continue;
        }
        let known = existing.iter().any(|ip| ip.as_str() == Some(text));
        if !known && let Some(wrong) = ip::wrong_address(text) {
            bad = true;
            errors.push(at.index(index).invalid(text, wrong));
        }
    }
    if ips.len() > 2 {
        errors.push(at.invalid(all(), "may only hold up to 2 values"));
    }
    if bad {
        return;
    }
    let of_family = |family| {
        ips.iter()
            .filter_map(Value::as_str)
            .filter(|ip| family_of(ip) == family)
            .count()
    };
    if ips.len() > 1 && (of_family(IPV4) != 1 || of_family(IPV6) != 1) {
        errors.push(at.invalid(all(), "may specify no more than one IP for each IP family"));
    }
    if is_headless(service) {
        return;
    }
    let families = list_at(service, &["spec", "ipFamilies"]);
    for (index, (ip, family)) in ips.iter().zip(families).enumerate() {
        let (ip, family) = (
            ip.as_str().unwrap_or_default(),
            family.as_str().unwrap_or_default(),
        );
        if matches!(family, IPV4 | IPV6) && family_of(ip) != family {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.push(at.index(index).invalid(ip, detail));
        }
    }
}

fn families_and_policy(service: &Value, spec: &At<'_>, errors: &mut ErrorList) {
    let at = spec.child("ipFamilies");
    let families = list_at(service, &["spec", "ipFamilies"]);
    for (index, family) in families.iter().enumerate() {
        let text = family.as_str().unwrap_or_default();
        if !matches!(text, IPV4 | IPV6) {
            errors.push(at.index(index).not_supported(text, &[IPV4, IPV6]));
        }
        if families[..index].contains(family) {
            errors.push(at.index(index).duplicate(text));
        }
    }
    let policy = family_policy(service);
    const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    if !policy.is_empty() && !POLICIES.contains(&policy) {
        errors.push(spec.child("ipFamilyPolicy").not_supported(policy, &POLICIES));
    }
}
