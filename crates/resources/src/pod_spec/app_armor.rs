//! AppArmor profiles in their old place: annotations, one a container.

use crate::fields::{list_mut, present, text, text_at};
use machinery::{Map, Value, meta};

pub(super) const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
const LOCALHOST: &str = "localhost/";

/// Writes what annotations say into the field of each container that says nothing itself.
pub fn annotations_to_fields(pod: &mut Value) {
    let given =
        |pod: &Value| meta::annotations(pod).is_some_and(|a| a.keys().any(|key| key.starts_with(PREFIX)));
    if !given(pod) || text_at(pod, &["spec", "os", "name"]) == "windows" {
        return;
    }
    let annotations = meta::annotations(pod).cloned().unwrap_or_default();
    let Some(spec) = pod.get_mut("spec") else { return };
    let own = spec.get_path(&["securityContext", "appArmorProfile"]).cloned();
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list_mut(spec, field) {
            let key = format!("{PREFIX}{}", text(container, "name"));
            let context = present(container, "securityContext");
            if context.is_some_and(|context| present(context, "appArmorProfile").is_some()) {
                continue;
            }
            let profile = annotations.get(&key).and_then(Value::as_str).and_then(profile);
            if let Some(profile) = profile.filter(|profile| own.as_ref() != Some(profile)) {
                container.set_path(&["securityContext", "appArmorProfile"], profile);
            }
        }
    }
}

pub(super) fn profile(annotation: &str) -> Option<Value> {
    let mut profile = Map::new();
    match annotation {
        "unconfined" => {
            profile.insert("type", "Unconfined");
        }
        "runtime/default" => {
            profile.insert("type", "RuntimeDefault");
        }
        _ => {
            let name = annotation
                .strip_prefix(LOCALHOST)
                .filter(|name| !name.is_empty())?;
            profile.insert("localhostProfile", name);
            profile.insert("type", "Localhost");
        }
    }
    Some(profile.into())
}
