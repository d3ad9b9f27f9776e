//! `Node`: what a kubelet may do, by the rules upstream gives every node.
//!
//! Users of the group `system:nodes` with a name below `system:node:` are nodes. They get the rules of the bootstrap
//! role `system:node`, which upstream binds to nobody for the same reason: this authorizer speaks for it.
//!
//! Not here yet: the graph that narrows secrets, config maps, claims and volumes to those the node's own pods use.

use super::rbac::PolicyRule;
use super::{Attributes, Authorizer, Decision, Rules, bootstrap};
use crate::Objects;
use async_trait::async_trait;
use machinery::user::UserInfo;
use machinery::{Value, meta};
use std::sync::Arc;

pub struct Node {
    rules: Vec<PolicyRule>,
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
        Self { rules }
    }
}

/// The node's name, if the user is one.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    user.name
        .strip_prefix("system:node:")
        .filter(|name| !name.is_empty() && user.in_group("system:nodes"))
}

#[async_trait]
impl Authorizer for Node {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if node_name(attributes.user).is_some() && self.rules.iter().any(|rule| rule.allows(attributes)) {
            return Decision::Allow;
        }
        Decision::NoOpinion(String::new())
    }

    async fn rules(&self, user: &UserInfo, _namespace: &str, rules: &mut Rules) {
        if node_name(user).is_some() {
            rules.resource.extend(self.rules.iter().cloned());
        }
    }

    fn bind(&self, _objects: Arc<dyn Objects>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn nodes_may_what_nodes_do() {
        let authorizer = Node::default();
        let node = UserInfo::authenticated("system:node:a", &["system:nodes"]);
        let other = UserInfo::authenticated("system:node:a", &[]);
        for (user, verb, group, resource, allowed) in [
            (&node, "create", "", "nodes", true),
            (&node, "update", "coordination.k8s.io", "leases", true),
            (&node, "create", "apps", "deployments", false),
            (&other, "create", "", "nodes", false),
        ] {
            let decision = authorizer
                .authorize(&Attributes::resource(user, verb, group, resource))
                .await;
            assert_eq!(matches!(decision, Decision::Allow), allowed, "{verb} {resource}");
        }
    }
}
