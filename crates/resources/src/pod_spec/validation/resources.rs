//! Resources of containers: their names, amounts, and what requests and limits must be to each other.

use super::Holder;
use crate::At;
use crate::check;
use crate::fields::{entries, list, present, text};
use machinery::field::{ErrorList, Path};
use machinery::quantity::Quantity;
use machinery::{Key, Value, names};

/// Resources of the API itself that have no domain.
#[rustfmt::skip]
const STANDARD: [&str; 20] = [
    "configmaps", "cpu", "ephemeral-storage", "limits.cpu", "limits.ephemeral-storage", "limits.memory", "memory",
    "persistentvolumeclaims", "pods", "replicationcontrollers", "requests.cpu", "requests.ephemeral-storage",
    "requests.memory", "requests.storage", "resourcequotas", "secrets", "services", "services.loadbalancers",
    "services.nodeports", "storage",
];

/// Resources that come in whole numbers.
#[rustfmt::skip]
const COUNTED: [&str; 9] = [
    "configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "resourcequotas", "secrets", "services",
    "services.loadbalancers", "services.nodeports",
];

/// Pages of one size.
pub fn is_hugepage(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// One of Kubernetes' own.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// One of somebody else's.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(name).is_empty()
        // It must still be a name with `requests.` before it, as quotas have it.
        && name.split_once('/').is_some_and(|(domain, _)| domain.len() + "requests.".len() <= 253)
}

/// Whether limits may be above requests.
pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_hugepage(name)
}

/// The name of a resource.
pub fn resource_name(name: &str, at: &At<'_>, errors: &mut ErrorList) -> bool {
    let wrong = names::qualified_name(name);
    if !wrong.is_empty() {
        check::each(wrong, name, at, errors);
        return false;
    }
    let known = STANDARD.contains(&name) || is_hugepage(name) || name.starts_with("requests.hugepages-");
    if !name.contains('/') && !known {
        errors.push(at.invalid(name, "must be a standard resource type or fully qualified"));
        return false;
    }
    true
}

