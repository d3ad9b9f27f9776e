//! Pod templates: metadata and spec, and the rules of what makes pods of them.

use super::{every_container, template_spec};
use crate::At;
use crate::check;
use crate::fields::{entries, int, list, text};
use machinery::Value;
use machinery::field::ErrorList;
use machinery::selector::LabelSelector;

/// Judges a template.
pub fn pod_template(template: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if let Some(metadata) = template.get("metadata") {
        check::labels(entries(metadata, "labels"), &at.child("labels"), errors);
        check::annotations(entries(metadata, "annotations"), &at.child("annotations"), errors);
        app_armor_containers(template, metadata, &at.child("annotations"), errors);
    }
    let Some(spec) = template.get("spec") else { return };
    let at = at.child("spec");
    template_spec(spec, &at, errors);
    if !list(spec, "ephemeralContainers").is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(at.child("ephemeralContainers").forbidden(why));
    }
}

/// Judges a template whose pods are kept running, and that a selector must find.
pub fn running_template(
    template: Option<&Value>,
    selector: Option<&LabelSelector>,
    kind: &str,
    at: &At<'_>,
    errors: &mut ErrorList,
) {
    let Some(template) = template.filter(|template| !template.is_null()) else {
        errors.push(at.required(""));
        return;
    };
    let labels = template
        .get("metadata")
        .and_then(|metadata| metadata.get("labels"))
        .and_then(Value::as_object);
    if selector.is_some_and(|selector| !selector.is_everything() && !selector.matches(labels)) {
        let shown = labels.cloned().map_or(Value::Null, Value::Object);
        let why = "`selector` does not match template `labels`";
        errors.push(at.child("metadata.labels").invalid(shown, why));
    }
    pod_template(template, at, errors);
    let spec = template.get("spec").unwrap_or(&Value::Null);
    let policy = text(spec, "restartPolicy");
    if policy != "Always" {
        errors.push(at.child("spec.restartPolicy").not_supported(policy, &["Always"]));
    }
    if int(spec, "activeDeadlineSeconds").is_some() {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(at.child("spec.activeDeadlineSeconds").forbidden(why));
    }
}

/// Containers that are named in annotations must be there.
fn app_armor_containers(template: &Value, metadata: &Value, at: &At<'_>, errors: &mut ErrorList) {
    const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
    for (key, _) in entries(metadata, "annotations") {
        let Some(name) = key.strip_prefix(APP_ARMOR) else {
            continue;
        };
        let spec = template.get("spec").unwrap_or(&Value::Null);
        if !every_container(spec).any(|(_, _, container)| text(container, "name") == name) {
            errors.push(at.key(key).invalid(name, "container not found"));
        }
    }
}
