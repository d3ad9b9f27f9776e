//! The checks that only the restricted standard has.

use super::*;

pub(super) fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.bad(|container| {
        context(container, "allowPrivilegeEscalation").and_then(Value::as_bool) != Some(false)
    });
    if containers.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            these(&containers)
        ),
    )
}

pub(super) fn capabilities_restricted(pod: &Pod<'_>) -> Option<Violation> {
    let of = |container: &'_ Value, field: &str| -> Vec<String> {
        list(container.get_path(&["securityContext", "capabilities", field]))
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let keeping = pod.bad(|container| !of(container, "drop").iter().any(|dropped| dropped == "ALL"));
    let mut added = BTreeSet::new();
    let adding = pod.bad(|container| {
        let more: Vec<String> = of(container, "add")
            .into_iter()
            .filter(|added| added != "NET_BIND_SERVICE")
            .collect();
        let wrong = !more.is_empty();
        added.extend(more);
        wrong
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            r#"{} must set securityContext.capabilities.drop=["ALL"]"#,
            these(&keeping)
        ));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            these(&adding),
            quoted(added)
        ));
    }
    if details.is_empty() {
        return None;
    }
    violation("unrestricted capabilities", details.join("; "))
}

pub(super) fn restricted_volumes(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let mut kinds = BTreeSet::new();
    let mut volumes = Vec::new();
    for volume in list(pod.spec.get("volumes")) {
        if ALLOWED.iter().any(|kind| present(volume.get(kind)).is_some()) {
            continue;
        }
        volumes.push(name(volume));
        let kind = volume
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key.as_str())
            .find(|key| *key != "name");
        kinds.insert(kind.unwrap_or("unknown"));
    }
    if volumes.is_empty() {
        return None;
    }
    violation(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", volumes.len()),
            quoted(&volumes),
            plural("uses", "use", volumes.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quoted(&kinds)
        ),
    )
}

pub(super) fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of_pod = pod.context("runAsNonRoot").and_then(Value::as_bool);
    let said = |container: &Value| context(container, "runAsNonRoot").and_then(Value::as_bool);
    let root = pod.bad(|container| said(container) == Some(false));
    if let Some(who) = setters(of_pod == Some(false), &root) {
        return violation(
            REASON,
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        );
    }
    let silent = pod.bad(|container| said(container).is_none() && of_pod != Some(true));
    if silent.is_empty() {
        return None;
    }
    violation(
        REASON,
        format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            these(&silent)
        ),
    )
}

pub(super) fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    let root = |user: Option<&Value>| user.and_then(Value::as_i64) == Some(0);
    let containers = pod.bad(|container| root(context(container, "runAsUser")));
    let who = setters(root(pod.context("runAsUser")), &containers)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}
