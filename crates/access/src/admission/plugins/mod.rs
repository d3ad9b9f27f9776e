//! The admission plugins, one file each, and the one list of them.

mod always_admit;
mod always_deny;
mod always_pull_images;
mod certificate_approval;
mod certificate_signing;
mod certificate_subject_restriction;
mod cluster_trust_bundle_attest;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod deny_service_external_ips;
mod escalation;
mod extended_resource_toleration;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod persistent_volume_claim_resize;
mod pod_node_selector;
mod pod_security;
mod pod_topology_labels;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod signers;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;

use super::policy::{MutatingAdmissionPolicy, ValidatingAdmissionPolicy};
use super::webhook::{MutatingAdmissionWebhook, ValidatingAdmissionWebhook};
use super::{Chain, Plugin};
use machinery::{Value, meta};
use std::sync::Arc;

/// One plugin: its name, whether it is on unless somebody says otherwise, and how to make it.
pub struct Registration {
    pub name: &'static str,
    pub default_on: bool,
    make: fn() -> Arc<dyn Plugin>,
}

/// Every plugin, in upstream's order.
pub static ALL: &[Registration] = &[
    off("AlwaysAdmit", || Arc::new(always_admit::AlwaysAdmit)),
    on("NamespaceLifecycle", || {
        Arc::new(namespace_lifecycle::NamespaceLifecycle::default())
    }),
    on("LimitRanger", || Arc::new(limit_ranger::LimitRanger::default())),
    on("ServiceAccount", || {
        Arc::new(service_account::ServiceAccount::default())
    }),
    // Upstream leaves this one to whoever installs the cluster, and they all switch it on.
    on("NodeRestriction", || {
        Arc::new(node_restriction::NodeRestriction::default())
    }),
    on("TaintNodesByCondition", || {
        Arc::new(taint_nodes_by_condition::TaintNodesByCondition)
    }),
    off("AlwaysPullImages", || {
        Arc::new(always_pull_images::AlwaysPullImages)
    }),
    on("PodSecurity", || Arc::new(pod_security::PodSecurity::default())),
    off("PodNodeSelector", || {
        Arc::new(pod_node_selector::PodNodeSelector::default())
    }),
    on("Priority", || Arc::new(priority::Priority::default())),
    on("DefaultTolerationSeconds", || {
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds)
    }),
    off("ExtendedResourceToleration", || {
        Arc::new(extended_resource_toleration::ExtendedResourceToleration)
    }),
    on("DefaultStorageClass", || {
        Arc::new(default_storage_class::DefaultStorageClass::default())
    }),
    on("StorageObjectInUseProtection", || {
        Arc::new(storage_object_in_use_protection::StorageObjectInUseProtection)
    }),
    on("PersistentVolumeClaimResize", || {
        Arc::new(persistent_volume_claim_resize::PersistentVolumeClaimResize::default())
    }),
    on(
        "RuntimeClass",
        || Arc::new(runtime_class::RuntimeClass::default()),
    ),
    on("CertificateApproval", || {
        Arc::new(certificate_approval::CertificateApproval::default())
    }),
    on("CertificateSigning", || {
        Arc::new(certificate_signing::CertificateSigning::default())
    }),
    on("ClusterTrustBundleAttest", || {
        Arc::new(cluster_trust_bundle_attest::ClusterTrustBundleAttest::default())
    }),
    on("CertificateSubjectRestriction", || {
        Arc::new(certificate_subject_restriction::CertificateSubjectRestriction)
    }),
    on("DefaultIngressClass", || {
        Arc::new(default_ingress_class::DefaultIngressClass::default())
    }),
    off("DenyServiceExternalIPs", || {
        Arc::new(deny_service_external_ips::DenyServiceExternalIPs)
    }),
    on("PodTopologyLabels", || {
        Arc::new(pod_topology_labels::PodTopologyLabels::default())
    }),
    on("MutatingAdmissionPolicy", || {
        Arc::new(MutatingAdmissionPolicy::default())
    }),
    on("MutatingAdmissionWebhook", || {
        Arc::new(MutatingAdmissionWebhook::default())
    }),
    on("ValidatingAdmissionPolicy", || {
        Arc::new(ValidatingAdmissionPolicy::default())
    }),
    on("ValidatingAdmissionWebhook", || {
        Arc::new(ValidatingAdmissionWebhook::default())
    }),
    on("ResourceQuota", || {
        Arc::new(resource_quota::ResourceQuota::default())
    }),
    off("AlwaysDeny", || Arc::new(always_deny::AlwaysDeny)),
];

