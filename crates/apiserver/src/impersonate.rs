//! Acting as somebody else: the `Impersonate-…` headers, if the caller may.
//!
//! Upstream's constrained impersonation (KEP-5284): a right to act as somebody (`impersonate:<mode>`) counts together
//! with the right to do this while doing so (`impersonate-on:<mode>:<verb>`), in the modes that fit whom the caller
//! wants to be. The right of old, `impersonate`, is asked last.

use crate::filters::{decide, forbidden};
use crate::request::query::decode_path;
use crate::server::Core;
use access::authorization::Attributes;
use http::HeaderMap;
use machinery::status::ApiError;
use machinery::user::UserInfo;
use std::sync::Arc;

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
const NODE: &str = "system:node:";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const AUTHENTICATION: &str = "authentication.k8s.io";
/// From so many checks of a kind on, the right to all is asked for first.
const MANY: usize = 4;

/// Whom a request is judged as.
pub(crate) struct Subject {
    pub user: Arc<UserInfo>,
    /// The constrained right that let the caller be somebody else; empty otherwise.
    pub constraint: String,
}

/// Ways to be somebody else, in the order they are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

impl Mode {
    const ALL: [Self; 5] = [
        Self::AssociatedNode,
        Self::ArbitraryNode,
        Self::ServiceAccount,
        Self::UserInfo,
        Self::Legacy,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::AssociatedNode => "impersonate:associated-node",
            Self::ArbitraryNode => "impersonate:arbitrary-node",
            Self::ServiceAccount => "impersonate:serviceaccount",
            Self::UserInfo => "impersonate:user-info",
            Self::Legacy => "impersonate",
        }
    }

    /// Whether the mode is for such a wish at all.
    fn fits(self, wanted: &UserInfo, caller: &UserInfo) -> bool {
        let name_only = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (of_node, of_account) = (node(&wanted.name), account(&wanted.name));
        match self {
            Self::AssociatedNode => {
                let own = caller.extra.get(NODE_NAME).filter(|names| names.len() == 1);
                name_only
                    && of_node.is_some()
                    && account(&caller.name).is_some()
                    && own.and_then(|names| names.first()).map(String::as_str) == of_node
            }
            Self::ArbitraryNode => name_only && of_node.is_some(),
            Self::ServiceAccount => name_only && of_account.is_some(),
            Self::UserInfo => of_node.is_none() && of_account.is_none(),
            Self::Legacy => true,
        }
    }
}

/// Namespace and name of a service account's user.
fn account(name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = name.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    let good = machinery::names::dns1123_label(namespace).is_empty()
        && machinery::names::dns1123_subdomain(name).is_empty();
    good.then_some((namespace, name))
}

/// The name of a node's user.
fn node(name: &str) -> Option<&str> {
    name.strip_prefix(NODE)
        .filter(|name| machinery::names::dns1123_subdomain(name).is_empty())
}

/// Whom the request is to be judged as. `asked` is what it wants to do, as its caller.
pub(crate) async fn subject(
    core: &Core,
    headers: &HeaderMap,
    caller: &Arc<UserInfo>,
    asked: &Attributes<'_>,
) -> Result<Subject, ApiError> {
    let Some(wanted) = wanted(headers)? else {
        return Ok(Subject {
            user: Arc::clone(caller),
            constraint: String::new(),
        });
    };
    let mut first_error = None;
    for mode in Mode::ALL {
        if !mode.fits(&wanted, caller) {
            continue;
        }
        match check(core, mode, &wanted, caller, asked).await {
            Ok(user) => {
                let constraint = if mode == Mode::Legacy { "" } else { mode.verb() };
                return Ok(Subject {
                    user: Arc::new(user),
                    constraint: constraint.to_owned(),
                });
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| ApiError::internal("all impersonation modes failed")))
}

/// Whom the headers name.
fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, ApiError> {
    let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    let one = |name: &str| headers.get(name).map(text).unwrap_or_default();
    let mut wanted = UserInfo {
        name: one(USER),
        uid: one(UID),
        ..UserInfo::default()
    };
    wanted.groups = headers.get_all(GROUP).iter().map(text).collect();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            wanted
                .extra
                .entry(decode_path(key))
                .or_default()
                .push(text(value));
        }
    }
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    if wanted.groups.is_empty() && wanted.extra.is_empty() && wanted.uid.is_empty() {
        return Ok(None);
    }
    Err(ApiError::bad_request(format!(
        "requested {:?} without impersonating a user name",
        wanted.groups
    )))
}

/// Somebody who wants to be somebody else, in one mode.
struct Check<'a> {
    core: &'a Core,
    mode: Mode,
    caller: &'a UserInfo,
}

