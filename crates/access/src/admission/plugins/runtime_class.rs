//! `RuntimeClass`: a pod takes its runtime class's overhead and scheduling, and no overhead of its own invention.

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::Value;
use machinery::status::ApiError;
use resources::quota::amounts;
use std::sync::{Arc, OnceLock};

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
const INVENTED: &str = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

#[derive(Default)]
pub(super) struct RuntimeClass {
    objects: OnceLock<Arc<dyn Objects>>,
}

impl RuntimeClass {
    async fn class(&self, attributes: &Attributes<'_>, pod: &Value) -> Result<Option<Arc<Value>>, ApiError> {
        let name = pod.get_str_path(&["spec", "runtimeClassName"]);
        let (Some(name), Some(objects)) = (name, self.objects.get()) else {
            return Ok(None);
        };
        match objects.get("node.k8s.io", "runtimeclasses", "", name).await? {
            Some(class) => Ok(Some(class)),
            None => {
                let why = format!("pod rejected: RuntimeClass {name:?} not found");
                Err(attributes.forbidden(Some(pod), why))
            }
        }
    }
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        operation == Operation::Create && target.is("", "pods")
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        let Some(pod) = object else { return Ok(()) };
        let Some(class) = self.class(attributes, pod).await? else {
            return Ok(());
        };
        if let Some(overhead) = class.get_path(&["overhead", "podFixed"]) {
            let own = amounts::read(pod.get_path(&["spec", "overhead"]));
            if !own.is_empty() && own != amounts::read(Some(overhead)) {
                return Err(attributes.forbidden(Some(pod), MISMATCH));
            }
            pod.set_path(&["spec", "overhead"], overhead.clone());
        }
        schedule(&class, pod).map_err(|why| attributes.forbidden(Some(pod), why))
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let Some(pod) = object else { return Ok(()) };
        let class = self.class(attributes, pod).await?;
        let own = pod.get_path(&["spec", "overhead"]).filter(|own| !own.is_null());
        let defined = class
            .as_deref()
            .and_then(|class| class.get_path(&["overhead", "podFixed"]));
        let why = match defined {
            Some(overhead) if amounts::read(own) != amounts::read(Some(overhead)) => MISMATCH,
            None if own.is_some() => INVENTED,
            _ => return Ok(()),
        };
        Err(attributes.forbidden(object, why))
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }
}

fn schedule(class: &Value, pod: &mut Value) -> Result<(), String> {
    let Some(scheduling) = class.get("scheduling").filter(|scheduling| !scheduling.is_null()) else {
        return Ok(());
    };
    if let Some(wanted) = scheduling.get("nodeSelector").and_then(Value::as_object) {
        let own = pod
            .make_object()
            .object_entry("spec")
            .object_entry("nodeSelector");
        for (key, value) in wanted.iter() {
            if let Some(other) = own.get(key.as_str()).filter(|other| *other != value) {
                let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    text(value),
                    text(other)
                ));
            }
            own.insert(key.clone(), value.clone());
        }
    }
    let tolerations = scheduling
        .get("tolerations")
        .and_then(Value::as_array)
        .unwrap_or_default();
    for toleration in tolerations {
        add_toleration(pod, toleration);
    }
    Ok(())
}

/// Adds a toleration, unless one of the pod's own covers it; those it covers go.
pub(super) fn add_toleration(pod: &mut Value, toleration: &Value) {
    let list = pod
        .make_object()
        .object_entry("spec")
        .entry_or_null("tolerations");
    if !matches!(list, Value::Array(_)) {
        *list = Value::Array(Vec::new());
    }
    let Some(list) = list.as_array_mut() else {
        return;
    };
    if list.iter().any(|own| covers(own, toleration)) {
        return;
    }
    list.retain(|own| !covers(toleration, own));
    list.push(toleration.clone());
}

/// Whether everything the second tolerates is tolerated by the first.
fn covers(wide: &Value, narrow: &Value) -> bool {
    fn text<'a>(of: &'a Value, field: &str) -> &'a str {
        let text = of.get(field).and_then(Value::as_str).unwrap_or_default();
        if field == "operator" && text.is_empty() {
            "Equal"
        } else {
            text
        }
    }
    let same = |field: &str| text(wide, field) == text(narrow, field);
    let seconds = |of: &Value| of.get("tolerationSeconds").and_then(Value::as_i64);
    let lasts = match (seconds(wide), seconds(narrow)) {
        (None, _) => true,
        (Some(wide), Some(narrow)) => wide >= narrow,
        (Some(_), None) => false,
    };
    let everything = text(wide, "operator") == "Exists";
    let key = same("key") || (text(wide, "key").is_empty() && everything);
    let value = everything || (same("operator") && same("value"));
    let effect = same("effect") || text(wide, "effect").is_empty();
    key && value && effect && lasts
}

#[cfg(test)]
mod tests {
    use super::super::testing::{create, object};
    use super::*;

    #[test]
    fn the_class_decides_overhead_and_nodes() {
        let check = |spec: &str, expected: Result<&str, &str>| {
            let class = object(
                r#"{"metadata":{"name":"k"},"overhead":{"podFixed":{"cpu":"10m"}},
                    "scheduling":{"nodeSelector":{"a":"b"},"tolerations":[{"key":"t","operator":"Exists"}]}}"#,
            );
            let mut pod = object(&format!(r#"{{"metadata":{{"name":"p"}},"spec":{spec}}}"#));
            let made = create(
                &RuntimeClass::default(),
                vec![("runtimeclasses", class)],
                ("", "pods", "ns"),
                &mut pod,
            );
            let json = String::from_utf8(machinery::codec::json::to_vec(pod.get("spec").unwrap())).unwrap();
            let said = made.map(|()| json).map_err(|error| error.message);
            let said = said
                .as_deref()
                .map_err(|message| message.trim_start_matches(r#"pods "p" is forbidden: "#));
            assert_eq!(said, expected, "{spec:?}");
        };
        check("{}", Ok("{}"));
        check(
            r#"{"runtimeClassName":"k"}"#,
            Ok(
                r#"{"nodeSelector":{"a":"b"},"overhead":{"cpu":"10m"},"runtimeClassName":"k","tolerations":[{"key":"t","operator":"Exists"}]}"#,
            ),
        );
        check(
            r#"{"runtimeClassName":"x"}"#,
            Err(r#"pod rejected: RuntimeClass "x" not found"#),
        );
        check(
            r#"{"runtimeClassName":"k","nodeSelector":{"a":"c"}}"#,
            Err("conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c"),
        );
        check(
            r#"{"runtimeClassName":"k","overhead":{"cpu":"1"}}"#,
            Err(MISMATCH),
        );
        check(r#"{"overhead":{"cpu":"1"}}"#, Err(INVENTED));
    }
}
