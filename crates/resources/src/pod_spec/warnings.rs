//! Warnings about a pod, or a template of pods: what is allowed, but hardly meant.

use super::app_armor;
use super::validation::every_container;
use crate::At;
use crate::fields::{entries, int, list, list_at, present, same, text, text_at, texts};
use crate::ip;
use machinery::quantity::Quantity;
use machinery::{Value, meta, names};

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const NO_SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// What is warned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Pod,
    Template,
}

/// Warnings for the template of a new workload, or of one whose generation rose.
pub fn template_warnings(object: &Value, old: Option<&Value>, path: &[&str]) -> Vec<String> {
    if old.is_some_and(|old| same(object, old, &["metadata", "generation"])) {
        return Vec::new();
    }
    let Some(template) = object.get_path(path) else {
        return Vec::new();
    };
    let path = path.join(".");
    warnings(template, Of::Template, &At::new(&path))
}

/// Warnings for a pod or a template.
pub fn warnings(holder: &Value, of: Of, at: &At<'_>) -> Vec<String> {
    let Some(spec) = holder.get("spec") else {
        return Vec::new();
    };
    let mut out = Vec::new();
    let here = at.child("spec");
    nodes(spec, &here, &mut out);
    annotations(holder, &at.child("metadata.annotations"), &mut out);
    volumes(spec, &here.child("volumes"), &mut out);
    references(spec, &here, &mut out);
    fractions(spec.get("overhead"), &here.child("overhead"), &mut out);
    profiles(holder, spec, of, &at.child("metadata.annotations"), &mut out);
    for (field, index, container) in every_container(spec) {
        let at = here.child(field);
        self::container(container, &at.index(index), &mut out);
    }
    ports(spec, &here, &mut out);
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        let why = "must be >= 0; negative values are invalid and will be treated as 1";
        warn(&here.child("terminationGracePeriodSeconds"), why, &mut out);
    }
    pod_affinity(spec, &here.child("affinity"), &mut out);
    addresses(spec, &here, &mut out);
    out
}

fn warn(at: &At<'_>, why: &str, out: &mut Vec<String>) {
    out.push(format!("{}: {why}", at.path()));
}

/// Labels of nodes that have another name now, or none.
fn deprecated_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            "deprecated since v1.22; use Taints and Tolerations instead"
        }
        "node-role.kubernetes.io/master" => "use \"node-role.kubernetes.io/control-plane\" instead",
        _ => return None,
    })
}

fn nodes(spec: &Value, at: &At<'_>, out: &mut Vec<String>) {
    for (key, _) in entries(spec, "nodeSelector") {
        if let Some(why) = deprecated_label(key) {
            let at = at.child("nodeSelector");
            warn(&at.key(key), why, out);
        }
    }
    let here = at.child("affinity.nodeAffinity");
    let affinity = spec
        .get_path(&["affinity", "nodeAffinity"])
        .unwrap_or(&Value::Null);
    let required = here.child(REQUIRED);
    let required = required.child("nodeSelectorTerms");
    for (index, term) in list_at(affinity, &[REQUIRED, "nodeSelectorTerms"])
        .iter()
        .enumerate()
    {
        self::term(term, false, &required.index(index), out);
    }
    let preferred = here.child(PREFERRED);
    for (index, term) in list(affinity, PREFERRED).iter().enumerate() {
        let at = preferred.index(index);
        if let Some(preference) = term.get("preference") {
            self::term(preference, true, &at.child("preference"), out);
        }
    }
    let here = at.child("topologySpreadConstraints");
    for (index, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let at = here.index(index);
        let key = text(constraint, "topologyKey");
        if let Some(why) = deprecated_label(key) {
            warn(&at.child("topologyKey"), &format!("{key} is {why}"), out);
        }
        if present(constraint, "labelSelector").is_none() {
            warn(&at.child("labelSelector"), NO_SELECTOR, out);
        }
    }
}

fn term(term: &Value, judge_values: bool, at: &At<'_>, out: &mut Vec<String>) {
    let at = at.child("matchExpressions");
    for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
        let at = at.index(index);
        let key = text(expression, "key");
        if let Some(why) = deprecated_label(key) {
            warn(&at.child("key"), &format!("{key} is {why}"), out);
        }
        if !judge_values {
            continue;
        }
        let at = at.child("values");
        for (index, value) in texts(expression, "values").enumerate() {
            for why in names::label_value(value) {
                warn(&at.index(index), &format!("{value} is invalid, {why}"), out);
            }
        }
    }
}

