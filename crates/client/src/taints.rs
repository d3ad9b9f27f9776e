//! Taints and what tolerates them, for the scheduler and for those who drive pods away.

use k8s_openapi::api::core::v1::{Taint, Toleration};
use k8s_openapi::api::resource::v1::{DeviceTaint, DeviceToleration};

/// Whether one of the tolerations tolerates the taint.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| tolerates_one(t, taint))
}

/// Whether the toleration tolerates the taint; empty keys and effects tolerate all.
pub fn tolerates_one(toleration: &Toleration, taint: &Taint) -> bool {
    let differs =
        |own: &Option<String>, other: &str| own.as_deref().is_some_and(|o| !o.is_empty() && o != other);
    if differs(&toleration.effect, &taint.effect) || differs(&toleration.key, &taint.key) {
        return false;
    }
    let value = toleration.value.as_deref().unwrap_or("");
    let has = taint.value.as_deref().unwrap_or("");
    let number = |text: &str| text.parse::<i64>().ok();
    match toleration.operator.as_deref() {
        None | Some("" | "Equal") => value == has,
        Some("Exists") => true,
        Some("Lt") => matches!((number(has), number(value)), (Some(has), Some(limit)) if has < limit),
        Some("Gt") => matches!((number(has), number(value)), (Some(has), Some(limit)) if has > limit),
        Some(_) => false,
    }
}

/// Whether the toleration of a claim tolerates the taint of a device.
pub fn tolerates_device(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match text(&toleration.operator).as_str() {
        "" | "Equal" => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations() {
        let taint = |value: &str| Taint {
            key: "k".into(),
            value: Some(value.into()),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        for (toleration, value, expected) in [
            (
                json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}),
                "v",
                true,
            ),
            (json!({"key": "k", "value": "v"}), "v", true),
            (json!({"key": "k", "value": "w"}), "v", false),
            (json!({"operator": "Exists"}), "v", true),
            (
                json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}),
                "v",
                false,
            ),
            (json!({"key": "j", "operator": "Exists"}), "v", false),
            (json!({"key": "k", "operator": "Gt", "value": "5"}), "7", true),
            (json!({"key": "k", "operator": "Lt", "value": "5"}), "7", false),
        ] {
            let parsed: Toleration = serde_json::from_value(toleration.clone()).expect("toleration");
            assert_eq!(tolerates(&[parsed], &taint(value)), expected, "{toleration}");
        }
    }
}
