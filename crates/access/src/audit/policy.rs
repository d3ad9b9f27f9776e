//! Policy (`audit.k8s.io/v1`): the first rule that matches says how much is told.

use super::Stage;
use crate::authorization::Attributes;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

/// Why a policy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("the audit policy cannot be read: {0}")]
    Syntax(String),
    #[error("the audit policy is invalid: {0}")]
    Invalid(String),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: Option<Level>,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What is wanted of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted<'a> {
    pub level: Level,
    pub omit_stages: &'a [Stage],
    pub omit_managed_fields: bool,
}

impl Policy {
    /// Reads YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut policy: Self =
            serde_yaml_ng::from_str(text).map_err(|error| PolicyError::Syntax(error.to_string()))?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            return Err(PolicyError::Syntax(format!(
                "unknown group version field {}, Kind={} in policy",
                policy.api_version, policy.kind
            )));
        }
        if policy.rules.is_empty() {
            return Err(PolicyError::Invalid(
                "loaded illegal policy with 0 rules".to_owned(),
            ));
        }
        let mut findings = Vec::new();
        for (i, rule) in policy.rules.iter().enumerate() {
            rule.judge(&format!("rules[{i}]"), &mut findings);
        }
        if !findings.is_empty() {
            return Err(PolicyError::Invalid(findings.join(", ")));
        }
        // What is omitted everywhere is omitted by every rule.
        for rule in &mut policy.rules {
            rule.omit_stages.extend(policy.omit_stages.iter().copied());
        }
        Ok(policy)
    }

    pub(super) fn evaluate(&self, attributes: &Attributes<'_>) -> Wanted<'_> {
        match self.rules.iter().find(|rule| rule.matches(attributes)) {
            Some(rule) => Wanted {
                level: rule.level.unwrap_or_default(),
                omit_stages: &rule.omit_stages,
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            },
            None => Wanted {
                level: Level::None,
                omit_stages: &self.omit_stages,
                omit_managed_fields: self.omit_managed_fields,
            },
        }
    }
}

impl Rule {
    fn judge(&self, at: &str, findings: &mut Vec<String>) {
        if self.level.is_none() {
            findings.push(format!("{at}.level: Required value"));
        }
        for (i, url) in self.non_resource_urls.iter().enumerate() {
            if url == "*" {
                continue;
            }
            if !url.starts_with('/') {
                findings.push(format!(
                    "{at}.nonResourceURLs[{i}]: Invalid value: {url:?}: non-resource URL rules must begin with a '/' character"
                ));
            }
            if url.find('*').is_some_and(|star| star + 1 < url.len()) {
                findings.push(format!(
                    "{at}.nonResourceURLs[{i}]: Invalid value: {url:?}: non-resource URL wildcards '*' must be the final character of the rule"
                ));
            }
        }
        for resources in &self.resources {
            let group = &resources.group;
            if !group.is_empty() && group != "*" && !machinery::names::dns1123_subdomain(group).is_empty() {
                findings.push(format!(
                    "{at}.resources.group: Invalid value: {group:?}: must be a group's name"
                ));
            }
            if !resources.resource_names.is_empty() && resources.resources.is_empty() {
                findings.push(format!(
                    "{at}.resources.resourceNames: Invalid value: using resourceNames requires at least one resource"
                ));
            }
        }
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.non_resource_urls.is_empty() {
            findings.push(format!(
                "{at}.nonResourceURLs: Invalid value: rules cannot apply to both regular resources and non-resource URLs"
            ));
        }
    }

    fn matches(&self, a: &Attributes<'_>) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|item| item == wanted);
        if !self.users.is_empty() && !has(&self.users, &a.user.name) {
            return false;
        }
        if !self.user_groups.is_empty() && !a.user.groups.iter().any(|group| has(&self.user_groups, group)) {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, a.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return a.is_resource
                && (self.namespaces.is_empty() || has(&self.namespaces, a.namespace))
                && (self.resources.is_empty()
                    || self.resources.iter().any(|resources| resources.matches(a)));
        }
        if !self.non_resource_urls.is_empty() {
            return !a.is_resource
                && self.non_resource_urls.iter().any(|url| {
                    url == "*"
                        || url == a.path
                        || url
                            .strip_suffix('*')
                            .is_some_and(|prefix| a.path.starts_with(prefix))
                });
        }
        true
    }
}