fn annotations(holder: &Value, at: &At<'_>, out: &mut Vec<String>) {
    const CRITICAL: &str = "non-functional in v1.16+; use the \"priorityClassName\" field instead";
    const SYSCTLS: &str = "non-functional in v1.11+; use the \"sysctls\" field instead";
    for (key, why) in [
        ("scheduler.alpha.kubernetes.io/critical-pod", CRITICAL),
        ("security.alpha.kubernetes.io/sysctls", SYSCTLS),
        ("security.alpha.kubernetes.io/unsafe-sysctls", SYSCTLS),
    ] {
        if meta::annotation(holder, key).is_some() {
            warn(&at.key(key), why, out);
        }
    }
}

fn volumes(spec: &Value, at: &At<'_>, out: &mut Vec<String>) {
    const OLD: [(&str, &str, &str); 9] = [
        (
            "photonPersistentDisk",
            "photonPersistentDisk",
            "deprecated in v1.11, non-functional in v1.16+",
        ),
        (
            "gitRepo",
            "gitRepo",
            "deprecated in v1.11, and disabled by default in v1.33+",
        ),
        (
            "scaleIO",
            "scaleIO",
            "deprecated in v1.16, non-functional in v1.22+",
        ),
        (
            "flocker",
            "flocker",
            "deprecated in v1.22, non-functional in v1.25+",
        ),
        (
            "storageos",
            "storageOS",
            "deprecated in v1.22, non-functional in v1.25+",
        ),
        (
            "quobyte",
            "quobyte",
            "deprecated in v1.22, non-functional in v1.25+",
        ),
        (
            "glusterfs",
            "glusterfs",
            "deprecated in v1.25, non-functional in v1.26+",
        ),
        (
            "cephfs",
            "cephfs",
            "deprecated in v1.28, non-functional in v1.31+",
        ),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let at = at.index(index);
        for (field, shown, why) in OLD {
            if present(volume, field).is_some() {
                warn(&at.child(shown), why, out);
            }
        }
        if let Some(claim) = volume.get_path(&["ephemeral", "volumeClaimTemplate", "spec"]) {
            claim_warnings(claim, &at.child("ephemeral.volumeClaimTemplate.spec"), out);
        }
    }
}

/// Warnings for the spec of a claim.
pub fn claim_warnings(spec: &Value, at: &At<'_>, out: &mut Vec<String>) {
    for side in ["requests", "limits"] {
        let at = at.child("resources");
        let at = at.child(side);
        let amount = text_at(spec, &["resources", side, "storage"]);
        fraction(amount, &at.key("storage"), out);
    }
}

/// Lists that are keyed by name, where names repeat.
fn references(spec: &Value, at: &At<'_>, out: &mut Vec<String>) {
    for (field, key) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let at = at.child(field);
        let all = list(spec, field);
        for (index, one) in all.iter().enumerate() {
            let value = text(one, key);
            if all[..index].iter().any(|other| text(other, key) == value) {
                let at = at.index(index);
                warn(&at.child(key), &format!("duplicate {key} {value:?}"), out);
            }
        }
    }
    let at = at.child("imagePullSecrets");
    for (index, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            let at = at.index(index);
            warn(&at.child("name"), "invalid empty name \"\"", out);
        }
    }
}

fn fractions(amounts: Option<&Value>, at: &At<'_>, out: &mut Vec<String>) {
    let Some(amounts) = amounts else { return };
    for name in ["memory", "ephemeral-storage"] {
        fraction(text(amounts, name), &at.key(name), out);
    }
}

fn fraction(amount: &str, at: &At<'_>, out: &mut Vec<String>) {
    if amount
        .parse::<Quantity>()
        .is_ok_and(|amount| amount.milli_value() % 1000 != 0)
    {
        let why = format!("fractional byte value {amount:?} is invalid, must be an integer");
        warn(at, &why, out);
    }
}

/// Profiles in annotations, where a field takes their place.
fn profiles(holder: &Value, spec: &Value, of: Of, at: &At<'_>, out: &mut Vec<String>) {
    const SECCOMP: [&str; 2] = ["securityContext", "seccompProfile"];
    const APP_ARMOR: [&str; 2] = ["securityContext", "appArmorProfile"];
    let missing = |holder: &Value, path: &[&str]| holder.get_path(path).is_none_or(Value::is_null);
    if missing(spec, &SECCOMP) && meta::annotation(holder, SECCOMP_POD).is_some() {
        warn(&at.key(SECCOMP_POD), NO_SECCOMP, out);
    }
    for (_, _, container) in every_container(spec) {
        let name = text(container, "name");
        let key = format!("{SECCOMP_CONTAINER}{name}");
        if missing(container, &SECCOMP) && meta::annotation(holder, &key).is_some() {
            warn(&at.key(&key), NO_SECCOMP, out);
        }
        let key = format!("{}{name}", app_armor::PREFIX);
        if of == Of::Template
            && missing(container, &APP_ARMOR)
            && let Some(annotation) = meta::annotation(holder, &key)
            && (missing(spec, &APP_ARMOR)
                || spec.get_path(&APP_ARMOR) != app_armor::profile(annotation).as_ref())
        {
            let why = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
            warn(&at.key(&key), why, out);
        }
    }
}

