//! May this user do this? Authorizers are asked in order; the first that allows or denies decides, and
//! nobody's opinion is a refusal.

pub mod bootstrap;
pub mod configured;
pub mod node;
pub mod rbac;
pub mod webhook;

use crate::Objects;
use async_trait::async_trait;
use machinery::user::UserInfo;
use std::sync::Arc;

/// What is to be done, by whom, to what.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    pub user: &'a UserInfo,
    pub verb: &'a str,
    pub namespace: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub name: &'a str,
    /// `false`: only `verb` and `path` count.
    pub is_resource: bool,
    pub path: &'a str,
    pub label_selector: Option<&'a str>,
    pub field_selector: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    /// Something done to a resource.
    pub fn resource(user: &'a UserInfo, verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Self {
            user,
            verb,
            namespace: "",
            group,
            version: "*",
            resource,
            subresource: "",
            name: "",
            is_resource: true,
            path: "",
            label_selector: None,
            field_selector: None,
        }
    }

    /// A request to a path that is no resource.
    pub fn path(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Self {
        Self {
            is_resource: false,
            path,
            version: "",
            ..Self::resource(user, verb, "", "")
        }
    }
}

/// An authorizer's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny(String),
    /// Ask the next one. The text says why this one did not allow, if there is something to say.
    NoOpinion(String),
}

/// What a user may do in a namespace, for `SelfSubjectRulesReview`.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub resource: Vec<rbac::PolicyRule>,
    pub non_resource: Vec<rbac::PolicyRule>,
    pub incomplete: bool,
    pub evaluation_error: String,
}

/// One way to decide.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision;

    /// What allows it, for those who ask why; nothing is said for what is not allowed.
    async fn allowed_by(&self, _attributes: &Attributes<'_>) -> String {
        String::new()
    }

    /// Adds what this authorizer would allow `user` in `namespace`.
    async fn rules(&self, _user: &UserInfo, _namespace: &str, rules: &mut Rules) {
        rules.incomplete = true;
    }

    /// Called once, when the server starts.
    fn bind(&self, _objects: Arc<dyn Objects>) {}
}

/// Several authorizers, asked in order.
pub struct Union(Vec<Arc<dyn Authorizer>>);

impl Union {
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Self {
        Self(authorizers)
    }
}

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        in_order(&self.0, attributes).await
    }

    async fn allowed_by(&self, attributes: &Attributes<'_>) -> String {
        first_reason(&self.0, attributes).await
    }

    async fn rules(&self, user: &UserInfo, namespace: &str, rules: &mut Rules) {
        for authorizer in &self.0 {
            authorizer.rules(user, namespace, rules).await;
        }
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        for authorizer in &self.0 {
            authorizer.bind(Arc::clone(&objects));
        }
    }
}

/// The first decision; without one, all reasons.
async fn in_order(authorizers: &[Arc<dyn Authorizer>], attributes: &Attributes<'_>) -> Decision {
    let mut reasons = String::new();
    for authorizer in authorizers {
        match authorizer.authorize(attributes).await {
            Decision::NoOpinion(reason) => {
                if !reason.is_empty() {
                    if !reasons.is_empty() {
                        reasons.push('\n');
                    }
                    reasons.push_str(&reason);
                }
            }
            decided => return decided,
        }
    }
    Decision::NoOpinion(reasons)
}

/// What the authorizer that allows it says.
async fn first_reason(authorizers: &[Arc<dyn Authorizer>], attributes: &Attributes<'_>) -> String {
    for authorizer in authorizers {
        match authorizer.authorize(attributes).await {
            Decision::NoOpinion(_) => {}
            Decision::Allow => return authorizer.allowed_by(attributes).await,
            Decision::Deny(_) => break,
        }
    }
    String::new()
}

/// Members of `system:masters` may do everything, before any other authorizer is asked.
pub struct Masters;

#[async_trait]
impl Authorizer for Masters {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group("system:masters") {
            Decision::Allow
        } else {
            Decision::NoOpinion(String::new())
        }
    }

    async fn rules(&self, user: &UserInfo, _namespace: &str, rules: &mut Rules) {
        if user.in_group("system:masters") {
            rules.resource.push(rbac::PolicyRule::everything());
            rules.non_resource.push(rbac::PolicyRule::every_path());
        }
    }
}
