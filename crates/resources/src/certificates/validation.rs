//! What a certificate signing request must be, and what of it each of its endpoints may change.
//!
//! What older versions let pass may stay: each leniency is read from the object as it was.

use super::request_file;
use crate::At;
use crate::check;
use crate::diff;
use crate::fields::{int_at, list_at, text, text_at, texts};
use machinery::Value;
use machinery::field::ErrorList;

#[rustfmt::skip]
const USAGES: [&str; 23] = [
    "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment",
    "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel",
    "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime",
    "server auth", "signing", "timestamping",
];
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const CONDITIONS: [&str; 2] = ["status", "conditions"];
const CERTIFICATE: [&str; 2] = ["status", "certificate"];
const EXCLUSIVE: &str = "Approved and Denied conditions are mutually exclusive";

/// Which endpoint writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Object,
    Status,
    Approval,
}

/// Judges a new request.
pub(super) fn create(request: &Value, errors: &mut ErrorList) {
    judge(request, None, errors);
}

/// Judges an update.
pub(super) fn update(new: &Value, old: &Value, endpoint: Endpoint, errors: &mut ErrorList) {
    judge(new, Some(old), errors);
    let at = At::new("status.conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        if of_kind(new, kind).len() < of_kind(old, kind).len() {
            let why = format!("updates may not remove a condition of type {kind:?}");
            errors.push(at.forbidden(why));
        }
    }
    if endpoint != Endpoint::Approval {
        for kind in ["Approved", "Denied"] {
            let (now, before) = (of_kind(new, kind), of_kind(old, kind));
            if now.len() > before.len() {
                let why = format!("updates may not add a condition of type {kind:?}");
                errors.push(at.forbidden(why));
            } else if now.len() == before.len() && now != before {
                let whole = |conditions: Vec<&Value>| Value::Array(conditions.into_iter().cloned().collect());
                let changes = diff::unified(&whole(before), &whole(now));
                let why = format!("updates may not modify a condition of type {kind:?}\n{changes}");
                errors.push(at.forbidden(why));
            }
        }
    }
    if text_at(new, &CERTIFICATE) != text_at(old, &CERTIFICATE) {
        let at = At::new("status.certificate");
        if endpoint != Endpoint::Status {
            errors.push(at.forbidden("updates may not set certificate content"));
        } else if !text_at(old, &CERTIFICATE).is_empty() {
            errors.push(at.forbidden("updates may not modify existing certificate content"));
        }
    }
}

fn of_kind<'a>(request: &'a Value, kind: &str) -> Vec<&'a Value> {
    list_at(request, &CONDITIONS)
        .iter()
        .filter(|condition| text(condition, "type") == kind)
        .collect()
}

fn judge(request: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let spec = request.get("spec").unwrap_or(&Value::Null);
    let at = At::new("spec");
    if let Err(why) = request_file::judge(text(spec, "request")) {
        errors.push(at.child("request").invalid(text(spec, "request"), why));
    }
    usages(spec, old, &at.child("usages"), errors);
    let signer = text(spec, "signerName");
    let here = at.child("signerName");
    let legacy = old.is_some_and(|old| text_at(old, &["spec", "signerName"]) == LEGACY_SIGNER);
    if signer == LEGACY_SIGNER && !legacy {
        let why = "the legacy signerName is not allowed via this API version";
        errors.push(here.invalid(signer, why));
    } else {
        check::signer_name(signer, &here, errors);
    }
    if let Some(seconds) = int_at(spec, &["expirationSeconds"]).filter(|seconds| *seconds < 600) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(at.child("expirationSeconds").invalid(seconds, why));
    }
    conditions(request, old, errors);
    let certificate = text_at(request, &CERTIFICATE);
    let kept = old.is_some_and(|old| {
        text_at(old, &CERTIFICATE) == certificate
            || request_file::judge_certificates(text_at(old, &CERTIFICATE)).is_err()
    });
    if !kept && let Err(why) = request_file::judge_certificates(certificate) {
        errors.push(At::new("status.certificate").invalid("<certificate data>", why));
    }
}

fn usages(spec: &Value, old: Option<&Value>, at: &At<'_>, errors: &mut ErrorList) {
    let all: Vec<&str> = texts(spec, "usages").collect();
    if all.is_empty() {
        errors.push(at.required(""));
    }
    let before: Vec<&str> = old
        .and_then(|old| old.get("spec"))
        .map(|spec| texts(spec, "usages").collect())
        .unwrap_or_default();
    if before.iter().all(|usage| USAGES.contains(usage)) {
        for (index, usage) in all.iter().enumerate() {
            check::one_of(usage, &USAGES, &at.index(index), errors);
        }
    }
    let repeated = |all: &[&str], index: usize| all[..index].contains(&all[index]);
    if !(0..before.len()).any(|index| repeated(&before, index)) {
        for (index, usage) in all.iter().enumerate() {
            if repeated(&all, index) {
                errors.push(at.index(index).duplicate(*usage));
            }
        }
    }
}

fn conditions(request: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let at = At::new("status.conditions");
    let kinds = |request: &Value| -> Vec<String> {
        let conditions = list_at(request, &CONDITIONS).iter();
        conditions
            .map(|condition| text(condition, "type").to_owned())
            .collect()
    };
    let before = old.map(kinds).unwrap_or_default();
    let had = |kind: &str| before.iter().any(|other| other == kind);
    let had_both = had("Approved") && had("Denied");
    let had_twice = (0..before.len()).any(|index| before[..index].contains(&before[index]));
    let now = kinds(request);
    for (index, condition) in list_at(request, &CONDITIONS).iter().enumerate() {
        let here = at.index(index);
        let kind = text(condition, "type");
        if kind.is_empty() && !had("") {
            errors.push(here.child("type").required(""));
        }
        let allowed: &[&str] = if matches!(kind, "Approved" | "Denied" | "Failed") {
            &["True"]
        } else {
            &["False", "True", "Unknown"]
        };
        check::required_one_of(text(condition, "status"), allowed, &here.child("status"), errors);
        let earlier = &now[..index];
        let other = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !had_both && !other.is_empty() && earlier.iter().any(|kind| kind == other) {
            errors.push(at.invalid(kind, EXCLUSIVE));
        }
        if !had_twice && earlier.iter().any(|earlier| earlier == kind) {
            errors.push(here.child("type").duplicate(kind));
        }
    }
}