fn container(container: &Value, at: &At<'_>, out: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        for side in ["limits", "requests"] {
            let at = at.child("resources");
            let at = at.child(side);
            fraction(text_at(container, &["resources", side, name]), &at.key(name), out);
        }
    }
    let at = at.child("env");
    let variables = list(container, "env");
    for (index, variable) in variables.iter().enumerate() {
        let name = text(variable, "name");
        if !variables[..index].iter().any(|other| text(other, "name") == name) {
            continue;
        }
        // One that builds on the one before is meant.
        let (value, before) = (text(variable, "value"), format!("$({name})"));
        if present(variable, "valueFrom").is_some() || value == before || !value.contains(&before) {
            let why = format!("hides previous definition of {name:?}, which may be dropped when using apply");
            warn(&at.index(index), &why, out);
        }
    }
}

/// A port, and where it stands.
struct Port<'a> {
    port: &'a Value,
    place: String,
}

impl Port<'_> {
    fn number(&self, field: &str) -> i64 {
        int(self.port, field).unwrap_or(0)
    }

    fn text(&self, field: &str) -> &str {
        text(self.port, field)
    }
}

fn ports(spec: &Value, at: &At<'_>, out: &mut Vec<String>) {
    let mut all: Vec<Port<'_>> = Vec::new();
    for (field, index, container) in every_container(spec) {
        let at = at.child(field);
        let at = at.index(index);
        let at = at.child("ports");
        for (index, port) in list(container, "ports").iter().enumerate() {
            let place = at.index(index).path().to_string();
            all.push(Port { port, place });
        }
    }
    for (index, port) in all.iter().enumerate() {
        let (host, address) = (port.number("hostPort"), port.text("hostIP"));
        if !address.is_empty() && host == 0 {
            out.push(format!(
                "{}: hostIP set without hostPort: {{Name:{} HostPort:{host} ContainerPort:{} Protocol:{} HostIP:{address}}}",
                port.place,
                port.text("name"),
                port.number("containerPort"),
                port.text("protocol"),
            ));
        }
        let same_place = |other: &&Port<'_>| {
            other.number("containerPort") == port.number("containerPort")
                && other.text("protocol") == port.text("protocol")
        };
        for other in all[..index].iter().filter(same_place) {
            let (others_host, others_address) = (other.number("hostPort"), other.text("hostIP"));
            let what = if address == others_address && host == others_host {
                "duplicate"
            } else if host == 0 || others_host == 0 {
                "overlapping"
            } else if host == others_host && address.is_empty() != others_address.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            out.push(format!(
                "{}: {what} port definition with {}",
                port.place, other.place
            ));
        }
    }
    for (index, port) in all.iter().enumerate() {
        let name = port.text("name");
        let first = all[..index].iter().find(|other| other.text("name") == name);
        if let Some(first) = first.filter(|_| !name.is_empty()) {
            out.push(format!(
                "{}: duplicate port name {name:?} with {}, services and probes that select ports by name will use {}",
                port.place, first.place, first.place
            ));
        }
    }
}

fn pod_affinity(spec: &Value, at: &At<'_>, out: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.get_path(&["affinity", kind]) else {
            continue;
        };
        let at = at.child(kind);
        let here = at.child(REQUIRED);
        for (index, term) in list(affinity, REQUIRED).iter().enumerate() {
            if present(term, "labelSelector").is_none() {
                let at = here.index(index);
                warn(&at.child("labelSelector"), NO_SELECTOR, out);
            }
        }
        let here = at.child(PREFERRED);
        for (index, term) in list(affinity, PREFERRED).iter().enumerate() {
            if term
                .get_path(&["podAffinityTerm", "labelSelector"])
                .is_none_or(Value::is_null)
            {
                let at = here.index(index);
                warn(&at.child("podAffinityTerm.labelSelector"), NO_SELECTOR, out);
            }
        }
    }
}

fn addresses(spec: &Value, at: &At<'_>, out: &mut Vec<String>) {
    let servers = at.child("dnsConfig.nameservers");
    let config = spec.get("dnsConfig").unwrap_or(&Value::Null);
    for (index, server) in texts(config, "nameservers").enumerate() {
        out.extend(ip::warning(server, &servers.index(index)));
    }
    let aliases = at.child("hostAliases");
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        let at = aliases.index(index);
        out.extend(ip::warning(text(alias, "ip"), &at.child("ip")));
    }
}
