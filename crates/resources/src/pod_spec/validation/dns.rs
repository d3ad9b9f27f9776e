//! How a pod finds names, and its own name.

use super::host_network;
use crate::At;
use crate::check;
use crate::fields::{flag, list, present, text, texts};
use crate::ip;
use machinery::Value;
use machinery::field::ErrorList;

const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCHES: usize = 2048;

/// Judges `dnsConfig`.
pub(super) fn dns_config(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let config = present(spec, "dnsConfig");
    let servers = config
        .map(|config| list(config, "nameservers"))
        .unwrap_or_default();
    if text(spec, "dnsPolicy") == "None" {
        if config.is_none() {
            errors.push(at.required("must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(at.child("nameservers").required(why));
            return;
        }
    }
    let Some(config) = config else { return };
    let at_servers = at.child("nameservers");
    if servers.len() > MOST_SERVERS {
        let why = format!("must not have more than {MOST_SERVERS} nameservers");
        errors.push(at_servers.invalid(Value::Array(servers.to_vec()), why));
    }
    for (index, server) in texts(config, "nameservers").enumerate() {
        if let Some(wrong) = ip::wrong_address(server) {
            errors.push(at_servers.index(index).invalid(server, wrong));
        }
    }
    searches(config, &at.child("searches"), errors);
    let options = at.child("options");
    for (index, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.push(options.index(index).required("must not be empty"));
        }
    }
}

fn searches(config: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let all = list(config, "searches");
    let shown = || Value::Array(all.to_vec());
    if all.len() > MOST_SEARCHES {
        let why = format!("must not have more than {MOST_SEARCHES} search paths");
        errors.push(at.invalid(shown(), why));
    }
    let length: usize = texts(config, "searches").map(|search| search.len() + 1).sum();
    if length.saturating_sub(1) > LONGEST_SEARCHES {
        let why = format!(
            "must not have more than {LONGEST_SEARCHES} characters (including spaces) in the search list"
        );
        errors.push(at.invalid(shown(), why));
    }
    for (index, search) in texts(config, "searches")
        .enumerate()
        .filter(|(_, search)| *search != ".")
    {
        let search = search.strip_suffix('.').unwrap_or(search);
        let at = at.index(index);
        if search.len() > 253 {
            errors.push(at.invalid(search, "must be no more than 253 characters"));
        }
        if !search.split('.').all(is_search_label) {
            let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or \
                       '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
                       validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
            errors.push(at.invalid(search, why));
        }
    }
}

fn is_search_label(label: &str) -> bool {
    let bytes = label.strip_prefix('_').unwrap_or(label).as_bytes();
    let plain = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|c| plain(c) || b"-_".contains(c))
}

/// Judges `hostAliases`.
pub(super) fn host_aliases(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        let at = at.index(index);
        let address = text(alias, "ip");
        if let Some(wrong) = ip::wrong_address(address) {
            errors.push(at.child("ip").invalid(address, wrong));
        }
        let names = at.child("hostnames");
        for (index, name) in texts(alias, "hostnames").enumerate() {
            check::subdomain(name, &names.index(index), errors);
        }
    }
}

/// Judges `hostnameOverride`.
pub(super) fn hostname_override(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let Some(name) = present(spec, "hostnameOverride").and_then(Value::as_str) else {
        return;
    };
    let at = at.child("hostnameOverride");
    if flag(spec, "setHostnameAsFQDN") {
        errors.push(at.forbidden("may not be specified when setHostnameAsFQDN is true"));
    }
    if host_network(spec) {
        errors.push(at.forbidden("may not be specified when hostNetwork is true"));
    }
    if name.len() > 64 {
        errors.push(at.too_long(64));
    }
    check::subdomain(name, &at, errors);
}
