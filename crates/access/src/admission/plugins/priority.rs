//! `Priority`: a pod's priority is that of its class, and there is at most one default class.

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::gvk::GroupResource;
use machinery::status::ApiError;
use machinery::{Value, meta};
use std::sync::{Arc, OnceLock};

const GROUP: &str = "scheduling.k8s.io";

#[derive(Default)]
pub(super) struct Priority {
    objects: OnceLock<Arc<dyn Objects>>,
}

impl Priority {
    async fn default_class(&self) -> Result<Option<Arc<Value>>, ApiError> {
        let Some(objects) = self.objects.get() else {
            return Ok(None);
        };
        let classes = objects.list(GROUP, "priorityclasses", "").await?;
        // Should two be marked nevertheless, upstream takes the lower one.
        Ok(classes
            .into_iter()
            .filter(|class| is_default(class))
            .min_by_key(|class| value(class)))
    }

    async fn complete(&self, target: &Target<'_>, pod: &mut Value) -> Result<(), ApiError> {
        let forbidden = |why: String| ApiError::forbidden(&GroupResource::new("", "pods"), target.name, why);
        let class_name = pod
            .get_str_path(&["spec", "priorityClassName"])
            .unwrap_or("")
            .to_owned();
        let class = if class_name.is_empty() {
            self.default_class().await?
        } else {
            let found = match self.objects.get() {
                Some(objects) => objects.get(GROUP, "priorityclasses", "", &class_name).await?,
                None => None,
            };
            Some(
                found
                    .ok_or_else(|| forbidden(format!("no PriorityClass with name {class_name} was found")))?,
            )
        };
        let (priority, policy) = match &class {
            Some(class) => {
                pod.set_path(&["spec", "priorityClassName"], meta::name(class));
                (
                    value(class),
                    class
                        .get("preemptionPolicy")
                        .and_then(Value::as_str)
                        .unwrap_or("PreemptLowerPriority"),
                )
            }
            None => (0, "PreemptLowerPriority"),
        };
        if let Some(given) = pod.get_path(&["spec", "priority"]).and_then(Value::as_i64)
            && given != priority
        {
            return Err(forbidden(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                 controller computed {priority} from the given PriorityClass name"
            )));
        }
        pod.set_path(&["spec", "priority"], priority);
        if let Some(given) = pod.get_str_path(&["spec", "preemptionPolicy"])
            && given != policy
        {
            return Err(forbidden(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
                 controller computed {policy} from the given PriorityClass name"
            )));
        }
        pod.set_path(&["spec", "preemptionPolicy"], policy);
        Ok(())
    }
}

/// Who updates a pod need not know what its class made of it.
fn keep(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        let path = ["spec", field];
        let missing = pod.get_path(&path).is_none_or(Value::is_null);
        if let Some(value) = old.get_path(&path).filter(|_| missing) {
            pod.set_path(&path, value.clone());
        }
    }
}

fn value(class: &Value) -> i64 {
    class.get("value").and_then(Value::as_i64).unwrap_or(0)
}

fn is_default(class: &Value) -> bool {
    class
        .get("globalDefault")
        .and_then(Value::as_bool)
        .unwrap_or(false)
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        match operation {
            Operation::Create => target.is("", "pods") || target.is(GROUP, "priorityclasses"),
            Operation::Update => target.is("", "pods") || target.is(GROUP, "priorityclasses"),
            Operation::Delete | Operation::Connect => false,
        }
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        match object {
            Some(pod) if attributes.target.is("", "pods") => match attributes.old {
                Some(old) => {
                    keep(pod, old);
                    Ok(())
                }
                None => self.complete(&attributes.target, pod).await,
            },
            _ => Ok(()),
        }
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let Some(class) = object.filter(|_| attributes.target.is(GROUP, "priorityclasses")) else {
            return Ok(());
        };
        if is_default(class)
            && let Some(other) = self.default_class().await?
            && meta::name(&other) != meta::name(class)
        {
            return Err(ApiError::forbidden(
                &GroupResource::new(GROUP, "priorityclasses"),
                attributes.target.name,
                format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    meta::name(&other)
                ),
            ));
        }
        Ok(())
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{create, object};
    use super::*;

    #[test]
    fn the_class_decides() {
        let stored = || {
            vec![
                (
                    "priorityclasses",
                    object(r#"{"metadata":{"name":"high"},"value":1000,"preemptionPolicy":"Never"}"#),
                ),
                (
                    "priorityclasses",
                    object(r#"{"metadata":{"name":"usual"},"value":5,"globalDefault":true}"#),
                ),
            ]
        };
        let check = |spec: &str| {
            let mut pod = object(&format!(r#"{{"metadata":{{"name":"p"}},"spec":{spec}}}"#));
            create(&Priority::default(), stored(), ("", "pods", "ns"), &mut pod).map_err(|e| e.message)?;
            let spec = pod.get("spec").unwrap();
            Ok::<_, String>((
                spec.get("priority").unwrap().as_i64().unwrap(),
                spec.get("preemptionPolicy").unwrap().as_str().unwrap().to_owned(),
            ))
        };
        assert_eq!(
            check(r#"{"priorityClassName":"high"}"#),
            Ok((1000, "Never".to_owned()))
        );
        assert_eq!(check("{}"), Ok((5, "PreemptLowerPriority".to_owned())));
        assert!(check(r#"{"priority":7}"#).unwrap_err().contains("computed 5"));
        assert!(
            check(r#"{"priorityClassName":"x"}"#)
                .unwrap_err()
                .contains("no PriorityClass with name x was found")
        );
    }

    #[test]
    fn a_second_default_is_refused() {
        let stored = vec![(
            "priorityclasses",
            object(r#"{"metadata":{"name":"a"},"globalDefault":true}"#),
        )];
        let mut class = object(r#"{"metadata":{"name":"b"},"globalDefault":true}"#);
        let error = create(
            &Priority::default(),
            stored,
            (GROUP, "priorityclasses", ""),
            &mut class,
        )
        .unwrap_err();
        assert!(error.message.ends_with("Only one default can exist"), "{error}");
    }
}
