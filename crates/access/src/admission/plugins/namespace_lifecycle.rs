//! `NamespaceLifecycle`: nothing is made in a namespace that is not there or is being deleted, and the namespaces
//! the system lives in cannot be deleted.
//!
//! This runs on every create, so what is known of namespaces is kept until one of them changes.

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::gvk::GroupResource;
use machinery::status::{ApiError, Cause};
use machinery::{Value, meta};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Absent,
    Active,
    Terminating,
}

#[derive(Default)]
pub(super) struct NamespaceLifecycle {
    objects: OnceLock<Arc<dyn Objects>>,
    /// Phases as of a version of the namespaces.
    known: RwLock<(u64, HashMap<String, Phase>)>,
}

impl NamespaceLifecycle {
    async fn phase(&self, namespace: &str) -> Result<Phase, ApiError> {
        let Some(objects) = self.objects.get() else {
            return Ok(Phase::Active);
        };
        let version = objects.version("", "namespaces");
        {
            let known = self.known.read();
            if known.0 == version
                && let Some(phase) = known.1.get(namespace)
            {
                return Ok(*phase);
            }
        }
        let phase = match objects.get("", "namespaces", "", namespace).await? {
            None => Phase::Absent,
            Some(found) if meta::deletion_timestamp(&found).is_some() => Phase::Terminating,
            Some(found) if found.get_str_path(&["status", "phase"]) == Some("Terminating") => {
                Phase::Terminating
            }
            Some(_) => Phase::Active,
        };
        let mut known = self.known.write();
        if known.0 != version {
            *known = (version, HashMap::new());
        }
        // Names of namespaces that are not there are anybody's choice and are not kept.
        if phase != Phase::Absent {
            known.1.insert(namespace.to_owned(), phase);
        }
        Ok(phase)
    }
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        match operation {
            Operation::Delete => target.is("", "namespaces"),
            Operation::Create | Operation::Update => {
                !target.namespace.is_empty()
                    && target.resource != "namespaces"
                    && !(target.group == "authorization.k8s.io"
                        && target.resource == "localsubjectaccessreviews")
            }
            Operation::Connect => false,
        }
    }

    async fn admit(&self, attributes: &Attributes<'_>, _: Option<&mut Value>) -> Result<(), ApiError> {
        let target = &attributes.target;
        let resource = GroupResource::new(target.group, target.resource);
        if attributes.operation == Operation::Delete {
            if IMMORTAL.contains(&target.name) {
                return Err(ApiError::forbidden(
                    &resource,
                    target.name,
                    "this namespace may not be deleted",
                ));
            }
            return Ok(());
        }
        match self.phase(target.namespace).await? {
            Phase::Active => Ok(()),
            Phase::Absent => Err(ApiError::not_found(
                &GroupResource::new("", "namespaces"),
                target.namespace,
            )),
            Phase::Terminating if attributes.operation != Operation::Create => Ok(()),
            Phase::Terminating => {
                let why = format!(
                    "unable to create new content in namespace {} because it is being terminated",
                    target.namespace
                );
                let mut error = ApiError::forbidden(&resource, target.name, why);
                if let Some(details) = &mut error.details {
                    details.causes.push(Cause {
                        reason: "NamespaceTerminating".to_owned(),
                        message: format!("namespace {} is being terminated", target.namespace),
                        field: "metadata.namespace".to_owned(),
                    });
                }
                Err(error)
            }
        }
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
    fn only_living_namespaces_take_new_objects() {
        let stored = || {
            vec![
                ("namespaces", object(r#"{"metadata":{"name":"a"}}"#)),
                (
                    "namespaces",
                    object(r#"{"metadata":{"name":"b","deletionTimestamp":"2026-01-01T00:00:00Z"}}"#),
                ),
            ]
        };
        let check = |namespace: &str| {
            let mut pod = object(r#"{"metadata":{"name":"p"}}"#);
            create(
                &NamespaceLifecycle::default(),
                stored(),
                ("", "pods", namespace),
                &mut pod,
            )
            .map_err(|error| (error.code, error.message))
        };
        assert_eq!(check("a"), Ok(()));
        assert_eq!(check("c"), Err((404, r#"namespaces "c" not found"#.to_owned())));
        let (code, message) = check("b").unwrap_err();
        assert_eq!(code, 403);
        assert_eq!(
            message,
            r#"pods "p" is forbidden: unable to create new content in namespace b because it is being terminated"#
        );
    }
}
