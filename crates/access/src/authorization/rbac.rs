//! Role-based access control over the stored roles and bindings.
//!
//! An index from subject to rules is built from all of them and kept until one changes, so a decision is a
//! look-up and a walk over the caller's own rules.

use super::{Attributes, Authorizer, Decision, Rules};
use crate::Objects;
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use machinery::Value;
use machinery::status::ApiError;
use machinery::user::UserInfo;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];

/// A rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyRule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    pub non_resource_urls: Vec<String>,
}

impl PolicyRule {
    pub(crate) fn everything() -> Self {
        let all = || vec!["*".to_owned()];
        Self {
            verbs: all(),
            api_groups: all(),
            resources: all(),
            ..Self::default()
        }
    }

    pub(crate) fn every_path() -> Self {
        Self {
            verbs: vec!["*".to_owned()],
            non_resource_urls: vec!["*".to_owned()],
            ..Self::default()
        }
    }

    /// Reads a rule as it stands in a role.
    pub fn from_value(value: &Value) -> Self {
        let list = |key: &str| {
            let items = value.get(key).and_then(Value::as_array).unwrap_or_default();
            items
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        Self {
            verbs: list("verbs"),
            api_groups: list("apiGroups"),
            resources: list("resources"),
            resource_names: list("resourceNames"),
            non_resource_urls: list("nonResourceURLs"),
        }
    }

    /// Whether the rule allows what is asked.
    pub fn allows(&self, a: &Attributes<'_>) -> bool {
        if !has(&self.verbs, a.verb) {
            return false;
        }
        if !a.is_resource {
            return self.non_resource_urls.iter().any(|url| {
                url == "*"
                    || url == a.path
                    || url
                        .strip_suffix('*')
                        .is_some_and(|prefix| a.path.starts_with(prefix))
            });
        }
        has(&self.api_groups, a.group)
            && self.covers_resource(a.resource, a.subresource)
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == a.name))
    }

    fn covers_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|rule| match rule.split_once('/') {
            None => rule == "*" || (subresource.is_empty() && rule == resource),
            Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
            Some((res, sub)) => !subresource.is_empty() && res == resource && sub == subresource,
        })
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

/// Who a binding names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

type RuleSet = Arc<Vec<PolicyRule>>;

/// What a binding gives its subjects.
#[derive(Debug, Clone)]
struct Grant {
    rules: RuleSet,
    /// The binding and its role, as upstream names them.
    by: Arc<str>,
}

/// All bindings, resolved: what each subject may do everywhere, and in each namespace.
#[derive(Debug, Default)]
pub struct Index {
    everywhere: HashMap<Subject, Vec<Grant>>,
    namespaces: HashMap<String, HashMap<Subject, Vec<Grant>>>,
}

impl Index {
    /// Resolves bindings against roles.
    pub fn build(
        cluster_roles: &[Arc<Value>],
        cluster_bindings: &[Arc<Value>],
        roles: &[Arc<Value>],
        bindings: &[Arc<Value>],
    ) -> Self {
        let text = |v: &Value, path: &[&str]| v.get_str_path(path).unwrap_or_default().to_owned();
        let rules = |role: &Value| -> RuleSet {
            let rules = role.get("rules").and_then(Value::as_array).unwrap_or_default();
            Arc::new(rules.iter().map(PolicyRule::from_value).collect())
        };
        let cluster: HashMap<String, RuleSet> = cluster_roles
            .iter()
            .map(|r| (text(r, &["metadata", "name"]), rules(r)))
            .collect();
        let local: HashMap<(String, String), RuleSet> = roles
            .iter()
            .map(|r| {
                (
                    (
                        text(r, &["metadata", "namespace"]),
                        text(r, &["metadata", "name"]),
                    ),
                    rules(r),
                )
            })
            .collect();
        let mut index = Self::default();
        for binding in cluster_bindings {
            let role = text(binding, &["roleRef", "name"]);
            let Some(rules) = cluster.get(&role) else { continue };
            let name = text(binding, &["metadata", "name"]);
            let grant = Grant {
                rules: Arc::clone(rules),
                by: format!("ClusterRoleBinding {name:?} of ClusterRole {role:?}").into(),
            };
            for subject in subjects(binding, "") {
                index.everywhere.entry(subject).or_default().push(grant.clone());
            }
        }
        for binding in bindings {
            let namespace = text(binding, &["metadata", "namespace"]);
            let role = text(binding, &["roleRef", "name"]);
            let (kind, rules) = if text(binding, &["roleRef", "kind"]) == "ClusterRole" {
                ("ClusterRole", cluster.get(&role))
            } else {
                ("Role", local.get(&(namespace.clone(), role.clone())))
            };
            let Some(rules) = rules else { continue };
            let name = format!("{}/{namespace}", text(binding, &["metadata", "name"]));
            let grant = Grant {
                rules: Arc::clone(rules),
                by: format!("RoleBinding {name:?} of {kind} {role:?}").into(),
            };
            let here = index.namespaces.entry(namespace.clone()).or_default();
            for subject in subjects(binding, &namespace) {
                here.entry(subject).or_default().push(grant.clone());
            }
        }
        index
    }

