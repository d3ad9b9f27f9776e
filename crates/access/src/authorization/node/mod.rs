//! `Node`: what a kubelet may do.
//!
//! Users of the group `system:nodes` with a name below `system:node:` are nodes. They may read the secrets, config maps,
//! claims and volumes of the pods bound to them, write about themselves, and otherwise have the rules of the bootstrap
//! role `system:node`, which upstream binds to nobody for the same reason: this authorizer speaks for it.
//!
//! The ways from an object to a node (secret → pod → node, secret → volume → claim → pod → node) are looked for in the
//! objects as they stand now: nothing lags behind, so a pod that was bound a moment ago can be started, and one that is
//! gone opens nothing. A way that was found is remembered and tried first; it is believed only after looking again.

mod ways;

use super::rbac::PolicyRule;
use super::{Attributes, Authorizer, Decision, Rules, bootstrap};
use crate::Objects;
use async_trait::async_trait;
use machinery::selector::FieldSelector;
use machinery::user::UserInfo;
use machinery::{Value, meta};
use std::sync::Arc;
use ways::{Kind, Ways};

const GROUP: &str = "system:nodes";
const LEASES: &str = "kube-node-lease";

pub struct Node {
    rules: Vec<PolicyRule>,
    ways: Ways,
}

impl Default for Node {
    fn default() -> Self {
        let role = bootstrap::objects()
            .into_iter()
            .find(|object| meta::name(object) == "system:node");
        let rules = role
            .as_ref()
            .and_then(|role| role.get("rules"))
            .and_then(Value::as_array)
            .unwrap_or_default()
            .iter()
            .map(PolicyRule::from_value)
            .collect();
        Self {
            rules,
            ways: Ways::default(),
        }
    }
}

/// The node's name, if the user is one.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    user.name
        .strip_prefix("system:node:")
        .filter(|name| !name.is_empty() && user.in_group(GROUP))
}

type Answer = Result<(), String>;

fn no(why: impl Into<String>) -> Answer {
    Err(why.into())
}

impl Node {
    async fn judge(&self, node: &str, a: &Attributes<'_>) -> Answer {
        if a.is_resource {
            match (a.group, a.resource) {
                ("", "secrets") => return self.read(node, Kind::Secret, a).await,
                ("", "configmaps") => return self.read(node, Kind::ConfigMap, a).await,
                ("", "persistentvolumeclaims") if a.subresource == "status" => {
                    return match a.verb {
                        "update" | "patch" => self.related(node, Kind::Claim, a).await,
                        _ => no("can only get/update/patch this type"),
                    };
                }
                ("", "persistentvolumeclaims") => return self.get(node, Kind::Claim, a).await,
                ("", "persistentvolumes") => return self.get(node, Kind::Volume, a).await,
                ("resource.k8s.io", "resourceclaims") => {
                    return self.get(node, Kind::ResourceClaim, a).await;
                }
                ("storage.k8s.io", "volumeattachments") => {
                    return self.get(node, Kind::Attachment, a).await;
                }
                ("", "serviceaccounts") => return self.service_account(node, a).await,
                ("coordination.k8s.io", "leases") => return lease(node, a),
                ("storage.k8s.io", "csinodes") => return csi_node(node, a),
                ("resource.k8s.io", "resourceslices") => return self.resource_slice(node, a).await,
                ("", "nodes") => return own_node(node, a),
                ("", "pods") => return self.pod(node, a).await,
                ("certificates.k8s.io", "podcertificaterequests") => return no(""),
                _ => {}
            }
        }
        if self.rules.iter().any(|rule| rule.allows(a)) {
            Ok(())
        } else {
            no("")
        }
    }

    async fn related(&self, node: &str, kind: Kind, a: &Attributes<'_>) -> Answer {
        if a.name.is_empty() {
            return no("No Object name found");
        }
        if self.ways.lead(node, kind, a.namespace, a.name).await {
            return Ok(());
        }
        no(format!(
            "no relationship found between node '{node}' and this object"
        ))
    }

    async fn get(&self, node: &str, kind: Kind, a: &Attributes<'_>) -> Answer {
        match (a.verb, a.subresource) {
            ("get", "") => self.related(node, kind, a).await,
            ("get", _) => no("cannot get subresource"),
            _ => no("can only get individual resources of this type"),
        }
    }

    async fn read(&self, node: &str, kind: Kind, a: &Attributes<'_>) -> Answer {
        if !matches!(a.verb, "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !a.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if a.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(node, kind, a).await
    }

    async fn service_account(&self, node: &str, a: &Attributes<'_>) -> Answer {
        match (a.verb, a.subresource) {
            ("get", "") => self.read(node, Kind::ServiceAccount, a).await,
            ("create", "token") if !a.name.is_empty() => self.related(node, Kind::ServiceAccount, a).await,
            ("create", _) if !a.name.is_empty() => no("can only create token subresource of serviceaccount"),
            _ => no("can only create tokens for individual service accounts"),
        }
    }

    async fn resource_slice(&self, node: &str, a: &Attributes<'_>) -> Answer {
        if !a.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match a.verb {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(node, Kind::Slice, a).await,
            "watch" | "list" | "deletecollection" => {
                if selects_own(a, node) {
                    return Ok(());
                }
                no("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                 delete, deletecollection",
            ),
        }
    }

    async fn pod(&self, node: &str, a: &Attributes<'_>) -> Answer {
        match (a.subresource, a.verb) {
            ("", "get") => self.related(node, Kind::Pod, a).await,
            ("", "list" | "watch") if selects_own(a, node) => Ok(()),
            ("", "list" | "watch") if !a.name.is_empty() => self.related(node, Kind::Pod, a).await,
            ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => no(""),
        }
    }
}

fn selects_own(a: &Attributes<'_>, node: &str) -> bool {
    a.field_selector
        .and_then(|text| FieldSelector::parse(text).ok())
        .is_some_and(|selector| selector.exact("spec.nodeName") == Some(node))
}

fn lease(node: &str, a: &Attributes<'_>) -> Answer {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != LEASES {
        return no(format!(
            "can only access leases in the {LEASES:?} system namespace"
        ));
    }
    if a.verb != "create" && a.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(node: &str, a: &Attributes<'_>) -> Answer {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !a.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if a.verb != "create" && a.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}

fn own_node(node: &str, a: &Attributes<'_>) -> Answer {
    match (a.subresource, a.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if a.name == node => Ok(()),
        ("", "get" | "list" | "watch") if a.name.is_empty() => no(format!(
            "node '{node}' cannot read all nodes, only its own Node object"
        )),
        ("", "get" | "list" | "watch") => no(format!(
            "node '{node}' cannot read '{}', only its own Node object",
            a.name
        )),
        _ => no(""),
    }
}

#[async_trait]
impl Authorizer for Node {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let user = attributes.user;
        let Some(node) = node_name(user) else {
            let nameless = user.in_group(GROUP) && user.name.starts_with("system:node:");
            return Decision::NoOpinion(if nameless {
                format!("unknown node for user {:?}", user.name)
            } else {
                String::new()
            });
        };
        match self.judge(node, attributes).await {
            Ok(()) => Decision::Allow,
            Err(why) => Decision::NoOpinion(why),
        }
    }

    async fn rules(&self, user: &UserInfo, _namespace: &str, rules: &mut Rules) {
        if node_name(user).is_some() {
            rules.incomplete = true;
            rules.evaluation_error = "node authorizer does not support user rule resolution".to_owned();
        }
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.ways.bind(objects);
    }
}

#[cfg(test)]
mod tests;