const fn on(name: &'static str, make: fn() -> Arc<dyn Plugin>) -> Registration {
    Registration {
        name,
        default_on: true,
        make,
    }
}

const fn off(name: &'static str, make: fn() -> Arc<dyn Plugin>) -> Registration {
    Registration {
        name,
        default_on: false,
        make,
    }
}

/// Why a choice of plugins is none; upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    #[error("{flag}-admission-plugins plugin {name:?} is unknown")]
    Unknown { flag: &'static str, name: String },
    #[error("{0:?} in enable-admission-plugins and disable-admission-plugins overlapped")]
    Both(Vec<String>),
}

/// The plugins that are on unless somebody says otherwise.
pub fn default_chain() -> Chain {
    make(|plugin| plugin.default_on)
}

/// The default plugins, with some switched on and some off.
pub fn chain(enable: &[String], disable: &[String]) -> Result<Chain, ChoiceError> {
    for (flag, names) in [("enable", enable), ("disable", disable)] {
        if let Some(name) = names
            .iter()
            .find(|name| ALL.iter().all(|known| known.name != **name))
        {
            return Err(ChoiceError::Unknown {
                flag,
                name: name.clone(),
            });
        }
    }
    let both: Vec<String> = enable
        .iter()
        .filter(|name| disable.contains(name))
        .cloned()
        .collect();
    if !both.is_empty() {
        return Err(ChoiceError::Both(both));
    }
    let says = |names: &[String], plugin: &Registration| names.iter().any(|name| name == plugin.name);
    Ok(make(|plugin| {
        says(enable, plugin) || (plugin.default_on && !says(disable, plugin))
    }))
}

fn make(wanted: impl Fn(&Registration) -> bool) -> Chain {
    let chosen = ALL
        .iter()
        .filter(|plugin| wanted(plugin))
        .map(|plugin| (plugin.make)());
    // Not a choice: upstream makes this check where roles are stored.
    let always: Arc<dyn Plugin> = Arc::new(escalation::Escalation::default());
    Chain::new(std::iter::once(always).chain(chosen).collect())
}

