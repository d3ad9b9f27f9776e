//! Validation of Services.

use super::addresses::{is_headless, needs_health_check_port};
use super::{cluster_ips, traffic};
use crate::At;
use crate::check;
use crate::fields::{entries, int, list, list_at, present, same, text, text_at, texts};
use crate::ip;
use machinery::field::ErrorList;
use machinery::{Value, meta};

const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// A day.
const LONGEST_AFFINITY: i64 = 86_400;

/// Judges a Service; `old` is what stood there before a change.
pub(super) fn service(service: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let spec = service.get("spec").unwrap_or(&Value::Null);
    let at = At::new("spec");
    if let (Some(mode), Some(hints)) = (meta::annotation(service, MODE), meta::annotation(service, HINTS))
        && mode != hints
    {
        let at = At::new("metadata.annotations");
        errors.push(at.key(MODE).invalid(
            mode,
            format!("must match annotations[{HINTS}] when both are specified"),
        ));
    }
    kind(service, spec, &at, errors);
    ports(service, spec, &at.child("ports"), errors);
    check::labels(entries(spec, "selector"), &at.child("selector"), errors);
    affinity(spec, &at, errors);
    cluster_ips::related_fields(service, old, errors);
    external_ips(spec, old, &at.child("externalIPs"), errors);
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    check::required_one_of(text(spec, "type"), &kinds, &at.child("type"), errors);
    port_conflicts(spec, &at.child("ports"), errors);
    source_ranges(service, spec, old, errors);
    traffic::balancer_fields(spec, &at, errors);
    traffic::policies(service, spec, &at, errors);
}

fn kind(service: &Value, spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let kind = text(spec, "type");
    if list(spec, "ports").is_empty() && !is_headless(service) && kind != "ExternalName" {
        errors.push(at.child("ports").required(""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(service) => {
            let at = at.child("clusterIPs");
            let why = format!("may not be set to 'None' for {kind} services");
            errors.push(at.index(0).invalid("None", why));
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if spec.get(field).is_some_and(|value| !value.is_empty()) {
                    errors.push(
                        at.child(field)
                            .forbidden("may not be set for ExternalName services"),
                    );
                }
            }
            let name = text(spec, "externalName");
            match name.strip_suffix('.').unwrap_or(name) {
                "" => errors.push(at.child("externalName").required("")),
                name => check::subdomain(name, &at.child("externalName"), errors),
            }
        }
        _ => {}
    }
}

fn ports(service: &Value, spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let ports = list(spec, "ports");
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        let name = text(port, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(at.child("name").required(""));
            }
        } else {
            check::label(name, &at.child("name"), errors);
            if ports[..index].iter().any(|other| text(other, "name") == name) {
                errors.push(at.child("name").duplicate(name));
            }
        }
        check::port(int(port, "port").unwrap_or(0), &at.child("port"), errors);
        let protocols = ["SCTP", "TCP", "UDP"];
        check::required_one_of(text(port, "protocol"), &protocols, &at.child("protocol"), errors);
        check::port_or_name(port.get("targetPort"), &at.child("targetPort"), errors);
        if let Some(protocol) = present(port, "appProtocol").and_then(Value::as_str) {
            check::qualified(protocol, &at.child("appProtocol"), errors);
        }
    }
    let cluster_only = text_at(service, &["spec", "type"]) == "ClusterIP";
    for (index, port) in ports.iter().enumerate().filter(|_| cluster_only) {
        if int(port, "nodePort").unwrap_or(0) != 0 {
            let at = at.index(index);
            errors.push(
                at.child("nodePort")
                    .forbidden("may not be used when `type` is 'ClusterIP'"),
            );
        }
    }
}

