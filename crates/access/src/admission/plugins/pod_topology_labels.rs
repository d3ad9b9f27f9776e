//! `PodTopologyLabels`: a pod carries the zone and region of its node, so that what runs in it can know where it is.

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::status::ApiError;
use machinery::{Value, meta};
use std::sync::{Arc, OnceLock};

const LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

#[derive(Default)]
pub(super) struct PodTopologyLabels {
    objects: OnceLock<Arc<dyn Objects>>,
}

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        operation == Operation::Create
            && target.group.is_empty()
            && target.resource == "pods"
            && matches!(target.subresource, "" | "binding")
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        let (Some(object), Some(objects)) = (object, self.objects.get()) else {
            return Ok(());
        };
        let node = if attributes.target.subresource.is_empty() {
            object.get_str_path(&["spec", "nodeName"])
        } else {
            object
                .get_str_path(&["target", "name"])
                .filter(|_| object.get_str_path(&["target", "kind"]) == Some("Node"))
        };
        let Some(node) = node.filter(|node| !node.is_empty()) else {
            return Ok(());
        };
        let Some(node) = objects.get("", "nodes", "", node).await? else {
            return Ok(());
        };
        for label in LABELS {
            if let Some(value) = meta::labels(&node).and_then(|labels| labels.get(label)) {
                meta::metadata_mut(object)
                    .object_entry("labels")
                    .insert(label, value.clone());
            }
        }
        Ok(())
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Ask, object};
    use super::*;

    #[test]
    fn pods_and_bindings_get_the_labels_of_their_node() {
        let check = |subresource: &str, text: &str, expected: Option<&str>| {
            let node = object(
                r#"{"metadata":{"name":"n","labels":{"topology.kubernetes.io/zone":"z","other":"o"}}}"#,
            );
            let mut made = object(text);
            let ask = Ask {
                subresource,
                ..Ask::create(("", "pods", "ns"))
            };
            ask.of(&PodTopologyLabels::default(), vec![("nodes", node)], &mut made)
                .unwrap();
            let labels = made.get_path(&["metadata", "labels"]);
            assert_eq!(labels, expected.map(object).as_ref(), "{text}");
        };
        let zone = Some(r#"{"topology.kubernetes.io/zone":"z"}"#);
        check("", r#"{"spec":{"nodeName":"n"}}"#, zone);
        check("", r#"{"spec":{}}"#, None);
        check("binding", r#"{"target":{"kind":"Node","name":"n"}}"#, zone);
        check("binding", r#"{"target":{"kind":"Other","name":"n"}}"#, None);
    }
}
