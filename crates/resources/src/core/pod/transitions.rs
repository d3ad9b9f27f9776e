//! A container that ended and is not to be restarted has ended for good.

use crate::At;
use crate::fields::{int, list, list_at, present, text, text_at};
use machinery::Value;
use machinery::field::ErrorList;

/// Refuses statuses in which such a container runs again.
pub(super) fn terminated_stay(new: &Value, old: &Value, errors: &mut ErrorList) {
    let spec = old.get("spec").unwrap_or(&Value::Null);
    if restarts_all(spec) {
        return;
    }
    for (field, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
    ] {
        let at = At::new("status");
        let at = at.child(field);
        for (index, old_status) in list_at(old, &["status", field]).iter().enumerate() {
            let Some(code) = exit_code(old_status) else {
                continue;
            };
            let name = text(old_status, "name");
            let again = list_at(new, &["status", field])
                .iter()
                .any(|status| text(status, "name") == name && exit_code(status).is_none());
            let container = list(spec, containers)
                .iter()
                .find(|container| text(container, "name") == name);
            if again && !container.is_some_and(|container| should_restart(container, spec, containers, code))
            {
                let at = at.index(index);
                errors.push(
                    at.child("state")
                        .forbidden("may not be transitioned to non-terminated state"),
                );
            }
        }
    }
}

fn exit_code(status: &Value) -> Option<i64> {
    let terminated = status
        .get_path(&["state", "terminated"])
        .filter(|value| !value.is_null())?;
    Some(int(terminated, "exitCode").unwrap_or(0))
}

/// Some container's rules start all of them anew.
fn restarts_all(spec: &Value) -> bool {
    ["containers", "initContainers"]
        .iter()
        .flat_map(|field| list(spec, field))
        .any(|container| {
            list(container, "restartPolicyRules")
                .iter()
                .any(|rule| text(rule, "action") == "RestartAllContainers")
        })
}

fn should_restart(container: &Value, spec: &Value, kind: &str, code: i64) -> bool {
    for rule in list(container, "restartPolicyRules") {
        let listed = list_at(rule, &["exitCodes", "values"])
            .iter()
            .any(|value| value.as_i64() == Some(code));
        let matches = match text_at(rule, &["exitCodes", "operator"]) {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if matches && text(rule, "action") == "Restart" {
            return true;
        }
    }
    let own = present(container, "restartPolicy").and_then(Value::as_str);
    // A pod that always restarts does not restart an init container that succeeded.
    let of_pod = match (text(spec, "restartPolicy"), kind) {
        ("Always", "initContainers") => "OnFailure",
        (policy, _) => policy,
    };
    match own.unwrap_or(of_pod) {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}