fn port_conflicts(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let ports = list(spec, "ports");
    let same = |field: &str, index: usize| {
        let number = int(&ports[index], field).unwrap_or(0);
        let protocol = text(&ports[index], "protocol");
        let repeated = ports[..index]
            .iter()
            .any(|other| int(other, field).unwrap_or(0) == number && text(other, "protocol") == protocol);
        (number, repeated)
    };
    for index in 0..ports.len() {
        let (number, repeated) = same("nodePort", index);
        if number != 0 && repeated {
            let at = at.index(index);
            errors.push(at.child("nodePort").duplicate(number));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let (number, repeated) = same("port", index);
        if repeated {
            let mut shown = Value::object();
            shown.set_path(&["port"], number);
            shown.set_path(&["protocol"], text(port, "protocol"));
            errors.push(at.index(index).duplicate(shown));
        }
    }
}

fn affinity(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let affinity = text(spec, "sessionAffinity");
    check::required_one_of(
        affinity,
        &["ClientIP", "None"],
        &at.child("sessionAffinity"),
        errors,
    );
    let config = present(spec, "sessionAffinityConfig");
    let at = at.child("sessionAffinityConfig");
    match (affinity, config) {
        ("None", Some(_)) => errors.push(at.forbidden("must not be set when session affinity is None")),
        ("ClientIP", config) => {
            let why = "when session affinity type is ClientIP";
            let client = config.and_then(|config| present(config, "clientIP"));
            match (
                config,
                client,
                client.and_then(|client| int(client, "timeoutSeconds")),
            ) {
                (None, ..) => errors.push(at.required(why)),
                (_, None, _) => errors.push(at.child("clientIP").required(why)),
                (.., None) => errors.push(at.child("clientIP.timeoutSeconds").required(why)),
                (.., Some(seconds)) if !(1..=LONGEST_AFFINITY).contains(&seconds) => {
                    let why = format!("must be greater than 0 and less than {LONGEST_AFFINITY}");
                    errors.push(at.child("clientIP.timeoutSeconds").invalid(seconds, why));
                }
                _ => {}
            }
        }
        _ => {}
    }
}

fn external_ips(spec: &Value, old: Option<&Value>, at: &At<'_>, errors: &mut ErrorList) {
    let known = |ip: &str| {
        let before = old
            .map(|old| list_at(old, &["spec", "externalIPs"]))
            .unwrap_or_default();
        before.iter().any(|other| other.as_str() == Some(ip))
    };
    for (index, address) in texts(spec, "externalIPs").enumerate() {
        let at = at.index(index);
        match ip::wrong_address(address).filter(|_| !known(address)) {
            Some(wrong) => errors.push(at.invalid(address, wrong)),
            None => endpoint_ip(address, &at, errors),
        }
    }
}

/// An address something can be reached at from other machines.
pub(crate) fn endpoint_ip(text: &str, at: &At<'_>, errors: &mut ErrorList) {
    let Ok(ip) = text.parse::<std::net::IpAddr>() else {
        return;
    };
    let (link_local, multicast) = match ip {
        std::net::IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] == 0xff02),
    };
    if ip.is_unspecified() {
        errors.push(at.invalid(text, format!("may not be unspecified ({text})")));
    }
    if ip.is_loopback() {
        errors.push(at.invalid(text, "may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    if link_local {
        errors.push(at.invalid(
            text,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ));
    }
    if multicast {
        let why = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errors.push(at.invalid(text, why));
    }
}

fn source_ranges(service: &Value, spec: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    const WHY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = text(spec, "type") == "LoadBalancer";
    if !list(spec, "loadBalancerSourceRanges").is_empty() {
        let at = At::new("spec.LoadBalancerSourceRanges");
        if !balanced {
            errors.push(at.forbidden(WHY));
        }
        let before: Vec<&str> = old
            .map(|old| list_at(old, &["spec", "loadBalancerSourceRanges"]))
            .unwrap_or_default()
            .iter()
            .filter_map(|range| range.as_str().map(str::trim))
            .collect();
        for (index, range) in texts(spec, "loadBalancerSourceRanges").map(str::trim).enumerate() {
            if let Some(wrong) = ip::wrong_network(range).filter(|_| !before.contains(&range)) {
                errors.push(at.index(index).invalid(range, wrong));
            }
        }
    } else if let Some(ranges) = meta::annotation(service, SOURCE_RANGES) {
        let at = At::new("metadata.annotations");
        let at = at.key(SOURCE_RANGES);
        if !balanced {
            errors.push(at.forbidden(WHY));
        }
        let changed = old.is_none_or(|old| meta::annotation(old, SOURCE_RANGES) != Some(ranges));
        for range in ranges
            .split(',')
            .map(str::trim)
            .filter(|_| changed && !ranges.trim().is_empty())
        {
            if let Some(wrong) = ip::wrong_network(range) {
                errors.push(at.invalid(range, wrong));
            }
        }
    }
}

/// Judges a change: the first address and family stay, and others need the word for it.
pub(super) fn update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = At::new("spec");
    let kind = |service| text_at(service, &["spec", "type"]);
    let external = kind(new) == "ExternalName" || kind(old) == "ExternalName";
    let stays_headless = is_headless(new) && is_headless(old);
    if !external && !stays_headless {
        stays(new, old, "clusterIPs", "clusterIP", &at, &mut errors);
    }
    if !external && !is_headless(new) && !is_headless(old) {
        stays(new, old, "ipFamilies", "ipFamily", &at, &mut errors);
    }
    if kind(new) == "LoadBalancer"
        && kind(old) == "LoadBalancer"
        && !same(new, old, &["spec", "loadBalancerClass"])
    {
        let class = new
            .get_path(&["spec", "loadBalancerClass"])
            .cloned()
            .unwrap_or_default();
        errors.push(
            at.child("loadBalancerClass")
                .invalid(class, "may not change once set"),
        );
    }
    if needs_health_check_port(new)
        && needs_health_check_port(old)
        && !same(new, old, &["spec", "healthCheckNodePort"])
    {
        errors.push(at.child("healthCheckNodePort").forbidden(check::IMMUTABLE));
    }
    service(new, Some(old), &mut errors);
    errors
}

