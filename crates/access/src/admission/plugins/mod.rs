//! The admission plugins, one file each, and the one list of them.

mod default_toleration_seconds;
mod namespace_lifecycle;
mod priority;
mod service_account;
mod taint_nodes_by_condition;

use super::Plugin;
use std::sync::Arc;

/// Makes a plugin.
type Make = fn() -> Arc<dyn Plugin>;

/// Every plugin, in upstream's order.
pub static ALL: &[Make] = &[
    || Arc::new(namespace_lifecycle::NamespaceLifecycle::default()),
    || Arc::new(service_account::ServiceAccount::default()),
    || Arc::new(taint_nodes_by_condition::TaintNodesByCondition),
    || Arc::new(priority::Priority::default()),
    || Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
];

/// The plugins that are on unless somebody says otherwise.
pub fn default_chain() -> super::Chain {
    super::Chain::new(ALL.iter().map(|make| make()).collect())
}

#[cfg(test)]
pub(crate) mod testing {
    //! A fixed set of stored objects, and the attributes of a create.

    use crate::Objects;
    use crate::admission::{Attributes, Notes, Operation, Target};
    use async_trait::async_trait;
    use machinery::Value;
    use machinery::meta;
    use machinery::status::ApiError;
    use machinery::user::UserInfo;
    use std::sync::Arc;

    pub(crate) struct Fixed(pub(crate) Vec<(&'static str, Arc<Value>)>);

    pub(crate) fn object(text: &str) -> Value {
        machinery::codec::json::decode_any(text.as_bytes()).unwrap().value
    }

    #[async_trait]
    impl Objects for Fixed {
        async fn get(
            &self,
            _: &str,
            resource: &str,
            namespace: &str,
            name: &str,
        ) -> Result<Option<Arc<Value>>, ApiError> {
            let found = self.0.iter().find(|(r, object)| {
                *r == resource && meta::namespace(object) == namespace && meta::name(object) == name
            });
            Ok(found.map(|(_, object)| Arc::clone(object)))
        }

        async fn list(&self, _: &str, resource: &str, _: &str) -> Result<Vec<Arc<Value>>, ApiError> {
            Ok(self
                .0
                .iter()
                .filter(|(r, _)| *r == resource)
                .map(|(_, object)| Arc::clone(object))
                .collect())
        }

        fn version(&self, _: &str, _: &str) -> u64 {
            1
        }
    }

    /// Admits the creation of `object` by one plugin that sees `stored`.
    pub(crate) fn create(
        plugin: &dyn super::Plugin,
        stored: Vec<(&'static str, Value)>,
        (group, resource, namespace): (&str, &str, &str),
        object: &mut Value,
    ) -> Result<(), ApiError> {
        plugin.bind(Arc::new(Fixed(
            stored
                .into_iter()
                .map(|(r, object)| (r, Arc::new(object)))
                .collect(),
        )));
        let (user, notes, options) = (UserInfo::default(), Notes::default(), Value::object());
        let name = meta::name(object).to_owned();
        let attributes = Attributes {
            operation: Operation::Create,
            target: Target {
                group,
                version: "v1",
                resource,
                subresource: "",
                kind: "",
                kind_group: group,
                kind_version: "v1",
                namespace,
                name: &name,
            },
            user: &user,
            old: None,
            options: &options,
            dry_run: false,
            notes: &notes,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            if plugin.handles(attributes.operation, &attributes.target) {
                plugin.admit(&attributes, Some(object)).await?;
                plugin.validate(&attributes, Some(object)).await?;
            }
            Ok(())
        })
    }
}
