//! Quantities of the generated API types as numbers, and sums of pods' requests and limits.
//!
//! **Invariant:** CPU is counted in thousandths, everything else in whole units rounded up, as upstream's
//! `MilliValue` and `Value` do. The pod sums follow upstream's resource helpers: sidecars run beside what
//! starts after them, other init containers one at a time, overhead on top.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::{PodExt, is_sidecar};

pub type ResourceList = BTreeMap<String, Quantity>;

/// In thousandths, rounded up. A text that is no quantity counts as nothing: the API server lets none pass.
pub fn milli(quantity: &Quantity) -> i64 {
    parsed(quantity).map_or(0, |q| q.milli_value())
}

/// In whole units, rounded up.
pub fn value(quantity: &Quantity) -> i64 {
    parsed(quantity).map_or(0, |q| q.value())
}

pub fn quantity(value: i64) -> Quantity {
    Quantity(value.to_string())
}

/// `1500m` or `2`.
pub fn cpu_quantity(milli: i64) -> Quantity {
    if milli % 1000 == 0 {
        Quantity((milli / 1000).to_string())
    } else {
        Quantity(format!("{milli}m"))
    }
}

/// The largest binary unit that divides evenly, as upstream prints binary quantities.
pub fn binary_quantity(bytes: i64) -> Quantity {
    for (unit, suffix) in [
        (1_i64 << 50, "Pi"),
        (1 << 40, "Ti"),
        (1 << 30, "Gi"),
        (1 << 20, "Mi"),
        (1 << 10, "Ki"),
    ] {
        if bytes != 0 && bytes % unit == 0 {
            return Quantity(format!("{}{suffix}", bytes / unit));
        }
    }
    quantity(bytes)
}

fn parsed(quantity: &Quantity) -> Option<machinery::quantity::Quantity> {
    quantity.0.parse().ok()
}

/// The amount of one resource in a list: thousandths for CPU.
pub fn amount(list: Option<&ResourceList>, resource: &str) -> Option<i64> {
    let quantity = list?.get(resource)?;
    Some(if resource == "cpu" {
        milli(quantity)
    } else {
        value(quantity)
    })
}

pub fn request(container: &Container, resource: &str) -> Option<i64> {
    amount(container.resources.as_ref()?.requests.as_ref(), resource)
}

pub fn limit(container: &Container, resource: &str) -> Option<i64> {
    amount(container.resources.as_ref()?.limits.as_ref(), resource)
}

/// What the pod asks for of every resource.
pub fn pod_requests(pod: &Pod) -> BTreeMap<String, i64> {
    sum(pod, |r| r.requests.as_ref(), true)
}

/// What the pod may take; a resource that some container may take without limit still shows the others' sum.
pub fn pod_limits(pod: &Pod) -> BTreeMap<String, i64> {
    sum(pod, |r| r.limits.as_ref(), false)
}

fn sum(
    pod: &Pod,
    list: impl Fn(&ResourceRequirements) -> Option<&ResourceList>,
    overhead_always: bool,
) -> BTreeMap<String, i64> {
    let of = |c: &Container| -> BTreeMap<String, i64> {
        c.resources
            .as_ref()
            .and_then(&list)
            .map(amounts)
            .unwrap_or_default()
    };
    let mut total = BTreeMap::new();
    for container in pod.containers() {
        add(&mut total, &of(container));
    }
    let mut sidecars = BTreeMap::new();
    let mut initialising: BTreeMap<String, i64> = BTreeMap::new();
    for container in pod.init_containers() {
        let own = of(container);
        let during = if is_sidecar(container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            sidecars.clone()
        } else {
            let mut during = own;
            add(&mut during, &sidecars);
            during
        };
        for (name, value) in during {
            let most = initialising.entry(name).or_default();
            *most = (*most).max(value);
        }
    }
    for (name, value) in initialising {
        let entry = total.entry(name).or_default();
        *entry = (*entry).max(value);
    }
    // Resources said for the pod as a whole replace the containers' sums.
    if let Some(level) = pod.spec().resources.as_ref().and_then(&list) {
        for (name, value) in amounts(level) {
            total.insert(name, value);
        }
    }
    if let Some(overhead) = &pod.spec().overhead {
        for (name, value) in amounts(overhead) {
            if overhead_always || total.get(&name).is_some_and(|v| *v != 0) {
                *total.entry(name).or_default() += value;
            }
        }
    }
    total
}

fn amounts(list: &ResourceList) -> BTreeMap<String, i64> {
    list.iter()
        .map(|(name, q)| (name.clone(), if name == "cpu" { milli(q) } else { value(q) }))
        .collect()
}

fn add(total: &mut BTreeMap<String, i64>, more: &BTreeMap<String, i64>) {
    for (name, value) in more {
        *total.entry(name.clone()).or_default() += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, whole, thousandths) in [
            ("100m", 1, 100),
            ("1.5", 2, 1500),
            ("1Ki", 1024, 1_024_000),
            ("x", 0, 0),
        ] {
            let q = Quantity(text.to_owned());
            assert_eq!((value(&q), milli(&q)), (whole, thousandths), "{text}");
        }
        assert_eq!(binary_quantity(128 << 20).0, "128Mi");
        assert_eq!(cpu_quantity(1500).0, "1500m");
    }

    #[test]
    fn sums_sidecars_and_init_containers() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "initContainers": [
                {"name": "a", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "b", "resources": {"requests": {"cpu": "700m"}}}],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "200m", "memory": "64Mi"}}}],
            "overhead": {"cpu": "10m"}
        }}))
        .unwrap();
        let sums = pod_requests(&pod);
        // Init container b beside the sidecar is the most CPU; init container a the most memory.
        assert_eq!(sums["cpu"], 810);
        assert_eq!(sums["memory"], 1 << 30);
    }
}