/// The name of a resource of containers.
pub fn container_resource_name(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    if matches!(name, "cpu" | "memory") {
        return;
    }
    resource_name(name, at, errors);
    if !name.contains('/') {
        if name != "ephemeral-storage" && !is_hugepage(name) {
            errors.push(at.invalid(name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(at.invalid(name, "doesn't follow extended resource name standard"));
    }
}

fn pod_resource_name(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    if resource_name(name, at, errors) && !matches!(name, "cpu" | "memory") && !is_hugepage(name) {
        errors.push(at.not_supported(name, &["cpu", "hugepages-", "memory"]));
    }
}

/// An amount of a resource.
pub fn quantity_value(name: &str, value: &Value, at: &At<'_>, errors: &mut ErrorList) {
    check::not_negative_quantity(value, at, errors);
    if COUNTED.contains(&name) || is_extended(name) {
        let amount = value.as_str().unwrap_or_default();
        let whole = amount
            .parse::<Quantity>()
            .is_ok_and(|quantity| quantity.milli_value() % 1000 == 0);
        if !whole {
            errors.push(at.invalid(amount, "must be an integer"));
        }
    }
}

/// Limits and requests of a container.
pub fn requirements(requirements: &Value, claims: &[&str], at: &At<'_>, errors: &mut ErrorList) {
    judge(requirements, container_resource_name, claims, at, errors);
}

/// Limits and requests of a pod as a whole.
pub(super) fn pod_requirements(requirements: &Value, claims: &[&str], at: &At<'_>, errors: &mut ErrorList) {
    judge(requirements, pod_resource_name, claims, at, errors);
}

/// What a pod takes beside its containers.
pub(super) fn overhead(overhead: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let limits = overhead
        .as_object()
        .map(machinery::Map::as_slice)
        .unwrap_or_default();
    each_amount(limits, container_resource_name, &at.child("limits"), errors);
}

type NameRule = fn(&str, &At<'_>, &mut ErrorList);

fn judge(requirements: &Value, rule: NameRule, claims: &[&str], at: &At<'_>, errors: &mut ErrorList) {
    let (limits, requests) = (entries(requirements, "limits"), entries(requirements, "requests"));
    let (at_limits, at_requests) = (at.child("limits"), at.child("requests"));
    each_amount(limits, rule, &at_limits, errors);
    let limit_of = |name: &Key| {
        limits
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, limit)| limit)
    };
    for (name, request) in requests {
        amount(name, request, rule, &at_requests.key(name), errors);
        match limit_of(name) {
            Some(limit) if limit == request => {}
            Some(limit) => against_limit(name, request, limit, &at_requests, errors),
            None if !may_overcommit(name) => {
                errors.push(at_limits.required("Limit must be set for non overcommitable resources"));
            }
            None => {}
        }
    }
    let all = || limits.iter().chain(requests);
    let compute = |(name, _): &(Key, Value)| matches!(name.as_str(), "cpu" | "memory");
    if all().any(|(name, _)| is_hugepage(name)) && !all().any(compute) {
        errors.push(at.forbidden("HugePages require cpu or memory"));
    }
    claim_names(requirements, claims, &at.child("claims"), errors);
}

fn against_limit(name: &str, request: &Value, limit: &Value, at: &At<'_>, errors: &mut ErrorList) {
    let parse = |value: &Value| value.as_str().and_then(|text| text.parse::<Quantity>().ok());
    let (Some(wanted), Some(most)) = (parse(request), parse(limit)) else {
        return;
    };
    let limit = limit.as_str().unwrap_or_default();
    if wanted != most && !may_overcommit(name) {
        errors.push(at.invalid(
            request.clone(),
            format!("must be equal to {name} limit of {limit}"),
        ));
    } else if wanted > most {
        errors.push(at.invalid(
            request.clone(),
            format!("must be less than or equal to {name} limit of {limit}"),
        ));
    }
}

fn each_amount(amounts: &[(Key, Value)], rule: NameRule, at: &At<'_>, errors: &mut ErrorList) {
    for (name, value) in amounts {
        amount(name, value, rule, &at.key(name), errors);
    }
}

fn amount(name: &str, value: &Value, rule: NameRule, at: &At<'_>, errors: &mut ErrorList) {
    rule(name, at, errors);
    quantity_value(name, value, at, errors);
    let Some(page) = name.strip_prefix("hugepages-") else {
        return;
    };
    let text = value.as_str().unwrap_or_default();
    let size = page.parse::<Quantity>().map(|size| size.value()).unwrap_or(0);
    let amount = text.parse::<Quantity>().map(|amount| amount.value()).unwrap_or(0);
    if size > 0 && amount % size != 0 {
        errors.push(at.invalid(text, format!("{text} is not positive integer multiple of {name}")));
    }
}

/// Claims a container uses must be the pod's.
fn claim_names(requirements: &Value, known: &[&str], at: &At<'_>, errors: &mut ErrorList) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, claim) in list(requirements, "claims").iter().enumerate() {
        let at = at.index(index);
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            errors.push(at.required(""));
            continue;
        }
        if !request.is_empty() {
            check::label(request, &at.child("request"), errors);
        }
        if seen.contains(&(name, "")) || (request.is_empty() && seen.iter().any(|(other, _)| *other == name))
        {
            errors.push(at.duplicate(name));
        } else if seen.contains(&(name, request)) {
            errors.push(at.duplicate(format!("{name}/{request}")));
        }
        seen.push((name, request));
        if !known.contains(&name) {
            let mut error = at.not_found(name);
            error.detail = if known.is_empty() {
                "must be one of the names in pod.spec.resourceClaims which is empty".to_owned()
            } else {
                let mut known = known.to_vec();
                known.sort_unstable();
                format!(
                    "must be one of the names in pod.spec.resourceClaims: {}",
                    known.join(", ")
                )
            };
            errors.push(error);
        }
    }
}

/// What a change of each resource does to a running container.
pub(super) fn resize_policy(container: &Value, pod_policy: &str, at: &At<'_>, errors: &mut ErrorList) {
    let policies = list(container, "resizePolicy");
    for (index, policy) in policies.iter().enumerate() {
        let (resource, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if policies[..index]
            .iter()
            .any(|other| text(other, "resourceName") == resource)
        {
            errors.push(at.index(index).duplicate(resource));
        }
        check::required_one_of(resource, &["cpu", "memory"], at, errors);
        check::required_one_of(restart, &["NotRequired", "RestartContainer"], at, errors);
        if pod_policy == "Never" && restart != "NotRequired" {
            let why = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(at.invalid(restart, why));
        }
    }
}

/// The claims of a pod.
pub(super) fn pod_claims(spec: &Value, holder: Holder<'_>, at: &At<'_>, errors: &mut ErrorList) {
    let claims = list(spec, "resourceClaims");
    for (index, claim) in claims.iter().enumerate() {
        if holder.mirror {
            let why = "static pods do not support resource claims";
            errors.push(machinery::field::Error::forbidden(&Path::new(""), why));
            continue;
        }
        let at = at.index(index);
        let name = text(claim, "name");
        if name.is_empty() {
            errors.push(at.child("name").required(""));
        } else if claims[..index].iter().any(|other| text(other, "name") == name) {
            errors.push(at.child("name").duplicate(name));
        } else {
            check::label(name, &at.child("name"), errors);
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        let given = sources.map(|field| present(claim, field).and_then(Value::as_str));
        match given {
            [Some(_), Some(_)] => {
                let why =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.push(at.invalid(claim.clone(), why));
            }
            [None, None] => {
                let why = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.push(at.invalid(claim.clone(), why));
            }
            _ => {}
        }
        for (field, name) in sources.iter().zip(given) {
            if let Some(name) = name {
                check::subdomain(name, &at.child(field), errors);
            }
        }
    }
}
