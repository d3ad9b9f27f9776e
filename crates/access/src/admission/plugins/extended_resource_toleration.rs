//! `ExtendedResourceToleration`: a pod that asks for an extended resource tolerates the taint of its name, so nodes with
//! costly devices can be kept for those who use them.

use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::Value;
use machinery::status::ApiError;
use resources::quota::{amounts, pod_resources::containers};
use std::collections::BTreeSet;

pub(super) struct ExtendedResourceToleration;

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && target.is("", "pods")
    }

    async fn admit(&self, _: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        let Some(pod) = object else { return Ok(()) };
        let asked: BTreeSet<String> = ["containers", "initContainers"]
            .iter()
            .flat_map(|field| containers(pod, field))
            .flat_map(|container| amounts::names(container.get_path(&["resources", "requests"])))
            .filter(|name| name.contains('/') && !name.contains("kubernetes.io/"))
            .map(str::to_owned)
            .collect();
        for name in asked {
            let toleration = [("key", Value::from(name)), ("operator", "Exists".into())];
            let toleration = Value::Object(toleration.into_iter().collect());
            super::runtime_class::add_toleration(pod, &toleration);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{create, object};
    use super::*;

    #[test]
    fn what_is_asked_for_is_tolerated() {
        let mut pod =
            object(r#"{"spec":{"containers":[{"resources":{"requests":{"cpu":"1","b.c/gpu":"1"}}}]}}"#);
        for _ in 0..2 {
            create(
                &ExtendedResourceToleration,
                Vec::new(),
                ("", "pods", "ns"),
                &mut pod,
            )
            .unwrap();
        }
        let expected = object(r#"[{"key":"b.c/gpu","operator":"Exists"}]"#);
        assert_eq!(pod.get_path(&["spec", "tolerations"]), Some(&expected));
    }
}
