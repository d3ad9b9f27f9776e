//! Which address families a Service has: what the client said, completed by what the cluster has.

use super::addresses::{NONE, family_policy, is_selectorless, needs_cluster_ip, set_ips};
use super::cluster_ips;
use crate::At;
use crate::fields::{list_at, same, text_at};
use machinery::Value;
use machinery::field::ErrorList;

/// `IPv4` or `IPv6`.
pub type Family = &'static str;

pub const IPV4: Family = "IPv4";
pub const IPV6: Family = "IPv6";

/// The family of an address, by its text.
pub fn family_of(ip: &str) -> Family {
    if ip.contains(':') { IPV6 } else { IPV4 }
}

fn other(family: &str) -> Family {
    if family == IPV4 { IPV6 } else { IPV4 }
}

/// Completes `ipFamilyPolicy` and `ipFamilies`; `configured` are the cluster's families, the default first.
pub fn init(new: &mut Value, old: Option<&Value>, configured: &[Family]) -> ErrorList {
    if !needs_cluster_ip(new) || old.is_some_and(|old| is_matching_prefer_dual_stack(new, old)) {
        return ErrorList::new();
    }
    let headless = text_at(new, &["spec", "clusterIP"]) == NONE && is_selectorless(new);
    if family_policy(new).is_empty() {
        let before = old.map(family_policy).unwrap_or_default();
        let policy = match (before, headless) {
            ("", true) => "RequireDualStack",
            ("", false) => "SingleStack",
            (before, _) => before,
        };
        new.set_path(&["spec", "ipFamilyPolicy"], policy);
    }
    let mut errors = ErrorList::new();
    cluster_ips::related_fields(new, old, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    if let Some(old) = old {
        shrink(new, old, &mut errors);
    }
    check_single(new, &mut errors);
    infer_from_addresses(new, configured, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    if headless {
        complete_headless(new, configured);
        return errors;
    }
    check_configured(new, configured, &mut errors);
    if errors.is_empty() {
        complete(new, configured);
    }
    errors
}

fn families(service: &Value) -> &[Value] {
    list_at(service, &["spec", "ipFamilies"])
}

fn ips(service: &Value) -> &[Value] {
    list_at(service, &["spec", "clusterIPs"])
}

fn is_single(service: &Value) -> bool {
    family_policy(service) == "SingleStack"
}

fn policy_invalid(service: &Value, detail: &str) -> machinery::field::Error {
    At::new("spec.ipFamilyPolicy").invalid(family_policy(service), detail)
}

/// Going back to one family drops the second address; dropping the second address needs the word for it.
fn shrink(new: &mut Value, old: &Value, errors: &mut ErrorList) {
    if is_single(new) {
        if same(new, old, &["spec", "clusterIPs"]) && ips(new).len() > 1 {
            let first = ips(new)[..1].to_vec();
            set_ips(new, first);
        }
        if same(new, old, &["spec", "ipFamilies"]) && families(new).len() > 1 {
            let first = families(new)[..1].to_vec();
            new.set_path(&["spec", "ipFamilies"], first);
        }
        return;
    }
    let reduced = |new: &[Value], old: &[Value]| !new.is_empty() && new.len() < old.len();
    if reduced(ips(new), ips(old)) {
        errors.push(policy_invalid(
            new,
            "must be 'SingleStack' to release the secondary cluster IP",
        ));
    }
    if reduced(families(new), families(old)) {
        errors.push(policy_invalid(
            new,
            "must be 'SingleStack' to release the secondary IP family",
        ));
    }
}

fn check_single(service: &Value, errors: &mut ErrorList) {
    if !is_single(service) {
        return;
    }
    if ips(service).len() == 2 {
        let detail =
            "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified";
        errors.push(policy_invalid(service, detail));
    }
    if families(service).len() == 2 {
        let detail =
            "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
        errors.push(policy_invalid(service, detail));
    }
}

fn infer_from_addresses(service: &mut Value, configured: &[Family], errors: &mut ErrorList) {
    let mut known = families(service).to_vec();
    let before = known.len();
    for (at, ip) in ips(service).iter().filter_map(Value::as_str).enumerate() {
        if ip == NONE {
            break;
        }
        if at < known.len() {
            continue;
        }
        let family = family_of(ip);
        if configured.contains(&family) {
            known.push(family.into());
        } else {
            let all = Value::Array(ips(service).to_vec());
            let detail = format!("{family} is not configured on this cluster");
            errors.push(At::new("spec.clusterIPs").index(at).invalid(all, detail));
        }
    }
    if known.len() > before {
        service.set_path(&["spec", "ipFamilies"], known);
    }
}

/// Endpoints that somebody else makes may be of any family.
fn complete_headless(service: &mut Value, configured: &[Family]) {
    let mut known = families(service).to_vec();
    if known.is_empty() {
        known.extend(configured.first().map(|family| Value::from(*family)));
    }
    if known.len() == 1 && !is_single(service) {
        known.push(other(known[0].as_str().unwrap_or(IPV4)).into());
    }
    service.set_path(&["spec", "ipFamilies"], known);
}

fn check_configured(service: &Value, configured: &[Family], errors: &mut ErrorList) {
    if family_policy(service) == "RequireDualStack" && configured.len() < 2 {
        errors.push(policy_invalid(
            service,
            "this cluster is not configured for dual-stack services",
        ));
    }
    for (at, family) in families(service).iter().filter_map(Value::as_str).enumerate() {
        if !configured.contains(&family) {
            let path = At::new("spec.ipFamilies");
            errors.push(path.index(at).invalid(family, "not configured on this cluster"));
        }
    }
}

fn complete(service: &mut Value, configured: &[Family]) {
    let mut known = families(service).to_vec();
    if known.is_empty() {
        known.extend(configured.first().map(|family| Value::from(*family)));
    }
    if known.len() == 1 && configured.len() == 2 && !is_single(service) {
        known.push(other(known[0].as_str().unwrap_or(IPV4)).into());
    }
    service.set_path(&["spec", "ipFamilies"], known);
}

/// A Service that prefers two families stays as it is when the cluster's families change.
pub(super) fn is_matching_prefer_dual_stack(new: &Value, old: &Value) -> bool {
    let kind = text_at(new, &["spec", "type"]);
    kind == text_at(old, &["spec", "type"])
        && matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer")
        && family_policy(new) == "PreferDualStack"
        && matches!(family_policy(old), "" | "PreferDualStack")
        && same(new, old, &["spec", "clusterIPs"])
        && same(new, old, &["spec", "ipFamilies"])
}