    /// Every rule that applies to `user` in `namespace` (or everywhere, if it is empty).
    pub fn rules_for<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &str,
    ) -> impl Iterator<Item = &'a PolicyRule> {
        self.grants_for(user, namespace)
            .flat_map(|(_, grant)| grant.rules.iter())
    }

    fn grants_for<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a Subject, &'a Grant)> {
        let here = if namespace.is_empty() {
            None
        } else {
            self.namespaces.get(namespace)
        };
        [Some(&self.everywhere), here]
            .into_iter()
            .flatten()
            .flat_map(move |bound| {
                let of_user = bound.get_key_value(&Subject::User(user.name.clone()));
                let of_groups = user
                    .groups
                    .iter()
                    .filter_map(|g| bound.get_key_value(&Subject::Group(g.clone())));
                of_user
                    .into_iter()
                    .chain(of_groups)
                    .flat_map(|(subject, grants)| grants.iter().map(move |grant| (subject, grant)))
            })
    }
}

/// A subject as upstream names it.
impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Group(name) => write!(f, "Group {name:?}"),
            Self::User(name) => match name
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
            {
                Some((namespace, account)) => write!(f, "ServiceAccount \"{account}/{namespace}\""),
                None => write!(f, "User {name:?}"),
            },
        }
    }
}

fn subjects(binding: &Value, namespace: &str) -> Vec<Subject> {
    let subjects = binding
        .get("subjects")
        .and_then(Value::as_array)
        .unwrap_or_default();
    subjects
        .iter()
        .filter_map(|subject| {
            let name = subject.get("name")?.as_str()?.to_owned();
            match subject.get("kind")?.as_str()? {
                "User" => Some(Subject::User(name)),
                "Group" => Some(Subject::Group(name)),
                "ServiceAccount" => {
                    let of = subject
                        .get("namespace")
                        .and_then(Value::as_str)
                        .filter(|n| !n.is_empty());
                    Some(Subject::User(format!(
                        "system:serviceaccount:{}:{name}",
                        of.unwrap_or(namespace)
                    )))
                }
                _ => None,
            }
        })
        .collect()
}

/// The RBAC authorizer.
#[derive(Default)]
pub struct Rbac {
    objects: OnceLock<Arc<dyn Objects>>,
    index: ArcSwapOption<(Versions, Index)>,
    building: tokio::sync::Mutex<()>,
}

type Versions = [u64; RESOURCES.len()];

