//! A container's CPU and memory as numbers, and how they differ.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::pod::PodExt;
use crate::quantity::{ResourceList, amount, binary_quantity, cpu_quantity, limit, request};

/// What can be resized.
pub const NAMES: [&str; 2] = ["cpu", "memory"];

/// Thousandths and bytes; zero for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu_request: i64,
    pub cpu_limit: i64,
    pub memory_request: i64,
    pub memory_limit: i64,
}

impl Amounts {
    /// A limit given for the whole pod holds for a container without its own.
    pub fn of(pod: &Pod, container: &Container) -> Self {
        let level = pod.spec().resources.as_ref().and_then(|r| r.limits.as_ref());
        let limited = |name| {
            limit(container, name)
                .or_else(|| amount(level, name))
                .unwrap_or(0)
        };
        Self {
            cpu_request: request(container, "cpu").unwrap_or(0),
            cpu_limit: limited("cpu"),
            memory_request: request(container, "memory").unwrap_or(0),
            memory_limit: limited("memory"),
        }
    }

    /// As a spec says it.
    pub fn requirements(&self) -> ResourceRequirements {
        let list = |cpu: i64, memory: i64| {
            let mut list = ResourceList::new();
            if cpu != 0 {
                list.insert("cpu".to_owned(), cpu_quantity(cpu));
            }
            if memory != 0 {
                list.insert("memory".to_owned(), binary_quantity(memory));
            }
            (!list.is_empty()).then_some(list)
        };
        ResourceRequirements {
            requests: list(self.cpu_request, self.memory_request),
            limits: list(self.cpu_limit, self.memory_limit),
            ..ResourceRequirements::default()
        }
    }

    /// Whether the change from `self` to `wanted` needs the container to start anew.
    pub fn needs_restart(&self, wanted: &Self, container: &Container) -> bool {
        let restarts = |name: &str| {
            container
                .resize_policy
                .iter()
                .flatten()
                .any(|p| p.resource_name == name && p.restart_policy == "RestartContainer")
        };
        let cpu = self.cpu_request != wanted.cpu_request || self.cpu_limit != wanted.cpu_limit;
        let memory = self.memory_request != wanted.memory_request || self.memory_limit != wanted.memory_limit;
        cpu && restarts("cpu") || memory && restarts("memory")
    }

    /// Whether something of it grows: such changes go last.
    pub fn grows(&self, wanted: &Self) -> bool {
        let more = |before: i64, after: i64| before != 0 && (after > before || after == 0);
        more(self.memory_limit, wanted.memory_limit) || more(self.cpu_limit, wanted.cpu_limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_asked_for_by_resource() {
        let container: Container = serde_json::from_value(serde_json::json!({"name": "c",
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]}))
        .unwrap();
        let before = Amounts {
            cpu_limit: 100,
            memory_limit: 100,
            ..Amounts::default()
        };
        let cpu = Amounts {
            cpu_limit: 200,
            ..before
        };
        let memory = Amounts {
            memory_limit: 50,
            ..before
        };
        assert!(!before.needs_restart(&cpu, &container) && before.needs_restart(&memory, &container));
        assert!(before.grows(&cpu) && !before.grows(&memory));
    }
}
