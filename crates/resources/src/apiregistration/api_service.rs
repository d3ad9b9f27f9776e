//! APIService.

use crate::At;
use crate::KindInfo;
use crate::fields::{fill, flag, list_at, object_mut, present, text};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::codec::scalar::format_time;
use machinery::field::ErrorList;
use machinery::{Map, Value, meta, names};

pub(crate) struct ApiService;

const COLUMNS: [Column; 4] = [
    Column::NAME,
    Column::text("Service", "What serves the group and version."),
    Column::text("Available", "Whether it does."),
    Column::AGE,
];

impl Strategy for ApiService {
    fn default(&self, object: &mut Value) {
        if let Some(service) = object
            .get_mut("spec")
            .and_then(|spec| object_mut(spec, "service"))
        {
            fill(service, "port", 443);
        }
    }

    /// What this server serves itself is available.
    fn prepare_for_create(&self, context: &Context<'_>, object: &mut Value) {
        let mut status = Map::new();
        if object.get_path(&["spec", "service"]).is_none_or(Value::is_null) {
            let mut condition = Map::new();
            condition.insert("lastTransitionTime", format_time(context.now));
            condition.insert("message", "Local APIServices are always available");
            condition.insert("reason", "Local");
            condition.insert("status", "True");
            condition.insert("type", "Available");
            status.insert("conditions", Value::Array(vec![condition.into()]));
        }
        object.set_path(&["status"], status);
    }

    /// The legacy group has none before the dot.
    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment_rule(name, prefix)
    }

    fn validate(&self, _context: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validate(object, &mut errors);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, _old: &Value) -> ErrorList {
        self.validate(context, new)
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        false
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let service = object
            .get_path(&["spec", "service"])
            .map_or("Local".to_owned(), |service| {
                format!("{}/{}", text(service, "namespace"), text(service, "name"))
            });
        let conditions = list_at(object, &["status", "conditions"]);
        let available = conditions
            .iter()
            .find(|condition| text(condition, "type") == "Available");
        let available = available.map_or("Unknown".to_owned(), |condition| {
            match text(condition, "status") {
                "True" => "True".to_owned(),
                status => format!("{status} ({})", text(condition, "reason")),
            }
        });
        vec![
            table::name(object),
            service.into(),
            available.into(),
            table::age(object, now),
        ]
    }
}

/// Judges what stands there for a group and version.
fn validate(object: &Value, errors: &mut ErrorList) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let (name, required) = (meta::name(object), format!("{version}.{group}"));
    if name != required {
        let why = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
        errors.push(At::new("metadata").child("name").invalid(name, why));
    }
    let at = At::new("spec");
    if group.is_empty() && version != "v1" {
        let why = "only v1 may have an empty group and it better be legacy kube";
        errors.push(at.child("group").required(why));
    } else if !group.is_empty() {
        for why in names::dns1123_subdomain(group) {
            errors.push(at.child("group").invalid(group, why));
        }
    }
    for why in names::dns1035_label(version) {
        errors.push(at.child("version").invalid(version, why));
    }
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let number = spec.get(field).and_then(Value::as_i64).unwrap_or_default();
        if number <= 0 || number > most {
            let why = format!("must be positive and less than {most}");
            errors.push(at.child(field).invalid(number, why));
        }
    }
    let bundle = text(spec, "caBundle");
    let insecure = flag(spec, "insecureSkipTLSVerify");
    let Some(service) = present(spec, "service") else {
        if !bundle.is_empty() {
            let bytes = bundle.trim_end_matches('=').len() * 3 / 4;
            let why = "local APIServices may not have a caBundle";
            errors.push(at.child("caBundle").invalid(format!("{bytes} bytes"), why));
        }
        if insecure {
            let why = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(at.child("insecureSkipTLSVerify").invalid(true, why));
        }
        return;
    };
    let here = at.child("service");
    for field in ["namespace", "name"] {
        if text(service, field).is_empty() {
            errors.push(here.child(field).required(""));
        }
    }
    let port = service.get("port").and_then(Value::as_i64).unwrap_or_default();
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        let why = format!("port is not valid: {}", wrong.join(", "));
        errors.push(here.child("port").invalid(port, why));
    }
    if insecure && !bundle.is_empty() {
        let why = "may not be true if caBundle is present";
        errors.push(at.child("insecureSkipTLSVerify").invalid(true, why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_served() {
        let check = |text: &str| {
            let object = machinery::codec::json::decode_any(text.as_bytes()).unwrap().value;
            let mut errors = ErrorList::new();
            validate(&object, &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<String>>()
        };
        let good = r#"{"metadata":{"name":"v1."},"spec":{"version":"v1","groupPriorityMinimum":18000,"versionPriority":1}}"#;
        assert!(check(good).is_empty());
        assert_eq!(
            check(
                r#"{"metadata":{"name":"x"},"spec":{"group":"g.io","version":"v1","groupPriorityMinimum":1,"versionPriority":1001,
                "insecureSkipTLSVerify":true,"caBundle":"YQ==","service":{"name":"s","port":0}}}"#
            ),
            [
                r#"metadata.name: Invalid value: "x": must be `spec.version+"."+spec.group`: "v1.g.io""#,
                "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
                "spec.service.namespace: Required value",
                "spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
            ]
        );
        let local = r#"{"metadata":{"name":"v2."},"spec":{"version":"v2","groupPriorityMinimum":1,"versionPriority":1,"caBundle":"YQ=="}}"#;
        assert_eq!(
            check(local),
            [
                "spec.group: Required value: only v1 may have an empty group and it better be legacy kube",
                r#"spec.caBundle: Invalid value: "1 bytes": local APIServices may not have a caBundle"#,
            ]
        );
    }
}
