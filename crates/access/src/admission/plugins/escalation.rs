//! Nobody grants by a role or binding what they may not do themselves.
//!
//! Upstream checks this in the storage of roles and bindings; here it is one more admission plugin, and one that cannot
//! be switched off. Members of `system:masters`, and who may `escalate` (a role) or `bind` (to a role), are not asked.

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use crate::authorization::rbac::PolicyRule;
use crate::authorization::{self, Authorizer, Decision, Rules};
use async_trait::async_trait;
use machinery::gvk::GroupResource;
use machinery::status::ApiError;
use machinery::{Value, meta};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

const GROUP: &str = "rbac.authorization.k8s.io";

#[derive(Default)]
pub(super) struct Escalation {
    objects: OnceLock<Arc<dyn Objects>>,
    authorizer: OnceLock<Arc<dyn Authorizer>>,
}

#[async_trait]
impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && target.group == GROUP
            && target.subresource.is_empty()
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let (Some(object), Some(authorizer)) = (object, self.authorizer.get()) else {
            return Ok(());
        };
        let unchanged = attributes.old.is_some_and(|old| only_bookkeeping(object, old));
        if unchanged || attributes.user.in_group("system:masters") {
            return Ok(());
        }
        let target = &attributes.target;
        let granted = match target.resource {
            "roles" | "clusterroles" => {
                let name = if target.name.is_empty() {
                    meta::name(object)
                } else {
                    target.name
                };
                if may(&**authorizer, attributes, "escalate", target.resource, name).await {
                    return Ok(());
                }
                rules(object)
            }
            _ => {
                let text = |field| object.get_str_path(&["roleRef", field]).unwrap_or_default();
                let resource = if text("kind") == "ClusterRole" {
                    "clusterroles"
                } else {
                    "roles"
                };
                if may(&**authorizer, attributes, "bind", resource, text("name")).await {
                    return Ok(());
                }
                self.rules_of(resource, target.namespace, text("name")).await?
            }
        };
        let mut held = Rules::default();
        authorizer
            .rules(attributes.user, target.namespace, &mut held)
            .await;
        let held: Vec<PolicyRule> = held.resource.into_iter().chain(held.non_resource).collect();
        if target.resource == "clusterroles" && aggregates_anew(object, attributes.old) {
            let everything = [PolicyRule::everything(), PolicyRule::every_path()];
            if !missing(&held, &everything).is_empty() {
                return Err(attributes.forbidden(
                    Some(object),
                    "must have cluster-admin privileges to use the aggregationRule",
                ));
            }
        }
        let missing = missing(&held, &granted);
        if missing.is_empty() {
            return Ok(());
        }
        let lines: BTreeSet<String> = compact(missing).iter().map(describe).collect();
        let lines: Vec<String> = lines.into_iter().collect();
        let why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            attributes.user.name,
            quoted(&attributes.user.groups),
            lines.join("\n")
        );
        Err(attributes.forbidden(Some(object), why))
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }

    fn bind_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.authorizer.get_or_init(|| authorizer);
    }
}

