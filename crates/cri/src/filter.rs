//! What a list filter means, said once for server, fakes and tests: every given part must match, an absent
//! part matches all. Ids match by prefix only where the caller resolves them first; here they are exact.

use std::collections::HashMap;

use crate::v1;

fn labels_match(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl v1::PodSandboxFilter {
    pub fn matches(&self, sandbox: &v1::PodSandbox) -> bool {
        (self.id.is_empty() || self.id == sandbox.id)
            && self
                .state
                .as_ref()
                .is_none_or(|wanted| wanted.state == sandbox.state)
            && labels_match(&self.label_selector, &sandbox.labels)
    }
}

impl v1::ContainerFilter {
    pub fn matches(&self, container: &v1::Container) -> bool {
        (self.id.is_empty() || self.id == container.id)
            && (self.pod_sandbox_id.is_empty() || self.pod_sandbox_id == container.pod_sandbox_id)
            && self
                .state
                .as_ref()
                .is_none_or(|wanted| wanted.state == container.state)
            && labels_match(&self.label_selector, &container.labels)
    }
}

impl v1::ContainerStatsFilter {
    pub fn matches(&self, id: &str, sandbox_id: &str, labels: &HashMap<String, String>) -> bool {
        (self.id.is_empty() || self.id == id)
            && (self.pod_sandbox_id.is_empty() || self.pod_sandbox_id == sandbox_id)
            && labels_match(&self.label_selector, labels)
    }
}

impl v1::PodSandboxStatsFilter {
    pub fn matches(&self, id: &str, labels: &HashMap<String, String>) -> bool {
        (self.id.is_empty() || self.id == id) && labels_match(&self.label_selector, labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_given_part_must_match() {
        let container = v1::Container {
            id: "c1".into(),
            pod_sandbox_id: "p1".into(),
            state: v1::ContainerState::ContainerRunning as i32,
            labels: HashMap::from([("app".into(), "web".into())]),
            ..Default::default()
        };
        let all = v1::ContainerFilter::default();
        assert!(all.matches(&container));
        let other_pod = v1::ContainerFilter {
            pod_sandbox_id: "p2".into(),
            ..Default::default()
        };
        assert!(!other_pod.matches(&container));
        let exited = v1::ContainerStateValue {
            state: v1::ContainerState::ContainerExited as i32,
        };
        assert!(
            !v1::ContainerFilter {
                state: Some(exited),
                ..Default::default()
            }
            .matches(&container)
        );
        let label = HashMap::from([("app".to_owned(), "web".to_owned())]);
        assert!(
            v1::ContainerFilter {
                label_selector: label,
                ..Default::default()
            }
            .matches(&container)
        );
    }
}
