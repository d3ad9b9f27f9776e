//! AuthorizationConfiguration (`apiserver.config.k8s.io`): which authorizers are asked, in which order.

use super::node::Node;
use super::rbac::Rbac;
use super::webhook::{FailurePolicy, Options, Webhook};
use super::{Attributes, Authorizer, Decision, Masters, Rules};
use crate::Objects;
use crate::remote::Remote;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use machinery::user::UserInfo;
use serde::Deserialize;
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("the authorization configuration cannot be read: {0}")]
    Syntax(String),
    #[error("the authorization configuration is invalid: {0}")]
    Invalid(String),
}

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    api_version: String,
    kind: String,
    #[serde(default)]
    authorizers: Vec<One>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct One {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
    webhook: Option<WebhookFile>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WebhookFile {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: Option<String>,
    cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: Option<String>,
    cache_unauthorized_requests: Option<bool>,
    timeout: String,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: Connection,
    match_conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Connection {
    #[serde(rename = "type")]
    kind: String,
    kube_config_file: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Condition {
    expression: String,
}

impl Configuration {
    /// Reads YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: Self =
            serde_yaml_ng::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
        let version = file.api_version.strip_prefix("apiserver.config.k8s.io/");
        if !matches!(version, Some("v1" | "v1beta1" | "v1alpha1"))
            || file.kind != "AuthorizationConfiguration"
        {
            return Err(ConfigError::Syntax(format!(
                "no kind {:?} is registered for version {:?}",
                file.kind, file.api_version
            )));
        }
        let findings = file.judge();
        if findings.is_empty() {
            Ok(file)
        } else {
            Err(ConfigError::Invalid(findings.join(", ")))
        }
    }

    /// What `--authorization-mode` and its webhook flags say.
    pub fn of_modes(
        modes: &[String],
        webhook: Option<(&Path, &str, Duration, Duration)>,
    ) -> Result<Self, ConfigError> {
        let one = |mode: &String| One {
            kind: mode.clone(),
            name: mode.to_lowercase(),
            webhook: webhook
                .filter(|_| mode == "Webhook")
                .map(|(path, version, allowed, refused)| WebhookFile {
                    authorized_ttl: Some(format!("{}s", allowed.as_secs())),
                    unauthorized_ttl: Some(format!("{}s", refused.as_secs())),
                    timeout: "30s".to_owned(),
                    subject_access_review_version: version.to_owned(),
                    failure_policy: "NoOpinion".to_owned(),
                    connection_info: Connection {
                        kind: "KubeConfigFile".to_owned(),
                        kube_config_file: Some(path.display().to_string()),
                    },
                    ..WebhookFile::default()
                }),
        };
        let file = Self {
            api_version: "apiserver.config.k8s.io/v1".to_owned(),
            kind: "AuthorizationConfiguration".to_owned(),
            authorizers: modes.iter().map(one).collect(),
        };
        let findings = file.judge();
        if findings.is_empty() {
            Ok(file)
        } else {
            Err(ConfigError::Invalid(findings.join(", ")))
        }
    }

    fn judge(&self) -> Vec<String> {
        let mut findings = Vec::new();
        if self.authorizers.is_empty() {
            findings.push(
                "authorizers: Required value: at least one authorization mode must be defined".to_owned(),
            );
        }
        let (mut kinds, mut names) = (HashSet::new(), HashSet::new());
        for (i, one) in self.authorizers.iter().enumerate() {
            let at = format!("authorizers[{i}]");
            let known = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
            if !known.contains(&one.kind.as_str()) {
                findings.push(format!(
                    "{at}.type: Unsupported value: {:?}: supported values: {known:?}",
                    one.kind
                ));
                continue;
            }
            if !kinds.insert(&one.kind) && one.kind != "Webhook" {
                findings.push(format!("{at}.type: Duplicate value: {:?}", one.kind));
            }
            if one.name.is_empty() {
                findings.push(format!("{at}.name: Required value"));
            } else if !names.insert(&one.name) {
                findings.push(format!("{at}.name: Duplicate value: {:?}", one.name));
            } else if !machinery::names::dns1123_subdomain(&one.name).is_empty() {
                findings.push(format!(
                    "{at}.name: Invalid value: {:?}: must be a DNS subdomain",
                    one.name
                ));
            }
            match (&one.webhook, one.kind.as_str()) {
                (None, "Webhook") => findings.push(format!(
                    "{at}.webhook: Required value: required when type=Webhook"
                )),
                (Some(webhook), "Webhook") => webhook.judge(&format!("{at}.webhook"), &mut findings),
                (Some(_), _) => findings.push(format!(
                    "{at}.webhook: Invalid value: \"non-null\": may only be specified when type=Webhook"
                )),
                (None, _) => {}
            }
        }
        findings
    }
}

impl WebhookFile {
    fn judge(&self, at: &str, findings: &mut Vec<String>) {
        match duration(&self.timeout) {
            None => findings.push(format!("{at}.timeout: Required value")),
            Some(timeout) if timeout.is_zero() || timeout > Duration::from_secs(30) => {
                findings.push(format!(
                    "{at}.timeout: Invalid value: {:?}: must be > 0s and <= 30s",
                    self.timeout
                ));
            }
            Some(_) => {}
        }
        for (name, ttl) in [
            ("authorizedTTL", &self.authorized_ttl),
            ("unauthorizedTTL", &self.unauthorized_ttl),
        ] {
            if let Some(text) = ttl
                && duration(text).is_none()
            {
                findings.push(format!("{at}.{name}: Invalid value: {text:?}: must be > 0s"));
            }
        }
        match self.subject_access_review_version.as_str() {
            "v1" | "v1beta1" => {}
            "" => findings.push(format!("{at}.subjectAccessReviewVersion: Required value")),
            other => findings.push(format!(
                "{at}.subjectAccessReviewVersion: Unsupported value: {other:?}"
            )),
        }
        if !self.match_conditions.is_empty() && self.match_condition_subject_access_review_version != "v1" {
            findings.push(format!("{at}.matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified"));
        }
        if !matches!(self.failure_policy.as_str(), "NoOpinion" | "Deny") {
            findings.push(format!(
                "{at}.failurePolicy: Unsupported value: {:?}: supported values: [\"NoOpinion\", \"Deny\"]",
                self.failure_policy
            ));
        }
        match (self.connection_info.kind.as_str(), &self.connection_info.kube_config_file) {
            ("KubeConfigFile", Some(path)) if !path.is_empty() => {}
            ("KubeConfigFile", _) => findings.push(format!("{at}.connectionInfo.kubeConfigFile: Required value")),
            (other, _) => findings.push(format!(
                "{at}.connectionInfo.type: Unsupported value: {other:?}: supported values: [\"KubeConfigFile\"]"
            )),
        }
    }

    async fn build(&self, name: &str) -> Result<Webhook, ConfigError> {
        let invalid = |why: String| ConfigError::Invalid(format!("webhook {name}: {why}"));
        let path = self.connection_info.kube_config_file.clone().unwrap_or_default();
        let timeout = duration(&self.timeout).unwrap_or(Duration::from_secs(30));
        let remote = Remote::from_kubeconfig(Path::new(&path), timeout)
            .await
            .map_err(|error| invalid(error.to_string()))?;
        let ttl = |text: &Option<String>, on: Option<bool>, usual: u64| {
            let given = text.as_deref().and_then(duration).filter(|ttl| !ttl.is_zero());
            on.unwrap_or(true)
                .then(|| given.unwrap_or(Duration::from_secs(usual)))
        };
        let options = Options {
            name: name.to_owned(),
            version: self.subject_access_review_version.clone(),
            keep_allowed: ttl(&self.authorized_ttl, self.cache_authorized_requests, 300),
            keep_refused: ttl(&self.unauthorized_ttl, self.cache_unauthorized_requests, 30),
            failure_policy: match self.failure_policy.as_str() {
                "Deny" => FailurePolicy::Deny,
                _ => FailurePolicy::NoOpinion,
            },
        };
        let conditions: Vec<String> = self
            .match_conditions
            .iter()
            .map(|c| c.expression.clone())
            .collect();
        Webhook::new(remote, options, &conditions).map_err(invalid)
    }
}

/// `30s`, `5m`, `1m30s`.
fn duration(text: &str) -> Option<Duration> {
    let signed: jiff::SignedDuration = text.parse().ok()?;
    Duration::try_from(signed).ok()
}

/// The authorizers of a configuration that can be replaced. Members of `system:masters` are let through first.
pub struct Configured {
    node: Arc<Node>,
    rbac: Arc<Rbac>,
    current: ArcSwap<Vec<Arc<dyn Authorizer>>>,
    objects: OnceLock<Arc<dyn Objects>>,
}

impl Configured {
    pub async fn new(configuration: &Configuration) -> Result<Self, ConfigError> {
        let this = Self {
            node: Arc::default(),
            rbac: Arc::default(),
            current: ArcSwap::default(),
            objects: OnceLock::new(),
        };
        this.replace(configuration).await?;
        Ok(this)
    }

    /// Asks the authorizers of another configuration from now on.
    pub async fn replace(&self, configuration: &Configuration) -> Result<(), ConfigError> {
        let mut authorizers: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Masters)];
        for one in &configuration.authorizers {
            authorizers.push(match (one.kind.as_str(), &one.webhook) {
                ("Node", _) => Arc::clone(&self.node) as Arc<dyn Authorizer>,
                ("RBAC", _) => Arc::clone(&self.rbac) as Arc<dyn Authorizer>,
                ("AlwaysAllow", _) => Arc::new(Always(Decision::Allow)),
                (_, Some(webhook)) => Arc::new(webhook.build(&one.name).await?),
                _ => Arc::new(Always(Decision::NoOpinion("Everything is forbidden.".to_owned()))),
            });
        }
        if let Some(objects) = self.objects.get() {
            for authorizer in &authorizers {
                authorizer.bind(Arc::clone(objects));
            }
        }
        self.current.store(Arc::new(authorizers));
        Ok(())
    }
}

