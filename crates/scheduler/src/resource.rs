//! What pods ask for and nodes have, as integers.

use compact_str::CompactString;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Amounts of every resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// How many pods a node takes; unused for pods.
    pub pods: i64,
    /// Every other resource, few per object.
    pub scalars: Vec<(CompactString, i64)>,
}

/// A container that asks for nothing counts as this much when nodes are compared.
pub const DEFAULT_MILLI_CPU: i64 = 100;
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

impl Resource {
    /// Reads a resource list.
    pub fn of(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let mut resource = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            match name.as_str() {
                "cpu" => resource.milli_cpu = milli_value(quantity),
                "memory" => resource.memory = value(quantity),
                "ephemeral-storage" => resource.ephemeral_storage = value(quantity),
                "pods" => resource.pods = value(quantity),
                other => resource.scalars.push((other.into(), value(quantity))),
            }
        }
        resource
    }

    pub fn scalar(&self, name: &str) -> i64 {
        self.scalars
            .iter()
            .find(|(n, _)| n == name)
            .map_or(0, |(_, v)| *v)
    }

    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// The greater of both, resource by resource.
    pub fn at_least(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalars {
            match self.scalars.iter_mut().find(|(n, _)| n == name) {
                Some((_, have)) => *have = with(*have, *amount),
                None => self.scalars.push((name.clone(), with(0, *amount))),
            }
        }
    }

    /// Puts the amounts that `list` names in place of these.
    fn replace_by(&mut self, list: &BTreeMap<String, Quantity>) {
        let other = Self::of(Some(list));
        for name in list.keys() {
            match name.as_str() {
                "cpu" => self.milli_cpu = other.milli_cpu,
                "memory" => self.memory = other.memory,
                _ => {
                    let amount = other.scalar(name);
                    match self.scalars.iter_mut().find(|(n, _)| n == name) {
                        Some((_, have)) => *have = amount,
                        None => self.scalars.push((name.as_str().into(), amount)),
                    }
                }
            }
        }
    }
}

/// What a pod asks for: exactly, and with defaults where it says nothing.
pub struct PodRequests {
    pub exact: Resource,
    pub non_zero_milli_cpu: i64,
    pub non_zero_memory: i64,
    /// Whether no container asks for or is limited in CPU or memory.
    pub best_effort: bool,
}

/// Adds up a pod as upstream does: containers and sidecars run together, init containers one after the other
/// beside the sidecars started before them; pod-level resources take precedence; overhead comes on top.
pub fn pod_requests(pod: &Pod) -> PodRequests {
    let Some(spec) = &pod.spec else {
        return PodRequests {
            exact: Resource::default(),
            non_zero_milli_cpu: 0,
            non_zero_memory: 0,
            best_effort: true,
        };
    };
    let exact = aggregate(pod, spec, |_, _| {});
    let non_zero = aggregate(pod, spec, |container, resource| {
        let asks = |name: &str| {
            let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            requests.is_some_and(|r| r.contains_key(name))
        };
        if !asks("cpu") {
            resource.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asks("memory") {
            resource.memory = DEFAULT_MEMORY;
        }
    });
    PodRequests {
        exact,
        non_zero_milli_cpu: non_zero.milli_cpu,
        non_zero_memory: non_zero.memory,
        best_effort: is_best_effort(spec),
    }
}

fn aggregate(pod: &Pod, spec: &PodSpec, adjust: impl Fn(&Container, &mut Resource)) -> Resource {
    let statuses = pod.status.as_ref();
    let of = |container: &Container| {
        let mut resource = Resource::of(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
        // While a resize is under way the node still has to hold the greater of what is asked and what is in force.
        let in_force = statuses
            .into_iter()
            .flat_map(|s| {
                s.container_statuses
                    .iter()
                    .flatten()
                    .chain(s.init_container_statuses.iter().flatten())
            })
            .find(|s| s.name == container.name)
            .and_then(|s| s.resources.as_ref()?.requests.as_ref());
        if in_force.is_some() {
            resource.at_least(&Resource::of(in_force));
        }
        adjust(container, &mut resource);
        resource
    };
    let mut total = Resource::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    let mut sidecars = Resource::default();
    let mut init = Resource::default();
    for container in spec.init_containers.iter().flatten() {
        let mut resource = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&resource);
            sidecars.add(&resource);
            resource = sidecars.clone();
        } else {
            resource.add(&sidecars);
        }
        init.at_least(&resource);
    }
    total.at_least(&init);
    if let Some(list) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        total.replace_by(list);
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resource::of(Some(overhead)));
    }
    total
}

fn is_best_effort(spec: &PodSpec) -> bool {
    let silent = |resources: Option<&ResourceRequirements>| {
        resources.is_none_or(|r| {
            let names = |list: &Option<BTreeMap<String, Quantity>>| {
                list.iter().flatten().any(|(n, _)| n == "cpu" || n == "memory")
            };
            !names(&r.requests) && !names(&r.limits)
        })
    };
    silent(spec.resources.as_ref())
        && spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .all(|c| silent(c.resources.as_ref()))
}

/// The quantity in whole units, rounded up.
pub fn value(quantity: &Quantity) -> i64 {
    parse(quantity).value()
}

/// The quantity in thousandths, rounded up.
pub fn milli_value(quantity: &Quantity) -> i64 {
    parse(quantity).milli_value()
}

/// Validation has seen to the form; text that is no quantity counts as nothing.
fn parse(quantity: &Quantity) -> machinery::quantity::Quantity {
    quantity.0.parse().unwrap_or(machinery::quantity::Quantity::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_add_up() {
        let check = |spec: serde_json::Value, cpu: i64, memory: i64| {
            let pod: Pod = serde_json::from_value(serde_json::json!({ "spec": spec })).expect("pod");
            let requests = pod_requests(&pod).exact;
            assert_eq!((requests.milli_cpu, requests.memory), (cpu, memory), "{spec}");
        };
        let c = |name: &str, cpu: &str| serde_json::json!({"name": name, "resources": {"requests": {"cpu": cpu, "memory": "1Ki"}}});
        let mut sidecar = c("s", "1");
        sidecar["restartPolicy"] = "Always".into();
        check(
            serde_json::json!({"containers": [c("a", "1"), c("b", "2")]}),
            3000,
            2048,
        );
        check(
            serde_json::json!({"containers": [c("a", "1")], "initContainers": [c("i", "4")]}),
            4000,
            1024,
        );
        check(
            serde_json::json!({"containers": [c("a", "1")], "initContainers": [sidecar, c("i", "4")]}),
            5000,
            2048,
        );
        check(
            serde_json::json!({"containers": [c("a", "1")], "resources": {"requests": {"cpu": "7"}}, "overhead": {"cpu": "500m"}}),
            7500,
            1024,
        );
    }
}
