//! Volumes put together of several sources.

use super::{files, mode, paths};
use crate::At;
use crate::check;
use crate::fields::{int, list, present, text};
use machinery::Value;
use machinery::field::ErrorList;

const CONFLICT: &str = "conflicting duplicate paths";

/// Judges every source; no two may make the same file.
pub(super) fn projected(volume: &Value, at: &At<'_>, errors: &mut ErrorList) {
    mode(volume, "defaultMode", at, errors);
    let mut taken: Vec<&str> = Vec::new();
    let sources = at.child("sources");
    for (index, source) in list(volume, "sources").iter().enumerate() {
        let here = sources.index(index);
        let kinds = [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ];
        let mut count = 0;
        for kind in kinds {
            let Some(projection) = present(source, kind) else {
                continue;
            };
            count += 1;
            one(kind, projection, (at, &here.child(kind)), &mut taken, errors);
        }
        if count > 1 {
            errors.push(here.forbidden("may not specify more than 1 volume type per source"));
        }
    }
}

/// `at`: of the volume, and of the source; upstream names the former where paths collide.
fn one<'a>(
    kind: &str,
    source: &'a Value,
    (volume, at): (&At<'_>, &At<'_>),
    taken: &mut Vec<&'a str>,
    errors: &mut ErrorList,
) {
    let mut take = |path: &'a str, shown: &str, errors: &mut ErrorList| {
        if taken.contains(&path) {
            errors.push(volume.invalid(shown, CONFLICT));
        } else {
            taken.push(path);
        }
    };
    match kind {
        "secret" | "configMap" => {
            let name = text(source, "name");
            if name.is_empty() {
                errors.push(at.child("name").required(""));
            }
            let items = at.child("items");
            for (index, item) in list(source, "items").iter().enumerate() {
                files::key_to_path(item, &items.index(index), errors);
                if !text(item, "path").is_empty() {
                    take(text(item, "path"), name, errors);
                }
            }
        }
        "downwardAPI" => {
            for item in list(source, "items") {
                files::downward_file(item, at, errors);
                let path = text(item, "path");
                if !path.is_empty() {
                    take(path, path, errors);
                }
            }
        }
        "serviceAccountToken" => token(source, volume, at, errors),
        "clusterTrustBundle" => {
            let path = text(source, "path");
            let named = ["name", "signerName"].map(|field| present(source, field).is_some());
            match named {
                [true, true] => {
                    errors.push(at.invalid(source.clone(), "only one of name and signerName may be used"));
                }
                [false, false] => errors.push(at.required("either name or signerName must be specified")),
                _ => {}
            }
            check::label_selector(
                present(source, "labelSelector"),
                &at.child("labelSelector"),
                errors,
            );
            if path.is_empty() {
                errors.push(at.child("path").required(""));
            }
            paths::not_reserved(path, &at.child("path"), errors);
            take(path, path, errors);
        }
        _ => {
            const KEYS: [&str; 6] = [
                "RSA3072",
                "RSA4096",
                "ECDSAP256",
                "ECDSAP384",
                "ECDSAP521",
                "ED25519",
            ];
            check::one_of(text(source, "keyType"), &KEYS, &at.child("keyType"), errors);
            let mut paths = 0;
            for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
                let path = text(source, field);
                if !path.is_empty() {
                    paths += 1;
                    self::paths::not_reserved(path, &at.child(field), errors);
                    take(path, path, errors);
                }
            }
            if paths == 0 {
                let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
                errors.push(at.required(why));
            }
        }
    }
}

fn token(source: &Value, volume: &At<'_>, at: &At<'_>, errors: &mut ErrorList) {
    let seconds = int(source, "expirationSeconds").unwrap_or(0);
    let at_seconds = at.child("expirationSeconds");
    if seconds < 600 {
        errors.push(at_seconds.invalid(seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > 1 << 32 {
        errors.push(at_seconds.invalid(seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    match text(source, "path") {
        "" => errors.push(volume.child("path").required("")),
        path => paths::not_reserved(path, &volume.child("path"), errors),
    }
}