impl Escalation {
    async fn rules_of(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<PolicyRule>, ApiError> {
        let Some(objects) = self.objects.get() else {
            return Ok(Vec::new());
        };
        let namespace = if resource == "clusterroles" { "" } else { namespace };
        match objects.get(GROUP, resource, namespace, name).await? {
            Some(role) => Ok(rules(&role)),
            None => Err(ApiError::not_found(&GroupResource::new(GROUP, resource), name)),
        }
    }
}

async fn may(
    authorizer: &dyn Authorizer,
    attributes: &Attributes<'_>,
    verb: &str,
    resource: &str,
    name: &str,
) -> bool {
    let asked = authorization::Attributes {
        namespace: attributes.target.namespace,
        name,
        ..authorization::Attributes::resource(attributes.user, verb, GROUP, resource)
    };
    authorizer.authorize(&asked).await == Decision::Allow
}

/// Nothing but what the garbage collector writes has changed.
fn only_bookkeeping(new: &Value, old: &Value) -> bool {
    let bare = |of: &Value| {
        let mut of = of.clone();
        for field in [
            "ownerReferences",
            "finalizers",
            "managedFields",
            "resourceVersion",
        ] {
            of.remove_path(&["metadata", field]);
        }
        of
    };
    bare(new).semantic_eq(&bare(old))
}

fn aggregates_anew(new: &Value, old: Option<&Value>) -> bool {
    let rule = |of: &Value| of.get("aggregationRule").filter(|rule| !rule.is_null()).cloned();
    rule(new).is_some() && old.and_then(rule) != rule(new)
}

fn rules(role: &Value) -> Vec<PolicyRule> {
    let rules = role.get("rules").and_then(Value::as_array).unwrap_or_default();
    rules.iter().map(PolicyRule::from_value).collect()
}

/// What of `granted` is not covered by `held`, one verb of one resource (or path) each.
fn missing(held: &[PolicyRule], granted: &[PolicyRule]) -> Vec<PolicyRule> {
    granted
        .iter()
        .flat_map(parts)
        .filter(|part| !held.iter().any(|rule| covers(rule, part)))
        .collect()
}

fn parts(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |text: &String| vec![text.clone()];
    let names: Vec<Vec<String>> = if rule.resource_names.is_empty() {
        vec![Vec::new()]
    } else {
        rule.resource_names.iter().map(one).collect()
    };
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                parts.extend(names.iter().map(|names| PolicyRule {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    resource_names: names.clone(),
                    ..PolicyRule::default()
                }));
            }
        }
        parts.extend(rule.non_resource_urls.iter().map(|url| PolicyRule {
            verbs: one(verb),
            non_resource_urls: one(url),
            ..PolicyRule::default()
        }));
    }
    parts
}

/// Whether a rule allows all that a part does.
fn covers(rule: &PolicyRule, part: &PolicyRule) -> bool {
    let all = |list: &[String], wanted: &[String]| {
        list.iter().any(|item| item == "*") || wanted.iter().all(|item| list.contains(item))
    };
    let resource = |wanted: &String| {
        rule.resources.contains(wanted)
            || wanted
                .split_once('/')
                .is_some_and(|(_, sub)| rule.resources.iter().any(|own| *own == format!("*/{sub}")))
    };
    let resources = rule.resources.iter().any(|own| own == "*") || part.resources.iter().all(resource);
    let names = if part.resource_names.is_empty() {
        rule.resource_names.is_empty()
    } else {
        rule.resource_names.is_empty() || all(&rule.resource_names, &part.resource_names)
    };
    let urls = part.non_resource_urls.iter().all(|url| {
        rule.non_resource_urls.iter().any(|own| {
            own == "*"
                || own == url
                || own
                    .strip_suffix('*')
                    .is_some_and(|prefix| url.starts_with(prefix))
        })
    });
    all(&rule.verbs, &part.verbs) && all(&rule.api_groups, &part.api_groups) && resources && names && urls
}

/// Parts that differ only in their verb, as one.
fn compact(parts: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut together: BTreeMap<[Vec<String>; 4], PolicyRule> = BTreeMap::new();
    for part in parts {
        let key = [
            part.api_groups.clone(),
            part.resources.clone(),
            part.resource_names.clone(),
            part.non_resource_urls.clone(),
        ];
        match together.get_mut(&key) {
            // Paths are told one by one.
            Some(known) if part.non_resource_urls.is_empty() => {
                let new = part.verbs.into_iter().filter(|verb| !known.verbs.contains(verb));
                let new: Vec<String> = new.collect();
                known.verbs.extend(new);
            }
            Some(known) => known.verbs.extend(part.verbs),
            None => {
                together.insert(key, part);
            }
        }
    }
    together.into_values().collect()
}

fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

