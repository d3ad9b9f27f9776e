//! `DefaultIngressClass`: an ingress that names no class gets the default one.

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::status::ApiError;
use machinery::{Value, meta};
use std::sync::{Arc, OnceLock};

const MARKS: &[&str] = &["ingressclass.kubernetes.io/is-default-class"];
/// Says the class as the field does, from before there was one.
const ANNOTATION: &str = "kubernetes.io/ingress.class";

#[derive(Default)]
pub(super) struct DefaultIngressClass {
    objects: OnceLock<Arc<dyn Objects>>,
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        operation == Operation::Create && target.is("networking.k8s.io", "ingresses")
    }

    async fn admit(&self, _: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        let (Some(object), Some(objects)) = (object, self.objects.get()) else {
            return Ok(());
        };
        let named = object
            .get_path(&["spec", "ingressClassName"])
            .is_some_and(|name| !name.is_null());
        if named || meta::annotation(object, ANNOTATION).is_some() {
            return Ok(());
        }
        let classes = objects.list("networking.k8s.io", "ingressclasses", "").await?;
        if let Some(class) = super::default_of(&classes, MARKS) {
            object.set_path(&["spec", "ingressClassName"], meta::name(class));
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
    fn the_newest_default_is_taken() {
        let class = |name: &str, made: &str, marked: bool| {
            let mut class = object("{}");
            class.set_path(&["metadata", "name"], name);
            class.set_path(&["metadata", "creationTimestamp"], made);
            class.set_path(&["metadata", "annotations", MARKS[0]], marked.to_string());
            ("ingressclasses", class)
        };
        let stored = || {
            vec![
                class("old", "2026-01-01T00:00:00Z", true),
                class("b", "2026-02-01T00:00:00Z", true),
                class("a", "2026-02-01T00:00:00Z", true),
                class("newest", "2026-03-01T00:00:00Z", false),
            ]
        };
        let check = |text: &str, expected: Option<&str>| {
            let mut made = object(text);
            create(
                &DefaultIngressClass::default(),
                stored(),
                ("networking.k8s.io", "ingresses", "ns"),
                &mut made,
            )
            .unwrap();
            assert_eq!(
                made.get_str_path(&["spec", "ingressClassName"]),
                expected,
                "{text}"
            );
        };
        check(r#"{"spec":{}}"#, Some("a"));
        check(r#"{"spec":{"ingressClassName":"old"}}"#, Some("old"));
        check(r#"{"spec":{"ingressClassName":""}}"#, Some(""));
        check(
            r#"{"metadata":{"annotations":{"kubernetes.io/ingress.class":"x"}}}"#,
            None,
        );
    }
}