impl Resources {
    fn matches(&self, a: &Attributes<'_>) -> bool {
        if self.group != "*" && self.group != a.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.iter().any(|name| name == a.name) {
            return false;
        }
        self.resources.iter().any(|wanted| match wanted.split_once('/') {
            None => wanted == "*" || a.subresource.is_empty() && wanted == a.resource,
            Some((resource, "*")) => resource == a.resource,
            Some(("*", subresource)) => !a.subresource.is_empty() && subresource == a.subresource,
            Some((resource, subresource)) => resource == a.resource && subresource == a.subresource,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::user::UserInfo;

    fn with(rules: &str) -> Result<Policy, PolicyError> {
        Policy::parse(&format!(
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}"
        ))
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let user = UserInfo::authenticated("alice", &["team"]);
        let check = |rules: &str, resource: &str, subresource: &str, expected: Level| {
            let policy = with(rules).expect(rules);
            let attributes = Attributes {
                namespace: "a",
                name: "n",
                subresource,
                ..Attributes::resource(&user, "get", "", resource)
            };
            assert_eq!(
                policy.evaluate(&attributes).level,
                expected,
                "{rules} {resource}/{subresource}"
            );
        };
        check("- level: Metadata\n", "pods", "", Level::Metadata);
        check(
            "- level: None\n  users: [alice]\n- level: Metadata\n",
            "pods",
            "",
            Level::None,
        );
        check(
            "- level: None\n  users: [bob]\n- level: Metadata\n",
            "pods",
            "",
            Level::Metadata,
        );
        check(
            "- level: Request\n  userGroups: [team]\n",
            "pods",
            "",
            Level::Request,
        );
        check("- level: Request\n  verbs: [watch]\n", "pods", "", Level::None);
        check(
            "- level: Request\n  namespaces: [a]\n",
            "pods",
            "",
            Level::Request,
        );
        check(
            "- level: Request\n  namespaces: [\"\"]\n",
            "pods",
            "",
            Level::None,
        );
        check(
            "- level: Request\n  nonResourceURLs: [\"*\"]\n",
            "pods",
            "",
            Level::None,
        );
        let of = |resources: &str| format!("- level: RequestResponse\n  resources: [{resources}]\n");
        check(
            &of("{group: \"\", resources: [pods]}"),
            "pods",
            "",
            Level::RequestResponse,
        );
        check(
            &of("{group: \"\", resources: [pods]}"),
            "pods",
            "log",
            Level::None,
        );
        check(
            &of("{group: \"\", resources: [pods/log]}"),
            "pods",
            "log",
            Level::RequestResponse,
        );
        check(
            &of("{group: \"\", resources: [\"pods/*\"]}"),
            "pods",
            "log",
            Level::RequestResponse,
        );
        check(
            &of("{group: \"\", resources: [\"*/log\"]}"),
            "pods",
            "log",
            Level::RequestResponse,
        );
        check(&of("{group: \"*\"}"), "pods", "", Level::RequestResponse);
        check(&of("{group: apps}"), "pods", "", Level::None);
        check(
            &of("{group: \"\", resources: [pods], resourceNames: [m]}"),
            "pods",
            "",
            Level::None,
        );
        check(
            &of("{group: \"\", resources: [pods], resourceNames: [n]}"),
            "pods",
            "",
            Level::RequestResponse,
        );
    }

    #[test]
    fn stages_and_managed_fields_are_omitted_as_told() {
        let policy = Policy::parse(
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n\
             - level: Metadata\n  verbs: [get]\n  omitStages: [ResponseStarted]\n  omitManagedFields: false\n- level: Metadata\n",
        )
        .expect("valid");
        let user = UserInfo::anonymous();
        let get = Attributes::path(&user, "get", "/version");
        let wanted = policy.evaluate(&get);
        assert_eq!(
            wanted.omit_stages,
            [Stage::ResponseStarted, Stage::RequestReceived]
        );
        assert!(!wanted.omit_managed_fields);
        let post = Attributes::path(&user, "post", "/version");
        assert!(policy.evaluate(&post).omit_managed_fields);
    }

    #[test]
    fn mistakes_are_told() {
        let check = |rules: &str, expected: &str| {
            let error = with(rules).expect_err(rules).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(" []", "0 rules");
        check("- users: [a]\n", "rules[0].level: Required value");
        check("- level: Everything\n", "unknown variant");
        check("- level: None\n  nonResourceURLs: [a]\n", "must begin with a '/'");
        check(
            "- level: None\n  nonResourceURLs: [\"/*a\"]\n",
            "must be the final character",
        );
        check(
            "- level: None\n  nonResourceURLs: [/a]\n  namespaces: [a]\n",
            "cannot apply to both",
        );
        check(
            "- level: None\n  resources: [{resourceNames: [a]}]\n",
            "requires at least one resource",
        );
        assert!(Policy::parse("apiVersion: audit.k8s.io/v1beta1\nkind: Policy\n").is_err());
    }
}