fn describe(rule: &PolicyRule) -> String {
    let fields = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let parts: Vec<String> = fields
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", quoted(list)))
        .collect();
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixed, With, object};
    use super::*;
    use crate::authorization::rbac::Rbac;
    use machinery::user::UserInfo;

    /// Jane may read pods, bind `reader` in `ns`, and escalate the role `free`.
    async fn check(user: &str, groups: &[&str], resource: &str, text: &str) -> Result<(), String> {
        let role = |name: &str, rules: &str| {
            object(&format!(r#"{{"metadata":{{"name":"{name}"}},"rules":{rules}}}"#))
        };
        let stored: Arc<dyn Objects> = Arc::new(Fixed(vec![
            (
                "clusterroles",
                Arc::new(role(
                    "jane",
                    r#"[{"verbs":["get","list"],"apiGroups":[""],"resources":["pods","*/scale"]},
                        {"verbs":["bind"],"apiGroups":["rbac.authorization.k8s.io"],"resources":["clusterroles"],"resourceNames":["reader"]},
                        {"verbs":["escalate"],"apiGroups":["rbac.authorization.k8s.io"],"resources":["clusterroles"],"resourceNames":["free"]},
                        {"verbs":["get"],"nonResourceURLs":["/logs/*"]}]"#,
                )),
            ),
            (
                "clusterroles",
                Arc::new(role(
                    "reader",
                    r#"[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]"#,
                )),
            ),
            (
                "clusterroles",
                Arc::new(role(
                    "writer",
                    r#"[{"verbs":["create"],"apiGroups":[""],"resources":["pods"]}]"#,
                )),
            ),
            (
                "clusterrolebindings",
                Arc::new(object(
                    r#"{"metadata":{"name":"b"},"roleRef":{"kind":"ClusterRole","name":"jane"},"subjects":[{"kind":"User","name":"jane"}]}"#,
                )),
            ),
        ]));
        let rbac = Rbac::default();
        rbac.bind(Arc::clone(&stored));
        let plugin = Escalation::default();
        plugin.bind(stored);
        plugin.bind_authorizer(Arc::new(rbac));
        let user = UserInfo::authenticated(user, groups);
        let object = object(text);
        let target = (GROUP, resource, "");
        let with = With {
            user,
            ..With::default()
        };
        let attributes = with.attributes(Operation::Create, target, "", meta::name(&object));
        let said = plugin.validate(&attributes, Some(&object)).await;
        said.map_err(|error| error.message)
    }

    #[tokio::test]
    async fn what_is_granted_must_be_held() {
        let role = |name: &str, rules: &str| format!(r#"{{"metadata":{{"name":"{name}"}},"rules":{rules}}}"#);
        let jane =
            |resource: &'static str, text: String| async move { check("jane", &[], resource, &text).await };
        let fine = r#"[{"verbs":["get"],"apiGroups":[""],"resources":["pods","x/scale"]},{"verbs":["get"],"nonResourceURLs":["/logs/a"]}]"#;
        assert_eq!(jane("clusterroles", role("r", fine)).await, Ok(()));
        let more = r#"[{"verbs":["get","create","delete"],"apiGroups":[""],"resources":["pods"]}]"#;
        assert_eq!(
            jane("clusterroles", role("r", more)).await.unwrap_err(),
            "clusterroles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is \
             attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], \
             Verbs:[\"create\" \"delete\"]}"
        );
        assert_eq!(jane("clusterroles", role("free", more)).await, Ok(()));
        assert_eq!(
            check("root", &["system:masters"], "clusterroles", &role("r", more)).await,
            Ok(())
        );
        let all = r#"[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]"#;
        assert!(jane("clusterroles", role("r", all)).await.is_err());
        let binding = |role: &str| {
            format!(r#"{{"metadata":{{"name":"b"}},"roleRef":{{"kind":"ClusterRole","name":"{role}"}}}}"#)
        };
        assert_eq!(jane("clusterrolebindings", binding("reader")).await, Ok(()));
        assert_eq!(jane("clusterrolebindings", binding("jane")).await, Ok(()));
        assert!(jane("clusterrolebindings", binding("writer")).await.is_err());
        assert_eq!(
            jane("clusterrolebindings", binding("absent")).await.unwrap_err(),
            r#"clusterroles.rbac.authorization.k8s.io "absent" not found"#
        );
        let aggregated = r#"{"metadata":{"name":"r"},"aggregationRule":{"clusterRoleSelectors":[]}}"#;
        assert!(
            jane("clusterroles", aggregated.to_owned())
                .await
                .unwrap_err()
                .contains("cluster-admin")
        );
    }
}
