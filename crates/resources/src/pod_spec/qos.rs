//! The quality-of-service class of a pod, which is decided once, when it is made.

use super::resources::quantity;
use crate::fields::{list, present};
use machinery::Value;
use machinery::quantity::Quantity;

const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`, from the requests and limits of a pod's spec.
pub fn class(spec: &Value) -> &'static str {
    let mut requests = [Quantity::ZERO; 2];
    let mut limits = [Quantity::ZERO; 2];
    let mut guaranteed = true;
    let mut add = |requirements: Option<&Value>| {
        let side = |name| requirements.and_then(|r| r.get(name));
        for (at, resource) in COMPUTE.into_iter().enumerate() {
            let (request, limit) = (
                quantity(side("requests"), resource),
                quantity(side("limits"), resource),
            );
            if request.sign() > 0 {
                requests[at] = requests[at] + request;
            }
            if limit.sign() > 0 {
                limits[at] = limits[at] + limit;
            } else {
                guaranteed = false;
            }
        }
    };
    match present(spec, "resources") {
        Some(resources) => add(Some(resources)),
        None => {
            for container in list(spec, "containers")
                .iter()
                .chain(list(spec, "initContainers"))
            {
                add(container.get("resources"));
            }
        }
    }
    let nothing = |amounts: &[Quantity; 2]| amounts.iter().all(Quantity::is_zero);
    if nothing(&requests) && nothing(&limits) {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
