//! What containers of Windows may ask for.

use super::{every_container, host_network};
use crate::At;
use crate::check;
use crate::fields::present;
use machinery::Value;
use machinery::field::ErrorList;

const OPTIONS: [&str; 2] = ["securityContext", "windowsOptions"];

/// Judges `windowsOptions` of a security context.
pub(super) fn options(context: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const LARGEST_KIB: usize = 64;
    let Some(options) = present(context, "windowsOptions") else {
        return;
    };
    let at = at.child("windowsOptions");
    let text = |field| present(options, field).and_then(Value::as_str);
    if let Some(name) = text("gmsaCredentialSpecName") {
        check::subdomain(name, &at.child("gmsaCredentialSpecName"), errors);
    }
    if let Some(spec) = text("gmsaCredentialSpec") {
        let at = at.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.push(at.invalid(spec, "gmsaCredentialSpec cannot be an empty string"));
        } else if spec.len() > LARGEST_KIB * 1024 {
            let why = format!("gmsaCredentialSpec size must be under {LARGEST_KIB} KiB");
            errors.push(at.invalid(spec, why));
        }
    }
    if let Some(name) = text("runAsUserName") {
        let at = at.child("runAsUserName");
        for why in wrong_user(name) {
            errors.push(at.invalid(name, format!("runAsUserName{why}")));
        }
    }
}

fn wrong_user(name: &str) -> Vec<&'static str> {
    if name.is_empty() {
        return vec![" cannot be an empty string"];
    }
    if name.bytes().any(|c| c.is_ascii_control()) {
        return vec![" cannot contain control characters"];
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, rest)) if rest.contains('\\') => {
            return vec![" cannot contain more than one backslash"];
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut wrong = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= 256) {
        wrong.push("'s Domain length must be under 256 characters");
    }
    if domain.is_some_and(|domain| !is_net_bios(domain) && !is_dns(domain)) {
        wrong.push("'s Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        wrong.push("'s User cannot be empty");
    } else if user.len() > 104 {
        wrong.push("'s User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.bytes().all(|c| matches!(c, b'.' | b' ')) {
        wrong.push("'s User cannot contain only periods or spaces");
    }
    if user.contains([
        '"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']',
    ]) {
        wrong.push("'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
    wrong
}

fn is_net_bios(domain: &str) -> bool {
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    })
}

/// Host processes are all or none of a pod's, on the host's network.
pub(super) fn host_process(spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let asked = |holder: &Value| {
        let options = holder.get_path(&OPTIONS)?;
        present(options, "hostProcess").and_then(Value::as_bool)
    };
    let pod = asked(spec);
    let (mut all, mut hosts) = (0, 0);
    for (field, index, container) in every_container(spec) {
        let own = asked(container);
        all += 1;
        if own.or(pod) == Some(true) {
            hosts += 1;
        }
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let at = at.child(field);
            let at = at.index(index);
            let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.push(
                at.child("securityContext.windowsOptions.hostProcess")
                    .invalid(own, why),
            );
        }
    }
    if hosts == 0 {
        return;
    }
    if hosts != all {
        let why =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(at.invalid("", why));
    }
    if !host_network(spec) {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(at.child("hostNetwork").invalid(false, why));
    }
}