fn stays(new: &Value, old: &Value, field: &str, one: &str, at: &At<'_>, errors: &mut ErrorList) {
    const WHY: &str = "may not change once set";
    let (news, olds) = (list_at(new, &["spec", field]), list_at(old, &["spec", field]));
    let shown = || Value::Array(news.to_vec());
    let here = at.child(field);
    if news.len() == olds.len() {
        for (index, (new, old)) in news.iter().zip(olds).enumerate() {
            if new != old {
                let index = if field == "clusterIPs" { index } else { 0 };
                errors.push(here.index(index).invalid(shown(), WHY));
            }
        }
        return;
    }
    match (news.first(), olds.first()) {
        (None, Some(_)) => errors.push(
            here.index(0)
                .invalid(shown(), format!("primary {one} can not be unset")),
        ),
        (Some(new), Some(old)) if new != old => errors.push(here.index(0).invalid(shown(), WHY)),
        _ => {}
    }
    let policy = text_at(new, &["spec", "ipFamilyPolicy"]);
    if news.len() < olds.len() && news.len() == 1 && policy != "SingleStack" {
        let why = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        errors.push(at.child("ipFamilyPolicy").invalid(policy, why));
    }
}

/// Judges the addresses of load balancers in a status.
pub(super) fn status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = At::new("status.loadBalancer.ingress");
    let ingress = list_at(new, &["status", "loadBalancer", "ingress"]);
    if text_at(new, &["spec", "type"]) != "LoadBalancer" && !ingress.is_empty() {
        errors.push(at.forbidden("may only be used when `spec.type` is 'LoadBalancer'"));
        return errors;
    }
    let before = list_at(old, &["status", "loadBalancer", "ingress"]);
    for (index, one) in ingress.iter().enumerate() {
        let at = at.index(index);
        let address = text(one, "ip");
        let known = before.iter().any(|other| text(other, "ip") == address);
        if !address.is_empty()
            && let Some(wrong) = ip::wrong_address(address).filter(|_| !known)
        {
            errors.push(at.child("ip").invalid(address, wrong));
        }
        match present(one, "ipMode").and_then(Value::as_str) {
            None if !address.is_empty() => {
                errors.push(at.child("ipMode").required("must be specified when `ip` is set"));
            }
            Some(_) if address.is_empty() => {
                errors.push(
                    at.child("ipMode")
                        .forbidden("may not be specified when `ip` is not set"),
                );
            }
            Some(mode) => check::one_of(mode, &["Proxy", "VIP"], &at.child("ipMode"), &mut errors),
            None => {}
        }
        let host = text(one, "hostname");
        if !host.is_empty() {
            check::subdomain(host, &at.child("hostname"), &mut errors);
            if host.parse::<std::net::IpAddr>().is_ok() {
                errors.push(
                    at.child("hostname")
                        .invalid(host, "must be a DNS name, not an IP address"),
                );
            }
        }
    }
    errors
}
