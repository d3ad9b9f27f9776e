//! The names a definition gets and what its conditions say: decided from it and from what is taken, nothing else.

use crate::apiextensions::definition::condition;
use crate::fields::{list_at, text, text_at, texts};
use jiff::Timestamp;
use machinery::codec::scalar::format_time;
use machinery::field::quote;
use machinery::{Map, Value};
use std::collections::HashSet;

/// A condition as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition<'a> {
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: &'a str,
}

/// Sets a condition; its time moves only when its status does.
pub fn set_condition(crd: &mut Value, wanted: &Condition<'_>, now: Timestamp) {
    let mut conditions = list_at(crd, &["status", "conditions"]).to_vec();
    let at = conditions
        .iter()
        .position(|known| text(known, "type") == wanted.kind)
        .unwrap_or_else(|| {
            conditions.push(Value::object());
            conditions.len() - 1
        });
    let known = conditions[at].make_object();
    let turned = known.get("status").and_then(Value::as_str) != Some(wanted.status);
    if turned || !known.contains_key("lastTransitionTime") {
        known.insert("lastTransitionTime", format_time(now));
    }
    known.insert("message", wanted.message);
    known.insert("reason", wanted.reason);
    known.insert("status", wanted.status);
    known.insert("type", wanted.kind);
    crd.set_path(&["status", "conditions"], conditions);
}

/// Names of a group that other definitions hold.
#[derive(Debug, Default)]
pub struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Taken {
    /// Adds what a definition holds.
    pub fn add(&mut self, crd: &Value) {
        let Some(names) = crd.get_path(&["status", "acceptedNames"]) else {
            return;
        };
        for field in ["plural", "singular"] {
            self.resources.insert(text(names, field).to_owned());
        }
        self.resources
            .extend(texts(names, "shortNames").map(str::to_owned));
        for field in ["kind", "listKind"] {
            self.kinds.insert(text(names, field).to_owned());
        }
    }
}

