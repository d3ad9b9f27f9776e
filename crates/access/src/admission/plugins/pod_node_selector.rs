//! `PodNodeSelector`: a namespace says, in an annotation, which nodes its pods run on.

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::status::ApiError;
use machinery::{Map, Value, meta};
use std::sync::{Arc, OnceLock};

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
const CONFLICT: &str = "pod node label selector conflicts with its namespace node label selector";

#[derive(Default)]
pub(super) struct PodNodeSelector {
    objects: OnceLock<Arc<dyn Objects>>,
}

impl PodNodeSelector {
    /// What the pod's namespace demands.
    async fn demanded(&self, attributes: &Attributes<'_>, pod: &Value) -> Result<Map, ApiError> {
        let Some(objects) = self.objects.get() else {
            return Ok(Map::default());
        };
        let name = attributes.target.namespace;
        let namespace = objects.get("", "namespaces", "", name).await?;
        let text = namespace
            .as_deref()
            .and_then(|namespace| meta::annotation(namespace, ANNOTATION))
            .unwrap_or_default();
        let mut labels = Map::default();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(attributes.forbidden(Some(pod), format!("invalid selector: [{text}]")));
            };
            labels.insert(key.trim(), value.trim());
        }
        Ok(labels)
    }
}

#[async_trait]
impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        operation == Operation::Create && target.is("", "pods")
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        let Some(pod) = object else { return Ok(()) };
        let demanded = self.demanded(attributes, pod).await?;
        if demanded.is_empty() {
            return Ok(());
        }
        if conflicts(pod, &demanded) {
            return Err(attributes.forbidden(Some(pod), CONFLICT));
        }
        let selector = pod
            .make_object()
            .object_entry("spec")
            .object_entry("nodeSelector");
        for (key, value) in demanded.iter() {
            selector.insert(key.clone(), value.clone());
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let Some(pod) = object else { return Ok(()) };
        if conflicts(pod, &self.demanded(attributes, pod).await?) {
            return Err(attributes.forbidden(object, CONFLICT));
        }
        Ok(())
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }
}

fn conflicts(pod: &Value, demanded: &Map) -> bool {
    let selector = pod.get_path(&["spec", "nodeSelector"]).and_then(Value::as_object);
    demanded.iter().any(|(key, value)| {
        selector
            .and_then(|selector| selector.get(key.as_str()))
            .is_some_and(|own| own != value)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{create, object};
    use super::*;

    #[test]
    fn the_namespace_chooses_the_nodes() {
        let check = |spec: &str| {
            let namespace =
                format!(r#"{{"metadata":{{"name":"ns","annotations":{{"{ANNOTATION}":"a=b, c=d"}}}}}}"#);
            let mut pod = object(&format!(r#"{{"spec":{spec}}}"#));
            let stored = vec![("namespaces", object(&namespace))];
            create(&PodNodeSelector::default(), stored, ("", "pods", "ns"), &mut pod)
                .map(|()| pod.get_path(&["spec", "nodeSelector"]).cloned())
        };
        assert_eq!(check("{}").unwrap(), Some(object(r#"{"a":"b","c":"d"}"#)));
        assert!(check(r#"{"nodeSelector":{"a":"x"}}"#).is_err());
    }
}
