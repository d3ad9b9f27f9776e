//! What an Ingress must be.

use super::CLASS;
use crate::At;
use crate::check;
use crate::fields::{int_at, list, list_at, present, text, text_at, texts};
use crate::ip;
use crate::strategy::{Context, Subresource, keep};
use machinery::field::ErrorList;
use machinery::{Value, meta, names};
use std::net::IpAddr;

const NO_ADDRESS: &str = "must be a DNS name, not an IP address";

/// What older versions let pass, and what may therefore stay.
#[derive(Clone, Copy)]
struct Allowed {
    secret_names: bool,
    wildcard_rules: bool,
}

impl Allowed {
    fn of(old: Option<&Value>) -> Self {
        let is_bad = |tls: &Value| {
            let name = text(tls, "secretName");
            !name.is_empty() && !names::dns1123_subdomain(name).is_empty()
        };
        let is_bad_rule = |rule: &Value| {
            let mut errors = ErrorList::new();
            http(rule, &At::new(""), &mut errors);
            text(rule, "host").contains('*') && !errors.is_empty()
        };
        Self {
            secret_names: old.is_some_and(|old| list_at(old, &["spec", "tls"]).iter().any(is_bad)),
            wildcard_rules: old.is_some_and(|old| list_at(old, &["spec", "rules"]).iter().any(is_bad_rule)),
        }
    }
}

/// Judges the spec.
pub(super) fn spec(ingress: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let allowed = Allowed::of(old);
    let spec = ingress.get("spec").unwrap_or(&Value::Null);
    let at = At::new("spec");
    let backend = present(spec, "defaultBackend");
    if list(spec, "rules").is_empty() && backend.is_none() {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.push(at.invalid(spec.get("rules").cloned().unwrap_or_default(), why));
    }
    if let Some(backend) = backend {
        self::backend(backend, &at.child("defaultBackend"), errors);
    }
    let rules = at.child("rules");
    for (index, rule) in list(spec, "rules").iter().enumerate() {
        let at = rules.index(index);
        let name = text(rule, "host");
        if !name.is_empty() {
            if name.parse::<IpAddr>().is_ok() {
                errors.push(at.child("host").invalid(name, NO_ADDRESS));
            }
            host(name, &at.child("host"), errors);
        }
        if !name.contains('*') || !allowed.wildcard_rules {
            http(rule, &at, errors);
        }
    }
    let tls = at.child("tls");
    for (index, one) in list(spec, "tls").iter().enumerate() {
        let at = tls.index(index);
        let hosts = at.child("hosts");
        for (index, name) in texts(one, "hosts").enumerate() {
            host(name, &hosts.index(index), errors);
        }
        let secret = text(one, "secretName");
        if !secret.is_empty() && !allowed.secret_names {
            check::subdomain(secret, &at.child("secretName"), errors);
        }
    }
    check::optional_subdomain(
        present(spec, "ingressClassName"),
        &at.child("ingressClassName"),
        errors,
    );
}

/// The old way to name a class must not contradict the new one.
pub(super) fn class_annotation(ingress: &Value, errors: &mut ErrorList) {
    let class = ingress
        .get("spec")
        .and_then(|spec| present(spec, "ingressClassName"));
    if let (Some(old), Some(class)) = (meta::annotation(ingress, CLASS), class.and_then(Value::as_str))
        && old != class
    {
        let why = "must match `ingressClassName` when both are specified";
        errors.push(At::new("annotations").child(CLASS).invalid(old, why));
    }
}

fn host(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    let wrong = if name.contains('*') {
        names::wildcard_dns1123_subdomain(name)
    } else {
        names::dns1123_subdomain(name)
    };
    check::each(wrong, name, at, errors);
}

fn http(rule: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let Some(http) = present(rule, "http") else { return };
    let at = at.child("http.paths");
    let paths = list(http, "paths");
    if paths.is_empty() {
        errors.push(at.required(""));
    }
    for (index, path) in paths.iter().enumerate() {
        self::path(path, &at.index(index), errors);
    }
}

fn path(path: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let Some(kind) = present(path, "pathType").and_then(Value::as_str) else {
        errors.push(at.child("pathType").required("pathType must be specified"));
        return;
    };
    let text = text(path, "path");
    let here = at.child("path");
    match kind {
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.push(here.invalid(text, "must be an absolute path"));
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.contains(part) {
                    errors.push(here.invalid(text, format!("must not contain '{part}'")));
                }
            }
            for end in ["/..", "/."] {
                if text.ends_with(end) {
                    errors.push(here.invalid(text, format!("cannot end with '{end}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.push(here.invalid(text, "must be an absolute path"));
            }
        }
        other => errors.push(
            at.child("pathType")
                .not_supported(other, &["Exact", "ImplementationSpecific", "Prefix"]),
        ),
    }
    backend(
        path.get("backend").unwrap_or(&Value::Null),
        &at.child("backend"),
        errors,
    );
}

fn backend(backend: &Value, at: &At<'_>, errors: &mut ErrorList) {
    match (present(backend, "resource"), present(backend, "service")) {
        (Some(_), Some(_)) => errors.push(at.invalid("", "cannot set both resource and service backends")),
        (None, None) => errors.push(at.invalid("", "resource or service backend is required")),
        (Some(resource), None) => {
            let at = at.child("resource");
            check::optional_subdomain(present(resource, "apiGroup"), &at.child("apiGroup"), errors);
            for field in ["kind", "name"] {
                check::required_path_segment(text(resource, field), &at.child(field), errors);
            }
        }
        (None, Some(service)) => self::service(service, at, errors),
    }
}

fn service(service: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let name = at.child("service.name");
    match text(service, "name") {
        "" => errors.push(name.required("")),
        service => check::label(service, &name, errors),
    }
    let port = text_at(service, &["port", "name"]);
    match (port, int_at(service, &["port", "number"]).unwrap_or(0)) {
        ("", 0) => errors.push(at.required("port name or number is required")),
        ("", number) => check::port(number, &at.child("service.port.number"), errors),
        (port, 0) => check::each(
            names::port_name(port),
            port,
            &at.child("service.port.name"),
            errors,
        ),
        _ => errors.push(at.invalid("", "cannot set both port name & port number")),
    }
}

pub(super) struct Status;

impl Subresource for Status {
    fn prepare(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        const INGRESS: [&str; 3] = ["status", "loadBalancer", "ingress"];
        let mut errors = ErrorList::new();
        let at = At::new("status.loadBalancer.ingress");
        for (index, ingress) in list_at(new, &INGRESS).iter().enumerate() {
            let at = at.index(index);
            let address = text(ingress, "ip");
            let known = || {
                list_at(old, &INGRESS)
                    .iter()
                    .any(|old| text(old, "ip") == address)
            };
            if !address.is_empty()
                && let Some(wrong) = ip::wrong_address(address).filter(|_| !known())
            {
                errors.push(at.child("ip").invalid(address, wrong));
            }
            let name = text(ingress, "hostname");
            if !name.is_empty() {
                let at = at.child("hostname");
                check::subdomain(name, &at, &mut errors);
                if name.parse::<IpAddr>().is_ok() {
                    errors.push(at.invalid(name, NO_ADDRESS));
                }
            }
        }
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}