/// The class one of `marks` makes the default; of several the newest, and of those the first by name.
fn default_of<'a>(classes: &'a [Arc<Value>], marks: &[&str]) -> Option<&'a Value> {
    let marked = |class: &&Value| {
        marks
            .iter()
            .any(|mark| meta::annotation(class, mark) == Some("true"))
    };
    classes.iter().map(Arc::as_ref).filter(marked).min_by(|a, b| {
        meta::creation_timestamp(b)
            .cmp(meta::creation_timestamp(a))
            .then_with(|| meta::name(a).cmp(meta::name(b)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_switched_by_name() {
        let names = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        let check = |enable: &str, disable: &str| {
            chain(&names(enable), &names(disable)).map(|chain| chain.names().collect::<Vec<_>>())
        };
        let usual = check("", "").unwrap();
        assert!(usual.contains(&"LimitRanger") && !usual.contains(&"AlwaysDeny"));
        assert!(
            check("AlwaysDeny", "")
                .unwrap()
                .ends_with(&["ResourceQuota", "AlwaysDeny"])
        );
        assert!(!check("", "LimitRanger").unwrap().contains(&"LimitRanger"));
        assert_eq!(
            check("Nonsense", "").unwrap_err().to_string(),
            r#"enable-admission-plugins plugin "Nonsense" is unknown"#
        );
        assert!(check("LimitRanger", "LimitRanger").is_err());
        for plugin in ALL {
            assert_eq!((plugin.make)().name(), plugin.name);
        }
    }
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

        async fn list(&self, _: &str, resource: &str, namespace: &str) -> Result<Vec<Arc<Value>>, ApiError> {
            // Objects that say no namespace are in all of them.
            let is_in = |of: &str| namespace.is_empty() || of.is_empty() || of == namespace;
            let found = self.0.iter().filter(|(r, _)| *r == resource);
            Ok(found
                .filter(|(_, object)| is_in(meta::namespace(object)))
                .map(|(_, object)| Arc::clone(object))
                .collect())
        }

        fn resource_of(&self, _: &str, kind: &str) -> Option<(String, bool)> {
            Some((format!("{}s", kind.to_lowercase()), true))
        }

        async fn replace(&self, _: &str, resource: &str, _: Value) -> Result<Arc<Value>, ApiError> {
            Err(ApiError::internal(format!("{resource} are fixed")))
        }

        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }

        fn version(&self, _: &str, _: &str) -> u64 {
            1
        }
    }

    /// What attributes borrow.
    #[derive(Default)]
    pub(crate) struct With {
        pub(crate) user: UserInfo,
        pub(crate) notes: Notes,
        pub(crate) old: Option<Value>,
        pub(crate) options: Value,
    }

    impl With {
        pub(crate) fn attributes<'a>(
            &'a self,
            operation: Operation,
            (group, resource, namespace): (&'a str, &'a str, &'a str),
            subresource: &'a str,
            name: &'a str,
        ) -> Attributes<'a> {
            Attributes {
                operation,
                target: Target {
                    group,
                    version: "v1",
                    resource,
                    subresource,
                    kind: "",
                    kind_group: group,
                    kind_version: "v1",
                    namespace,
                    name,
                },
                user: &self.user,
                old: self.old.as_ref(),
                options: &self.options,
                dry_run: false,
                notes: &self.notes,
                versions: None,
                reinvocation: None,
            }
        }
    }

    /// A request to one plugin.
    pub(crate) struct Ask<'a> {
        pub(crate) operation: Operation,
        /// Group, resource and namespace.
        pub(crate) target: (&'a str, &'a str, &'a str),
        pub(crate) subresource: &'a str,
        pub(crate) user: UserInfo,
        pub(crate) old: Option<Value>,
    }

    impl<'a> Ask<'a> {
        pub(crate) fn create(target: (&'a str, &'a str, &'a str)) -> Self {
            Self {
                operation: Operation::Create,
                target,
                subresource: "",
                user: UserInfo::default(),
                old: None,
            }
        }

        pub(crate) fn update(target: (&'a str, &'a str, &'a str), old: &str) -> Self {
            Self {
                operation: Operation::Update,
                old: Some(object(old)),
                ..Self::create(target)
            }
        }

        /// Asks a plugin that sees `stored` for both its words on `object`.
        pub(crate) fn of(
            &self,
            plugin: &dyn super::Plugin,
            stored: Vec<(&'static str, Value)>,
            object: &mut Value,
        ) -> Result<(), ApiError> {
            let stored = stored.into_iter().map(|(of, object)| (of, Arc::new(object)));
            plugin.bind(Arc::new(Fixed(stored.collect())));
            plugin.bind_authorizer(Arc::new(crate::authorization::Masters));
            let with = With {
                user: self.user.clone(),
                old: self.old.clone(),
                ..With::default()
            };
            let name = meta::name(object).to_owned();
            let attributes = with.attributes(self.operation, self.target, self.subresource, &name);
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

    /// Admits the creation of `object` by one plugin that sees `stored`.
    pub(crate) fn create(
        plugin: &dyn super::Plugin,
        stored: Vec<(&'static str, Value)>,
        target: (&str, &str, &str),
        object: &mut Value,
    ) -> Result<(), ApiError> {
        Ask::create(target).of(plugin, stored, object)
    }
}
