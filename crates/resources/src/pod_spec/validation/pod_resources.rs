//! Resources of the pod as a whole against those of its containers.

use super::{Scope, resources};
use crate::At;
use crate::fields::{entries, list, present, text_at};
use crate::pod_spec::pod_level::aggregate;
use machinery::Value;
use machinery::field::ErrorList;
use machinery::quantity::Quantity;

pub(super) fn pod_resources(scope: &Scope<'_>, at: &At<'_>, errors: &mut ErrorList) {
    let Some(own) = present(scope.spec, "resources") else {
        return;
    };
    let at = at.child("resources");
    if text_at(scope.spec, &["os", "name"]) == "windows" {
        errors.push(at.forbidden("may not be set for a windows pod"));
        return;
    }
    if present(own, "claims").is_some() {
        errors.push(
            at.child("claims")
                .forbidden("claims may not be set for Resources at pod-level"),
        );
    }
    resources::pod_requirements(own, &scope.claims, &at, errors);
    let requests = at.child("requests");
    for (name, needed) in aggregate(scope.spec, "requests") {
        if let Some((shown, own)) = amount(own, "requests", &name)
            && needed > own
        {
            let why = format!("must be greater than or equal to aggregate container requests of {needed}");
            errors.push(requests.key(&name).invalid(shown, why));
        }
    }
    let limits = at.child("limits");
    for (name, needed) in aggregate(scope.spec, "limits") {
        if let Some((shown, own)) = amount(own, "limits", &name).filter(|_| resources::is_hugepage(&name))
            && needed > own
        {
            let why = format!("must be greater than or equal to aggregate container limits of {needed}");
            errors.push(limits.key(&name).invalid(shown, why));
        }
    }
    let containers = at.child("containers");
    for (index, container) in list(scope.spec, "containers").iter().enumerate() {
        let Some(own_limits) = container.get("resources") else {
            continue;
        };
        for (name, limit) in entries(own_limits, "limits") {
            let Some((shown, most)) = amount(own, "limits", name) else {
                continue;
            };
            let limit = limit.as_str().unwrap_or_default();
            if limit.parse::<Quantity>().is_ok_and(|limit| limit > most) {
                let at = containers.index(index);
                let at = at.key(name);
                let why = format!("must be less than or equal to pod limits of {shown}");
                errors.push(at.child("limits").invalid(limit, why));
            }
        }
    }
}

fn amount<'a>(requirements: &'a Value, side: &str, name: &str) -> Option<(&'a str, Quantity)> {
    let text = requirements.get_str_path(&[side, name])?;
    Some((text, text.parse().ok()?))
}