async fn check(
    core: &Core,
    mode: Mode,
    wanted: &UserInfo,
    caller: &UserInfo,
    asked: &Attributes<'_>,
) -> Result<UserInfo, ApiError> {
    // Which node it is has been compared; the right is one to all of them, whatever else the caller's token says.
    let keys: Vec<String> = caller.extra.keys().cloned().collect();
    let plain = UserInfo {
        extra: [(
            "authentication.kubernetes.io/associated-node-keys".to_owned(),
            keys,
        )]
        .into(),
        ..caller.clone()
    };
    let caller = if mode == Mode::AssociatedNode {
        &plain
    } else {
        caller
    };
    let check = Check { core, mode, caller };
    if mode != Mode::Legacy {
        let verb = format!("impersonate-on:{}:{}", mode.name(), asked.verb);
        check
            .may(&Attributes {
                verb: &verb,
                user: caller,
                ..*asked
            })
            .await?;
    }
    let mut user = wanted.clone();
    check.name(&mut user).await?;
    check.uid(&wanted.uid).await?;
    check.groups(&wanted.groups).await?;
    check.extra(wanted).await?;
    if user.name == "system:anonymous" {
        if !user.in_group("system:unauthenticated") {
            user.groups.push("system:unauthenticated".to_owned());
        }
    } else if !user.in_group("system:unauthenticated") && !user.in_group("system:authenticated") {
        user.groups.push("system:authenticated".to_owned());
    }
    Ok(user)
}

impl<'a> Check<'a> {
    async fn may(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let decision = decide(self.core, attributes).await;
        decision.map_err(|reason| forbidden(attributes, &reason))
    }

    fn constrained(&self) -> bool {
        self.mode != Mode::Legacy
    }

    /// The right to something of this group; names and groups of the core group are those of the right of old.
    fn right(&self, resource: &'static str, name: &'a str) -> Attributes<'a> {
        let core_group = !self.constrained() && matches!(resource, "users" | "groups" | "serviceaccounts");
        Attributes {
            version: "v1",
            name,
            ..Attributes::resource(
                self.caller,
                self.mode.verb(),
                if core_group { "" } else { AUTHENTICATION },
                resource,
            )
        }
    }

    async fn name(&self, user: &mut UserInfo) -> Result<(), ApiError> {
        let name = user.name.clone();
        if self.constrained()
            && let Some(node) = node(&name)
        {
            let node = if self.mode == Mode::AssociatedNode {
                "*"
            } else {
                node
            };
            self.may(&Attributes {
                name: node,
                ..self.here("nodes")
            })
            .await?;
            if user.groups.is_empty() {
                user.groups = vec!["system:nodes".to_owned()];
            }
            return Ok(());
        }
        if let Some((namespace, account)) = account(&name) {
            self.may(&Attributes {
                namespace,
                name: account,
                ..self.here("serviceaccounts")
            })
            .await?;
            if user.groups.is_empty() {
                user.groups = vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                ];
            }
            return Ok(());
        }
        self.may(&Attributes {
            name: &name,
            ..self.here("users")
        })
        .await
    }

    fn here(&self, resource: &'static str) -> Attributes<'_> {
        self.right(resource, "")
    }

    async fn uid(&self, uid: &str) -> Result<(), ApiError> {
        if uid.is_empty() {
            return Ok(());
        }
        self.may(&Attributes {
            name: uid,
            ..self.here("uids")
        })
        .await
    }

    async fn groups(&self, groups: &[String]) -> Result<(), ApiError> {
        let right = self.here("groups");
        if self.constrained() {
            let refuse = |name: &str, why: &str| Err(forbidden(&Attributes { name, ..right }, why));
            if groups.iter().any(String::is_empty) {
                return refuse("", "impersonating the empty string group is not allowed");
            }
            if groups.iter().any(|group| group == "system:masters") {
                return refuse(
                    "system:masters",
                    "impersonating the system:masters group is not allowed",
                );
            }
            if groups.len() >= MANY && self.may(&Attributes { name: "*", ..right }).await.is_ok() {
                return Ok(());
            }
        }
        for name in groups {
            self.may(&Attributes { name, ..right }).await?;
        }
        Ok(())
    }

    async fn extra(&self, wanted: &UserInfo) -> Result<(), ApiError> {
        let right = self.here("userextras");
        if self.constrained() && !wanted.extra.is_empty() {
            for (key, values) in &wanted.extra {
                let path = key.split_once('/').is_some_and(|(domain, path)| {
                    machinery::names::dns1123_subdomain(domain).is_empty() && !path.is_empty()
                });
                let why = if !path {
                    "impersonating an invalid key in extra is not allowed"
                } else if key.chars().any(char::is_uppercase) {
                    "impersonating a non-lowercase key in extra is not allowed"
                } else if values.iter().any(String::is_empty) {
                    "impersonating the empty string value in extra is not allowed"
                } else {
                    continue;
                };
                return Err(forbidden(&right, why));
            }
            let count: usize = wanted.extra.values().map(Vec::len).sum();
            let all = Attributes {
                subresource: "*",
                name: "*",
                ..right
            };
            if count >= MANY && self.may(&all).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in &wanted.extra {
            for name in values {
                self.may(&Attributes {
                    subresource: key,
                    name,
                    ..right
                })
                .await?;
            }
        }
        Ok(())
    }
}
