//! Which requests a webhook or a policy speaks of: rules over operations and resources, and selectors over the labels
//! of the object and its namespace.
//!
//! With the match policy `Equivalent` a rule that names another version (or group) of the same kind matches too, and
//! the object is then shown in that version.

use super::{Attributes, Equivalent, Operation};
use crate::Objects;
use machinery::gvk::GroupResource;
use machinery::selector::{LabelSelector, SelectorError};
use machinery::status::ApiError;
use machinery::{Map, Value, meta};

/// One rule.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    /// No names: every name.
    names: Vec<String>,
    scope: Scope,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Scope {
    #[default]
    All,
    Namespaced,
    Cluster,
}

/// Everything a webhook's or policy's match constraints say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Matcher {
    pub rules: Vec<Rule>,
    pub exclude: Vec<Rule>,
    pub namespaces: LabelSelector,
    pub objects: LabelSelector,
    /// Rules that name other versions match too.
    pub equivalent: bool,
}

/// The version an object is to be shown in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hit {
    pub group: String,
    pub version: String,
    pub resource: String,
    /// Of some subresources the kind is of another group than the resource.
    pub kind_group: String,
    pub kind_version: String,
    pub kind: String,
}

/// Policies and webhooks do not judge what makes them: otherwise a wrong one could not be removed.
pub(crate) fn is_exempt(attributes: &Attributes<'_>) -> bool {
    attributes.target.group == "admissionregistration.k8s.io"
        && matches!(
            attributes.target.resource,
            "validatingwebhookconfigurations"
                | "mutatingwebhookconfigurations"
                | "validatingadmissionpolicies"
                | "validatingadmissionpolicybindings"
                | "mutatingadmissionpolicies"
                | "mutatingadmissionpolicybindings"
        )
}

/// Questions about users are none of a policy's business, and policies do not judge policies.
pub(crate) fn is_no_policys(attributes: &Attributes<'_>) -> bool {
    let resource = attributes.target.resource;
    match attributes.target.group {
        "admissionregistration.k8s.io" => {
            is_exempt(attributes) && !resource.ends_with("webhookconfigurations")
        }
        "authentication.k8s.io" => matches!(resource, "selfsubjectreviews" | "tokenreviews"),
        "authorization.k8s.io" => matches!(
            resource,
            "localsubjectaccessreviews"
                | "selfsubjectaccessreviews"
                | "selfsubjectrulesreviews"
                | "subjectaccessreviews"
        ),
        _ => false,
    }
}

impl Rule {
    fn everything() -> Self {
        let all = || vec!["*".to_owned()];
        Self {
            operations: all(),
            groups: all(),
            versions: all(),
            resources: vec!["*/*".to_owned()],
            ..Self::default()
        }
    }

    pub(crate) fn read(rule: &Value) -> Self {
        let list = |field: &str| strings(rule.get(field));
        Self {
            operations: list("operations"),
            groups: list("apiGroups"),
            versions: list("apiVersions"),
            resources: list("resources"),
            names: list("resourceNames"),
            scope: match rule.get("scope").and_then(Value::as_str) {
                Some("Namespaced") => Scope::Namespaced,
                Some("Cluster") => Scope::Cluster,
                _ => Scope::All,
            },
        }
    }

    fn matches(&self, attributes: &Attributes<'_>, group: &str, version: &str, resource: &str) -> bool {
        let target = &attributes.target;
        let is_namespace = group.is_empty() && resource == "namespaces";
        let in_namespace = !target.namespace.is_empty() && !is_namespace;
        let scope = match self.scope {
            Scope::All => true,
            Scope::Namespaced => in_namespace,
            Scope::Cluster => !in_namespace,
        };
        scope
            && has(&self.operations, attributes.operation.as_str())
            && has(&self.groups, group)
            && has(&self.versions, version)
            && self.resources.iter().any(|rule| {
                let (name, sub) = rule.split_once('/').unwrap_or((rule, ""));
                (name == "*" || name == resource) && (sub == "*" || sub == target.subresource)
            })
            && (self.names.is_empty() || self.names.iter().any(|name| name == target.name))
    }
}