impl Rbac {
    /// The index over what is stored now.
    pub async fn index(&self) -> Result<Arc<(Versions, Index)>, ApiError> {
        let Some(objects) = self.objects.get() else {
            return Ok(Arc::default());
        };
        let versions = || RESOURCES.map(|r| objects.version(GROUP, r));
        if let Some(index) = self.current(&versions()) {
            return Ok(index);
        }
        let _building = self.building.lock().await;
        let now = versions();
        if let Some(index) = self.current(&now) {
            return Ok(index);
        }
        let [cluster_roles, cluster_bindings, roles, bindings] = RESOURCES;
        let index = Index::build(
            &objects.list(GROUP, cluster_roles, "").await?,
            &objects.list(GROUP, cluster_bindings, "").await?,
            &objects.list(GROUP, roles, "").await?,
            &objects.list(GROUP, bindings, "").await?,
        );
        let index = Arc::new((now, index));
        self.index.store(Some(Arc::clone(&index)));
        Ok(index)
    }

    fn current(&self, versions: &Versions) -> Option<Arc<(Versions, Index)>> {
        self.index.load_full().filter(|index| index.0 == *versions)
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        match self.index().await {
            Ok(index) => {
                if index
                    .1
                    .rules_for(attributes.user, attributes.namespace)
                    .any(|rule| rule.allows(attributes))
                {
                    Decision::Allow
                } else {
                    Decision::NoOpinion(String::new())
                }
            }
            Err(error) => Decision::NoOpinion(format!("RBAC: {error}")),
        }
    }

    async fn allowed_by(&self, attributes: &Attributes<'_>) -> String {
        let Ok(index) = self.index().await else {
            return String::new();
        };
        index
            .1
            .grants_for(attributes.user, attributes.namespace)
            .find(|(_, grant)| grant.rules.iter().any(|rule| rule.allows(attributes)))
            .map(|(subject, grant)| format!("RBAC: allowed by {} to {subject}", grant.by))
            .unwrap_or_default()
    }

    async fn rules(&self, user: &UserInfo, namespace: &str, rules: &mut Rules) {
        match self.index().await {
            Ok(index) => {
                for rule in index.1.rules_for(user, namespace) {
                    let list = if rule.non_resource_urls.is_empty() {
                        &mut rules.resource
                    } else {
                        &mut rules.non_resource
                    };
                    list.push(rule.clone());
                }
            }
            Err(error) => {
                rules.incomplete = true;
                rules.evaluation_error = error.to_string();
            }
        }
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        PolicyRule {
            verbs: own(verbs),
            api_groups: own(groups),
            resources: own(resources),
            resource_names: own(names),
            ..PolicyRule::default()
        }
    }

    #[test]
    fn rules_match_as_upstream() {
        let user = UserInfo::authenticated("jane", &[]);
        let ask = |rule: &PolicyRule, verb, group, resource, subresource, name| {
            rule.allows(&Attributes {
                subresource,
                name,
                ..Attributes::resource(&user, verb, group, resource)
            })
        };
        let pods = rule(&["get", "list"], &[""], &["pods", "pods/log"], &[]);
        assert!(ask(&pods, "get", "", "pods", "", "x"));
        assert!(ask(&pods, "get", "", "pods", "log", "x"));
        assert!(!ask(&pods, "get", "", "pods", "exec", "x"));
        assert!(!ask(&pods, "create", "", "pods", "", "x"));
        assert!(!ask(&pods, "get", "apps", "pods", "", "x"));
        let scale = rule(&["*"], &["*"], &["*/scale"], &[]);
        assert!(ask(&scale, "patch", "apps", "deployments", "scale", "x"));
        assert!(!ask(&scale, "patch", "apps", "deployments", "", "x"));
        let named = rule(&["get"], &[""], &["secrets"], &["a"]);
        assert!(ask(&named, "get", "", "secrets", "", "a"));
        assert!(!ask(&named, "get", "", "secrets", "", "b"));
        assert!(!ask(&named, "list", "", "secrets", "", ""));
        let mut paths = rule(&["get"], &[], &[], &[]);
        paths.non_resource_urls = vec!["/healthz/*".into()];
        assert!(paths.allows(&Attributes::path(&user, "get", "/healthz/ping")));
        assert!(!paths.allows(&Attributes::path(&user, "get", "/metrics")));
    }
}