#[async_trait]
impl Authorizer for Configured {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        super::in_order(&self.current.load(), attributes).await
    }

    async fn allowed_by(&self, attributes: &Attributes<'_>) -> String {
        super::first_reason(&self.current.load(), attributes).await
    }

    async fn rules(&self, user: &UserInfo, namespace: &str, rules: &mut Rules) {
        for authorizer in self.current.load().iter() {
            authorizer.rules(user, namespace, rules).await;
        }
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        for authorizer in self.current.load().iter() {
            authorizer.bind(Arc::clone(&objects));
        }
        // Bound once, when the server starts; whoever comes later is bound in `replace`.
        self.objects.get_or_init(|| objects);
    }
}

/// Says the same to everybody.
struct Always(Decision);

#[async_trait]
impl Authorizer for Always {
    async fn authorize(&self, _attributes: &Attributes<'_>) -> Decision {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_judged_as_upstream_judges_them() {
        let check = |authorizers: &str, expected: &str| {
            let text = format!(
                "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{authorizers}]"
            );
            let outcome = Configuration::parse(&text)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(
                outcome.contains(expected) && outcome.is_empty() == expected.is_empty(),
                "{authorizers}: {outcome}"
            );
        };
        let webhook = |more: &str| {
            format!(
                "{{type: Webhook, name: w, webhook: {{timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny, connectionInfo: {{type: KubeConfigFile, kubeConfigFile: /x}}{more}}}}}"
            )
        };
        check("{type: Node, name: node}, {type: RBAC, name: rbac}", "");
        check(&webhook(""), "");
        check("", "at least one authorization mode");
        check("{type: Nobody, name: n}", "Unsupported value: \"Nobody\"");
        check(
            "{type: RBAC, name: a}, {type: RBAC, name: b}",
            "authorizers[1].type: Duplicate value",
        );
        check(
            "{type: RBAC, name: a}, {type: Node, name: a}",
            "authorizers[1].name: Duplicate value",
        );
        check("{type: Webhook, name: a}", "required when type=Webhook");
        check(
            "{type: RBAC, name: a, webhook: {}}",
            "may only be specified when type=Webhook",
        );
        check(
            &webhook(", matchConditions: [{expression: a}]"),
            "required if match conditions",
        );
        check(&webhook("").replace("3s", "31s"), "must be > 0s and <= 30s");
        check(
            &webhook("").replace("Deny", "Maybe"),
            "failurePolicy: Unsupported value",
        );
    }
}