/// Brings a definition's accepted names and the conditions about them up to date. Names already accepted stay; of
/// the others those that nobody holds are accepted.
pub fn settle_names(crd: &mut Value, taken: &Taken, now: Timestamp) {
    let wanted = crd.get_path(&["spec", "names"]).cloned().unwrap_or_default();
    let accepted = crd
        .get_path(&["status", "acceptedNames"])
        .cloned()
        .unwrap_or_default();
    let mut names = accepted.as_object().cloned().unwrap_or_default();
    let mut conflict: Option<(&'static str, String)> = None;
    let in_use = |name: &str, known: &str, used: &HashSet<String>| {
        (name != known && used.contains(name)).then(|| format!("{} is already in use", quote(name)))
    };
    let one = |field: &'static str, reason: &'static str, used: &HashSet<String>, names: &mut Map| {
        let name = text(&wanted, field);
        match in_use(name, text(&accepted, field), used) {
            Some(why) => Some((reason, why)),
            None => {
                put(names, field, name);
                None
            }
        }
    };
    conflict = one("plural", "PluralConflict", &taken.resources, &mut names).or(conflict);
    conflict = one("singular", "SingularConflict", &taken.resources, &mut names).or(conflict);
    let held: Vec<&str> = texts(&accepted, "shortNames").collect();
    let clashes: Vec<String> = texts(&wanted, "shortNames")
        .filter(|short| !held.contains(short))
        .filter_map(|short| in_use(short, "", &taken.resources))
        .collect();
    match clashes.as_slice() {
        [] => put_list(&mut names, "shortNames", &wanted),
        [one] => conflict = Some(("ShortNamesConflict", one.clone())),
        many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    }
    conflict = one("kind", "KindConflict", &taken.kinds, &mut names).or(conflict);
    conflict = one("listKind", "ListKindConflict", &taken.kinds, &mut names).or(conflict);
    put_list(&mut names, "categories", &wanted);
    crd.set_path(&["status", "acceptedNames"], names);
    let accepted = conflict.is_none();
    let (reason, message) = conflict.unwrap_or(("NoConflicts", "no conflicts found".to_owned()));
    let said = Condition {
        kind: "NamesAccepted",
        status: if accepted { "True" } else { "False" },
        reason,
        message: &message,
    };
    set_condition(crd, &said, now);
    let established = condition(crd, "Established").is_some_and(|c| text(c, "status") == "True");
    if established {
        return;
    }
    let said = Condition {
        kind: "Established",
        status: if accepted { "True" } else { "False" },
        reason: if accepted {
            "InitialNamesAccepted"
        } else {
            "NotAccepted"
        },
        message: if accepted {
            "the initial names have been accepted"
        } else {
            "not all names are accepted"
        },
    };
    set_condition(crd, &said, now);
}

/// Whether [`settle_names`] has nothing to do.
pub fn names_are_settled(crd: &Value) -> bool {
    let part = |path: &[&str]| crd.get_path(path).cloned().unwrap_or_default();
    part(&["spec", "names"]).semantic_eq(&part(&["status", "acceptedNames"]))
        && condition(crd, "NamesAccepted").is_some()
        && condition(crd, "Established").is_some()
}

/// What upstream says of definitions in the project's own groups: they need somebody's approval.
pub fn settle_approval(crd: &mut Value, now: Timestamp) {
    const ANNOTATION: &str = "api-approved.kubernetes.io";
    let group = text_at(crd, &["spec", "group"]);
    let owned = group == "k8s.io"
        || group.ends_with(".k8s.io")
        || group == "kubernetes.io"
        || group.ends_with(".kubernetes.io");
    if !owned {
        return;
    }
    let annotation = machinery::meta::annotation(crd, ANNOTATION)
        .unwrap_or_default()
        .to_owned();
    let is_link = annotation.starts_with("https://") || annotation.starts_with("http://");
    let (status, reason, message) = if annotation.starts_with("unapproved") {
        (
            "False",
            "UnapprovedAnnotation",
            format!("not approved: {}", quote(&annotation)),
        )
    } else if is_link {
        ("True", "ApprovedAnnotation", format!("approved in {annotation}"))
    } else if annotation.is_empty() {
        let missing = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
        ("False", "MissingAnnotation", missing.to_owned())
    } else {
        let invalid = format!(
            "protected groups must have approval annotation {} with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111",
            quote(ANNOTATION)
        );
        ("False", "InvalidAnnotation", invalid)
    };
    let said = Condition {
        kind: "KubernetesAPIApprovalPolicyConformant",
        status,
        reason,
        message: &message,
    };
    set_condition(crd, &said, now);
}

fn put(names: &mut Map, field: &'static str, value: &str) {
    names.insert(field, value);
}

fn put_list(names: &mut Map, field: &'static str, from: &Value) {
    match from.get(field) {
        Some(list) if !list.is_empty() => {
            names.insert(field, list.clone());
        }
        _ => {
            names.remove(field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::codec::json::decode_any;

    fn crd(plural: &str, short: &str, accepted: bool) -> Value {
        let names = format!(
            r#"{{"plural":"{plural}","singular":"{plural}-one","kind":"K{plural}","listKind":"K{plural}List","shortNames":["{short}"]}}"#
        );
        let accepted = if accepted { names.clone() } else { "{}".to_owned() };
        let text =
            format!(r#"{{"spec":{{"group":"g","names":{names}}},"status":{{"acceptedNames":{accepted}}}}}"#);
        decode_any(text.as_bytes()).unwrap().value
    }

    #[test]
    fn the_first_to_ask_gets_a_name() {
        let mut taken = Taken::default();
        taken.add(&crd("foos", "f", true));
        let mut second = crd("bars", "f", false);
        settle_names(&mut second, &taken, Timestamp::UNIX_EPOCH);
        let names = condition(&second, "NamesAccepted").unwrap();
        assert_eq!(text(names, "reason"), "ShortNamesConflict");
        assert_eq!(text(names, "message"), "\"f\" is already in use");
        assert_eq!(
            text(condition(&second, "Established").unwrap(), "status"),
            "False"
        );
        assert_eq!(text_at(&second, &["status", "acceptedNames", "plural"]), "bars");
        assert!(!names_are_settled(&second));

        let mut free = crd("bars", "b", false);
        settle_names(&mut free, &taken, Timestamp::UNIX_EPOCH);
        assert!(names_are_settled(&free));
        assert_eq!(text(condition(&free, "Established").unwrap(), "status"), "True");
    }
}
