//! CertificateSigningRequest: who asks is written down by the server, and never changed.

use super::validation::{self, Endpoint};
use crate::KindInfo;
use crate::fields::{list_at, list_mut, text, text_at};
use crate::strategy::{Column, Context, Strategy, Subresource, default_subresource, keep};
use crate::table;
use jiff::Timestamp;
use machinery::codec::scalar::format_time;
use machinery::field::ErrorList;
use machinery::{Map, Value};

pub(crate) struct CertificateSigningRequest;

const COLUMNS: [Column; 6] = [
    Column::NAME,
    Column::AGE,
    Column::text("SignerName", "Who is to sign."),
    Column::text("Requestor", "Who asks."),
    Column::text("RequestedDuration", "How long it is to be valid."),
    Column::text("Condition", "How the request stands."),
];

impl Strategy for CertificateSigningRequest {
    fn prepare_for_create(&self, context: &Context<'_>, object: &mut Value) {
        let user = context.user;
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            for field in ["username", "uid", "groups", "extra"] {
                spec.remove(field);
            }
            if !user.name.is_empty() {
                spec.insert("username", user.name.as_str());
            }
            if !user.uid.is_empty() {
                spec.insert("uid", user.uid.as_str());
            }
            if !user.groups.is_empty() {
                let groups: Vec<&str> = user.groups.iter().map(AsRef::as_ref).collect();
                spec.insert("groups", groups);
            }
            if !user.extra.is_empty() {
                let values = |values: &[String]| values.iter().map(|v| Value::from(v.as_str())).collect();
                let extra: Map = user
                    .extra
                    .iter()
                    .map(|(key, all)| (key.as_str(), Value::Array(values(all))))
                    .collect();
                spec.insert("extra", extra);
            }
        }
        object.set_path(&["status"], Value::object());
    }

    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        keep(new, old, "status");
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::create(object, &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::update(new, old, Endpoint::Object, &mut errors);
        errors
    }

    /// Any name will do.
    fn check_name(&self, _name: &str, _prefix: bool) -> Vec<String> {
        Vec::new()
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        false
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }

    fn subresource(&self, name: &str) -> Option<&'static dyn Subresource> {
        match name {
            "status" => Some(&Status),
            "approval" => Some(&Approval),
            _ => default_subresource(name),
        }
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let seconds = object
            .get_path(&["spec", "expirationSeconds"])
            .and_then(Value::as_i64);
        let duration = seconds.map(|seconds| table::human(jiff::SignedDuration::from_secs(seconds)));
        vec![
            table::name(object),
            table::age(object, now),
            table::or(text_at(object, &["spec", "signerName"]), table::NONE),
            table::word(object, &["spec", "username"]),
            duration.map_or(table::NONE.into(), Value::from),
            standing(object).into(),
        ]
    }
}

struct Status;

impl Subresource for Status {
    /// Whether the request is approved is not for this endpoint to say.
    fn prepare(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        for kind in ["Approved", "Denied"] {
            preserve(new, old, kind);
        }
        fill_times(new, old, context);
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::update(new, old, Endpoint::Status, &mut errors);
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"]]
    }
}

struct Approval;

impl Subresource for Approval {
    fn prepare(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        fill_times(new, old, context);
        let conditions = list_at(new, &["status", "conditions"]).to_vec();
        keep(new, old, "spec");
        keep(new, old, "status");
        if conditions.is_empty() {
            new.remove_path(&["status", "conditions"]);
        } else {
            new.set_path(&["status", "conditions"], conditions);
        }
    }

    fn validate(&self, _context: &Context<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::update(new, old, Endpoint::Approval, &mut errors);
        errors
    }

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["f:spec"], &["f:status", "f:certificate"]]
    }
}

/// Puts the old conditions of a type back, if there are as many new ones.
fn preserve(new: &mut Value, old: &Value, kind: &str) {
    let of_kind = |condition: &&Value| text(condition, "type") == kind;
    let before: Vec<Value> = list_at(old, &["status", "conditions"])
        .iter()
        .filter(of_kind)
        .cloned()
        .collect();
    let count = list_at(new, &["status", "conditions"])
        .iter()
        .filter(of_kind)
        .count();
    if count != before.len() {
        return;
    }
    let Some(status) = new.get_mut("status") else {
        return;
    };
    let mut before = before.into_iter();
    for condition in list_mut(status, "conditions")
        .iter_mut()
        .filter(|c| text(c, "type") == kind)
    {
        if let Some(old) = before.next() {
            *condition = old;
        }
    }
}

fn fill_times(new: &mut Value, old: &Value, context: &Context<'_>) {
    let Some(status) = new.get_mut("status") else {
        return;
    };
    for condition in list_mut(status, "conditions") {
        if text(condition, "lastUpdateTime").is_empty() {
            condition.set_path(&["lastUpdateTime"], format_time(context.now));
        }
        if text(condition, "lastTransitionTime").is_empty() {
            let same = |other: &&Value| {
                ["type", "status"]
                    .iter()
                    .all(|field| text(other, field) == text(condition, field))
                    && !text(other, "lastTransitionTime").is_empty()
            };
            let before = list_at(old, &["status", "conditions"]).iter().find(same);
            let time = before.map(|c| text(c, "lastTransitionTime").into());
            condition.set_path(
                &["lastTransitionTime"],
                time.unwrap_or_else(|| format_time(context.now)),
            );
        }
    }
}

fn standing(request: &Value) -> String {
    let conditions = list_at(request, &["status", "conditions"]);
    let has = |kind| conditions.iter().any(|condition| text(condition, "type") == kind);
    let mut standing = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        standing.push_str(",Failed");
    }
    if !text_at(request, &["status", "certificate"]).is_empty() {
        standing.push_str(",Issued");
    }
    standing
}
