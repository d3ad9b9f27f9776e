//! `DefaultStorageClass`: a claim that names no storage class gets the default one.

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::status::ApiError;
use machinery::{Value, meta};
use std::sync::{Arc, OnceLock};

const MARKS: &[&str] = &[
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
/// Says the class as the field does, from before there was one.
const ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

#[derive(Default)]
pub(super) struct DefaultStorageClass {
    objects: OnceLock<Arc<dyn Objects>>,
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        operation == Operation::Create && target.is("", "persistentvolumeclaims")
    }

    async fn admit(&self, _: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        let (Some(object), Some(objects)) = (object, self.objects.get()) else {
            return Ok(());
        };
        let named = object
            .get_path(&["spec", "storageClassName"])
            .is_some_and(|name| !name.is_null());
        if named || meta::annotation(object, ANNOTATION).is_some() {
            return Ok(());
        }
        let classes = objects.list("storage.k8s.io", "storageclasses", "").await?;
        if let Some(class) = super::default_of(&classes, MARKS) {
            object.set_path(&["spec", "storageClassName"], meta::name(class));
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
            ("storageclasses", class)
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
                &DefaultStorageClass::default(),
                stored(),
                ("", "persistentvolumeclaims", "ns"),
                &mut made,
            )
            .unwrap();
            assert_eq!(
                made.get_str_path(&["spec", "storageClassName"]),
                expected,
                "{text}"
            );
        };
        check(r#"{"spec":{}}"#, Some("a"));
        check(r#"{"spec":{"storageClassName":"old"}}"#, Some("old"));
        check(r#"{"spec":{"storageClassName":""}}"#, Some(""));
        check(
            r#"{"metadata":{"annotations":{"volume.beta.kubernetes.io/storage-class":"x"}}}"#,
            None,
        );
    }
}
