//! Validation of where a Service's traffic comes from and goes to.

use super::addresses::needs_health_check_port;
use super::externally_accessible;
use crate::At;
use crate::check;
use crate::fields::{int, present, text};
use machinery::Value;
use machinery::field::ErrorList;

/// Fields only a load balancer's Service has.
pub(super) fn balancer_fields(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const WHY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = text(spec, "type") == "LoadBalancer";
    match present(spec, "allocateLoadBalancerNodePorts") {
        Some(_) if !balanced => errors.push(at.child("allocateLoadBalancerNodePorts").forbidden(WHY)),
        None if balanced => errors.push(At::new("allocateLoadBalancerNodePorts").required("")),
        _ => {}
    }
    if let Some(class) = present(spec, "loadBalancerClass").and_then(Value::as_str) {
        let at = at.child("loadBalancerClass");
        if balanced {
            check::qualified(class, &at, errors);
        } else {
            errors.push(at.forbidden(WHY));
        }
    }
}

/// Policies of traffic from outside and inside.
pub(super) fn policies(service: &Value, spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let policies = ["Cluster", "Local"];
    let policy = text(spec, "externalTrafficPolicy");
    let external = at.child("externalTrafficPolicy");
    if externally_accessible(spec) {
        check::required_one_of(policy, &policies, &external, errors);
    } else if !policy.is_empty() {
        errors.push(external.invalid(policy, "may only be set for externally-accessible services"));
    }
    let port = int(spec, "healthCheckNodePort").unwrap_or(0);
    let at_port = at.child("healthCheckNodePort");
    match (needs_health_check_port(service), port) {
        (false, 0) => {}
        (false, port) => {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(at_port.invalid(port, why));
        }
        (true, 0) => errors.push(at_port.required("")),
        (true, port) => check::port(port, &at_port, errors),
    }
    let internal = at.child("internalTrafficPolicy");
    match present(spec, "internalTrafficPolicy").and_then(Value::as_str) {
        Some(policy) => check::one_of(policy, &policies, &internal, errors),
        None if matches!(text(spec, "type"), "NodePort" | "LoadBalancer" | "ClusterIP") => {
            errors.push(internal.required(""));
        }
        None => {}
    }
    if let Some(distribution) = present(spec, "trafficDistribution").and_then(Value::as_str) {
        let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        check::one_of(distribution, &known, &at.child("trafficDistribution"), errors);
    }
}
