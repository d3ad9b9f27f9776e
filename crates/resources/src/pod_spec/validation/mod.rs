//! Validation of a pod's spec, by upstream's `ValidatePodSpec`, in its order.
//!
//! ```text
//! pod_spec ─► volumes ─► containers (env, ports, mounts, probes, resources, security) ─► the pod's own fields
//! ```

mod affinity;
mod containers;
mod dns;
mod env;
mod mounts;
pub mod operating_system;
mod pod_resources;
mod probes;
mod resources;
mod restart;
mod security;
mod template;
mod tolerations;
mod topology;
pub mod volumes;
mod windows;

pub use affinity::{node_selector, node_selector_term};
pub(crate) use containers::only_for_pods;
pub use resources::{
    container_resource_name, is_extended, is_hugepage, is_native, may_overcommit, quantity_value,
    requirements, resource_name,
};
pub use template::{pod_template, running_template};
pub use tolerations::{only_added, taint_effect, tolerations};
pub use volumes::paths;

use crate::At;
use crate::check;
use crate::fields::{entries, flag, int, list, present, text};
use machinery::Value;
use machinery::field::ErrorList;

/// What holds the spec.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// A pod itself; otherwise a template.
    pub is_pod: bool,
    /// The pod's name, for the claims made for it.
    pub name: &'a str,
    pub mirror: bool,
}

impl Holder<'_> {
    pub const TEMPLATE: Self = Self {
        is_pod: false,
        name: "",
        mirror: false,
    };
}

/// What the parts of a spec need to know of its whole.
struct Scope<'a> {
    spec: &'a Value,
    holder: Holder<'a>,
    /// Volumes nothing is wrong with.
    volumes: Vec<(&'a str, &'a Value)>,
    claims: Vec<&'a str>,
    grace: Option<i64>,
    restart_policy: &'a str,
    host_users: bool,
}

/// Judges a template's spec, as Deployments and others have it.
pub fn template_spec(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    pod_spec(spec, Holder::TEMPLATE, at, errors);
}

/// Judges a pod's spec.
pub fn pod_spec(spec: &Value, holder: Holder<'_>, at: &At<'_>, errors: &mut ErrorList) {
    let grace = int(spec, "terminationGracePeriodSeconds");
    if grace.is_none() {
        errors.push(at.child("terminationGracePeriodSeconds").required(""));
    }
    let scope = Scope {
        spec,
        holder,
        volumes: volumes::volumes(spec, holder, &at.child("volumes"), errors),
        claims: list(spec, "resourceClaims")
            .iter()
            .map(|c| text(c, "name"))
            .filter(|n| !n.is_empty())
            .collect(),
        grace,
        restart_policy: text(spec, "restartPolicy"),
        host_users: spec.get("hostUsers") != Some(&Value::Bool(false)),
    };
    resources::pod_claims(spec, holder, &at.child("resourceClaims"), errors);
    containers::all(&scope, at, errors);
    pod_resources::pod_resources(&scope, at, errors);
    containers::host_network_ports(&scope, at, errors);
    let policies = ["Always", "OnFailure", "Never"];
    check::required_one_of(
        scope.restart_policy,
        &policies,
        &at.child("restartPolicy"),
        errors,
    );
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    check::required_one_of(text(spec, "dnsPolicy"), &policies, &at.child("dnsPolicy"), errors);
    check::labels(entries(spec, "nodeSelector"), &at.child("nodeSelector"), errors);
    security::pod_context(spec, at, errors);
    if let Some(affinity) = present(spec, "affinity") {
        affinity::affinity(affinity, &at.child("affinity"), errors);
    }
    dns::dns_config(spec, &at.child("dnsConfig"), errors);
    gates(spec, at, errors);
    topology::spread_constraints(spec, &at.child("topologySpreadConstraints"), errors);
    windows::host_process(spec, at, errors);
    security::host_users(&scope, at, errors);
    names(spec, at, errors);
    if !list(spec, "tolerations").is_empty() {
        tolerations(list(spec, "tolerations"), &at.child("tolerations"), errors);
    }
    dns::host_aliases(spec, &at.child("hostAliases"), errors);
    classes(spec, at, errors);
    operating_system::operating_system(spec, at, errors);
    env::file_key_volumes(&scope, at, errors);
}

fn gates(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let readiness = at.child("readinessGates");
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        let at = readiness.index(index);
        check::qualified(text(gate, "conditionType"), &at.child("conditionType"), errors);
    }
    let scheduling = at.child("schedulingGates");
    let gates = list(spec, "schedulingGates");
    for (index, gate) in gates.iter().enumerate() {
        let name = text(gate, "name");
        check::qualified(name, &scheduling.index(index), errors);
        if gates[..index].iter().any(|other| text(other, "name") == name) {
            errors.push(scheduling.index(index).duplicate(name));
        }
    }
}

fn names(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    dns::hostname_override(spec, at, errors);
    for field in ["serviceAccountName", "nodeName"] {
        let name = text(spec, field);
        if !name.is_empty() {
            check::subdomain(name, &at.child(field), errors);
        }
    }
    if let Some(seconds) = int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let why = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.push(at.child("activeDeadlineSeconds").invalid(seconds, why));
    }
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            check::label(name, &at.child(field), errors);
        }
    }
}

fn classes(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let class = text(spec, "priorityClassName");
    if !class.is_empty() {
        check::subdomain(class, &at.child("priorityClassName"), errors);
    }
    if let Some(class) = present(spec, "runtimeClassName").and_then(Value::as_str) {
        check::subdomain(class, &at.child("runtimeClassName"), errors);
    }
    if let Some(policy) = present(spec, "preemptionPolicy").and_then(Value::as_str) {
        let policies = ["PreemptLowerPriority", "Never"];
        check::required_one_of(policy, &policies, &at.child("preemptionPolicy"), errors);
    }
    if let Some(overhead) = present(spec, "overhead") {
        resources::overhead(overhead, &at.child("overhead"), errors);
    }
}

/// The containers of every kind, each with the field it stands in and its place there.
pub(crate) fn every_container(spec: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| {
            list(spec, field)
                .iter()
                .enumerate()
                .map(move |(index, one)| (field, index, one))
        })
}

/// Whether the pod shares the host's network.
fn host_network(spec: &Value) -> bool {
    flag(spec, "hostNetwork")
}