impl Matcher {
    /// The version the object is to be shown in, if this speaks of the request at all.
    pub(crate) async fn hit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        objects: &dyn Objects,
    ) -> Result<Option<Hit>, ApiError> {
        if self.rule_hit(&self.exclude, attributes).is_some() {
            return Ok(None);
        }
        let Some(hit) = self.rule_hit(&self.rules, attributes) else {
            return Ok(None);
        };
        if !self.objects.is_everything() {
            let selects = |object: Option<&Value>| {
                object.is_some_and(|object| self.objects.matches(meta::labels(object)))
            };
            if !selects(object) && !selects(attributes.old) {
                return Ok(None);
            }
        }
        if self.namespaces.is_everything() || self.selects_namespace(attributes, object, objects).await? {
            return Ok(Some(hit));
        }
        Ok(None)
    }

    /// Whether a binding's narrower choice has the request in it; without rules it narrows by selectors alone.
    pub(crate) async fn narrows(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        objects: &dyn Objects,
    ) -> Result<bool, ApiError> {
        if !self.rules.is_empty() {
            return Ok(self.hit(attributes, object, objects).await?.is_some());
        }
        let everything = Self {
            rules: vec![Rule::everything()],
            ..self.clone()
        };
        Ok(everything.hit(attributes, object, objects).await?.is_some())
    }

    fn rule_hit(&self, rules: &[Rule], attributes: &Attributes<'_>) -> Option<Hit> {
        let target = &attributes.target;
        if rules
            .iter()
            .any(|rule| rule.matches(attributes, target.group, target.version, target.resource))
        {
            return Some(Hit {
                group: target.group.to_owned(),
                version: target.version.to_owned(),
                resource: target.resource.to_owned(),
                kind_group: target.kind_group.to_owned(),
                kind_version: target.kind_version.to_owned(),
                kind: target.kind.to_owned(),
            });
        }
        let equivalents: Vec<Equivalent> = match attributes.versions {
            Some(versions) if self.equivalent => versions.equivalents(),
            _ => Vec::new(),
        };
        let found = rules.iter().find_map(|rule| {
            equivalents.iter().find(|other| {
                (other.group != target.group || other.version != target.version)
                    && rule.matches(attributes, &other.group, &other.version, &other.resource)
            })
        })?;
        Some(Hit {
            group: found.group.clone(),
            version: found.version.clone(),
            resource: found.resource.clone(),
            kind_group: found.group.clone(),
            kind_version: found.version.clone(),
            kind: found.kind.clone(),
        })
    }

    async fn selects_namespace(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        objects: &dyn Objects,
    ) -> Result<bool, ApiError> {
        let target = &attributes.target;
        let is_namespace = target.group.is_empty() && target.resource == "namespaces";
        if target.namespace.is_empty() && !is_namespace {
            return Ok(true);
        }
        // The labels a namespace is to have, when it is the object.
        if target.is("", "namespaces")
            && matches!(attributes.operation, Operation::Create | Operation::Update)
        {
            let labels: Option<&Map> = object.and_then(meta::labels);
            return Ok(self.namespaces.matches(labels));
        }
        let name = if is_namespace {
            target.name
        } else {
            target.namespace
        };
        match objects.get("", "namespaces", "", name).await? {
            Some(namespace) => Ok(self.namespaces.matches(meta::labels(&namespace))),
            None => Err(ApiError::not_found(&GroupResource::new("", "namespaces"), name)),
        }
    }
}

/// A selector as it stands in a configuration; absent selects everything.
pub(crate) fn selector(value: Option<&Value>) -> Result<LabelSelector, SelectorError> {
    match value.filter(|value| !value.is_null()) {
        None => Ok(LabelSelector::everything()),
        some => LabelSelector::from_object(some),
    }
}

pub(crate) fn rules(list: Option<&Value>) -> Vec<Rule> {
    let list = list.and_then(Value::as_array).unwrap_or_default();
    list.iter().map(Rule::read).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{With, object};

    #[test]
    fn rules_match_as_upstream() {
        let check = |rule: &str, target: (&str, &str, &str), subresource: &str, expected: bool| {
            let (group, resource, namespace) = target;
            let with = With::default();
            let attributes = with.attributes(Operation::Create, target, subresource, "");
            let matches = Rule::read(&object(rule)).matches(&attributes, group, "v1", resource);
            assert_eq!(matches, expected, "{group} {resource} {namespace} {subresource}");
        };
        let pods = r#"{"operations":["CREATE"],"apiGroups":[""],"apiVersions":["v1"],"resources":["pods"]}"#;
        check(pods, ("", "pods", "ns"), "", true);
        check(pods, ("", "pods", "ns"), "status", false);
        check(pods, ("apps", "pods", "ns"), "", false);
        let all = r#"{"operations":["*"],"apiGroups":["*"],"apiVersions":["*"],"resources":["*/*"]}"#;
        check(all, ("apps", "deployments", "ns"), "scale", true);
        let subs = r#"{"operations":["*"],"apiGroups":["*"],"apiVersions":["*"],"resources":["pods/*"]}"#;
        check(subs, ("", "pods", "ns"), "status", true);
        check(subs, ("", "nodes", ""), "status", false);
        let delete = r#"{"operations":["DELETE"],"apiGroups":["*"],"apiVersions":["*"],"resources":["*"]}"#;
        check(delete, ("", "pods", "ns"), "", false);
        let cluster = r#"{"operations":["*"],"apiGroups":["*"],"apiVersions":["*"],"resources":["*"],"scope":"Cluster"}"#;
        check(cluster, ("", "pods", "ns"), "", false);
        check(cluster, ("", "namespaces", "ns"), "", true);
    }
}
