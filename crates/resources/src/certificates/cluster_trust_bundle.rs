//! ClusterTrustBundle: certificates that pods are to trust, of a signer or of nobody in particular.

use super::request_file;
use crate::At;
use crate::check;
use crate::fields::{same, text_at};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use compact_str::CompactString;
use jiff::Timestamp;
use machinery::field::ErrorList;
use machinery::{Value, meta, names};

pub(crate) struct ClusterTrustBundle;

const COLUMNS: [Column; 2] = [
    Column::NAME,
    Column::text("SignerName", "Whose certificates these are."),
];
const SIGNER: [&str; 2] = ["spec", "signerName"];
const LARGEST: usize = 1024 * 1024;

impl Strategy for ClusterTrustBundle {
    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        names_errors(object, &mut errors);
        anchors(object, &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        names_errors(new, &mut errors);
        if !same(new, old, &["spec", "trustBundle"]) {
            anchors(new, &mut errors);
        }
        let at = At::new("spec.signerName");
        check::immutable(new.get_path(&SIGNER), old.get_path(&SIGNER), &at, &mut errors);
        errors
    }

    /// What a name must be depends on the signer.
    fn check_name(&self, _name: &str, _prefix: bool) -> Vec<String> {
        Vec::new()
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }

    fn select(&self, object: &Value) -> Vec<CompactString> {
        vec![text_at(object, &SIGNER).into()]
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        vec![
            table::name(object),
            table::or(text_at(object, &SIGNER), table::NONE),
        ]
    }
}

fn names_errors(bundle: &Value, errors: &mut ErrorList) {
    let (name, signer) = (meta::name(bundle), text_at(bundle, &SIGNER));
    let at = At::new("metadata.name");
    if signer.is_empty() {
        if name.contains(':') {
            let why = "ClusterTrustBundle without signer name must not have \":\" in its name";
            errors.push(at.invalid(name, why));
        } else {
            check::subdomain(name, &at, errors);
        }
        return;
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => check::each(names::dns1123_subdomain(rest), name, &at, errors),
        None => {
            let why =
                format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
            errors.push(at.invalid(name, why));
        }
    }
    check::signer_name(signer, &At::new("spec.signerName"), errors);
}

fn anchors(bundle: &Value, errors: &mut ErrorList) {
    let at = At::new("spec.trustBundle");
    let text = text_at(bundle, &["spec", "trustBundle"]);
    if text.len() > LARGEST {
        errors.push(at.too_long(LARGEST as i64));
        return;
    }
    let wrong = request_file::judge_anchors(text);
    errors.extend(wrong.into_iter().map(|why| at.invalid("<value omitted>", why)));
}
