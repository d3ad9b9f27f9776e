//! AuthenticationConfiguration (`apiserver.config.k8s.io`): issuers, what their claims must say and mean.

use super::claims::{Expression, Variables};
use serde::Deserialize;
use std::collections::HashSet;

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("the authentication configuration cannot be read: {0}")]
    Syntax(String),
    #[error("the authentication configuration is invalid: {0}")]
    Invalid(String),
}

/// The file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    api_version: String,
    kind: String,
    #[serde(default)]
    pub jwt: Vec<Issuer>,
    pub anonymous: Option<Anonymous>,
}

/// Who may come without a name, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Anonymous {
    #[serde(default)]
    pub enabled: bool,
    /// Everywhere, if there are none.
    #[serde(default)]
    pub conditions: Vec<PathCondition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathCondition {
    pub path: String,
}

impl Anonymous {
    /// Whether somebody without a name may ask for a path.
    pub fn allows(&self, path: &str) -> bool {
        self.enabled && (self.conditions.is_empty() || self.conditions.iter().any(|c| c.path == path))
    }
}

/// The setting in effect.
#[derive(Debug)]
pub struct AnonymousAccess(arc_swap::ArcSwap<Anonymous>);

impl Default for AnonymousAccess {
    /// Everywhere, as upstream: what somebody without a name may do is for authorization to say.
    fn default() -> Self {
        Self::new(Anonymous {
            enabled: true,
            conditions: Vec::new(),
        })
    }
}

impl AnonymousAccess {
    pub fn new(setting: Anonymous) -> Self {
        Self(arc_swap::ArcSwap::from_pointee(setting))
    }

    pub fn replace(&self, setting: Anonymous) {
        self.0.store(std::sync::Arc::new(setting));
    }

    pub fn allows(&self, path: &str) -> bool {
        self.0.load().allows(path)
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Issuer {
    pub issuer: IssuerAddress,
    #[serde(default)]
    pub claim_validation_rules: Vec<ClaimRule>,
    #[serde(default)]
    pub claim_mappings: Mappings,
    #[serde(default)]
    pub user_validation_rules: Vec<UserRule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssuerAddress {
    #[serde(default)]
    pub url: String,
    #[serde(rename = "discoveryURL")]
    pub discovery_url: Option<String>,
    pub certificate_authority: Option<String>,
    #[serde(default)]
    pub audiences: Vec<String>,
    #[serde(default)]
    pub audience_match_policy: String,
    #[serde(default)]
    pub egress_selector_type: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClaimRule {
    pub claim: String,
    pub required_value: String,
    pub expression: String,
    pub message: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UserRule {
    pub expression: String,
    pub message: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mappings {
    pub username: Mapping,
    pub groups: Mapping,
    pub uid: Mapping,
    pub extra: Vec<Extra>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mapping {
    pub claim: String,
    pub prefix: Option<String>,
    pub expression: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Extra {
    pub key: String,
    pub value_expression: String,
}

impl Configuration {
    /// Reads YAML or JSON; `own_issuers` are this server's and cannot be anybody else's.
    pub fn parse(text: &str, own_issuers: &[String]) -> Result<Self, ConfigError> {
        let file: Self =
            serde_yaml_ng::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
        let version = file.api_version.strip_prefix("apiserver.config.k8s.io/");
        if !matches!(version, Some("v1" | "v1beta1" | "v1alpha1"))
            || file.kind != "AuthenticationConfiguration"
        {
            return Err(ConfigError::Syntax(format!(
                "no kind {:?} is registered for version {:?}",
                file.kind, file.api_version
            )));
        }
        let findings = file.judge(own_issuers);
        if findings.is_empty() {
            Ok(file)
        } else {
            Err(ConfigError::Invalid(findings.join(", ")))
        }
    }

    fn judge(&self, own_issuers: &[String]) -> Vec<String> {
        let mut findings = Vec::new();
        let (mut urls, mut discoveries) = (HashSet::new(), HashSet::new());
        for (i, issuer) in self.jwt.iter().enumerate() {
            let at = format!("jwt[{i}]");
            let url = &issuer.issuer.url;
            if !urls.insert(url) {
                findings.push(format!("{at}.issuer.url: Duplicate value: {url:?}"));
            }
            if let Some(discovery) = &issuer.issuer.discovery_url
                && !discoveries.insert(discovery)
            {
                findings.push(format!(
                    "{at}.issuer.discoveryURL: Duplicate value: {discovery:?}"
                ));
            }
            if own_issuers.contains(url) {
                findings.push(format!(
                    "{at}.issuer.url: Invalid value: {url:?}: URL must not overlap with disallowed issuers: {own_issuers:?}"
                ));
            }
            issuer.judge(&at, &mut findings);
        }
        if let Some(anonymous) = &self.anonymous
            && !anonymous.enabled
            && !anonymous.conditions.is_empty()
        {
            findings.push("anonymous.conditions: Invalid value: enabled should be set to true when conditions are defined".to_owned());
        }
        findings
    }
}

impl Issuer {
    fn judge(&self, at: &str, findings: &mut Vec<String>) {
        self.judge_address(&format!("{at}.issuer"), findings);
        let mut seen = HashSet::new();
        for (i, rule) in self.claim_validation_rules.iter().enumerate() {
            let at = format!("{at}.claimValidationRules[{i}]");
            match (rule.claim.is_empty(), rule.expression.is_empty()) {
                (true, true) => {
                    findings.push(format!("{at}: Required value: claim or expression is required"))
                }
                (false, false) => findings.push(format!(
                    "{at}: Invalid value: {:?}: claim and expression can't both be set",
                    rule.claim
                )),
                (true, false) => check_expression(
                    &rule.expression,
                    Variables::Claims,
                    true,
                    &format!("{at}.expression"),
                    findings,
                ),
                (false, true) if !seen.insert(&rule.claim) => {
                    findings.push(format!("{at}.claim: Duplicate value: {:?}", rule.claim));
                }
                (false, true) => {}
            }
        }
        let mappings = &self.claim_mappings;
        let username = format!("{at}.claimMappings.username");
        judge_mapping(&mappings.username, &username, true, findings);
        judge_mapping(
            &mappings.groups,
            &format!("{at}.claimMappings.groups"),
            false,
            findings,
        );
        judge_mapping(&mappings.uid, &format!("{at}.claimMappings.uid"), false, findings);
        // What an address proves depends on whether it was verified.
        if mappings.username.expression.contains("claims.email") {
            let mut others = mappings.extra.iter().map(|extra| &extra.value_expression);
            let mut rules = self.claim_validation_rules.iter().map(|rule| &rule.expression);
            let verified = |text: &String| text.contains("claims.email_verified");
            if !verified(&mappings.username.expression) && !others.any(verified) && !rules.any(verified) {
                findings.push(format!(
                    "{username}.expression: Invalid value: {:?}: claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
                    mappings.username.expression
                ));
            }
        }
        let mut keys = HashSet::new();
        for (i, extra) in mappings.extra.iter().enumerate() {
            let at = format!("{at}.claimMappings.extra[{i}]");
            let domain = extra.key.split_once('/').map_or("", |(domain, _)| domain);
            if extra.key.is_empty() {
                findings.push(format!("{at}.key: Required value"));
            } else if domain.is_empty() || extra.key.chars().any(char::is_uppercase) {
                findings.push(format!(
                    "{at}.key: Invalid value: {:?}: must be a lowercase domain-prefixed path",
                    extra.key
                ));
            } else if [domain].iter().any(|d| {
                ["k8s.io", "kubernetes.io"]
                    .iter()
                    .any(|r| d == r || d.ends_with(&format!(".{r}")))
            }) {
                findings.push(format!("{at}.key: Invalid value: {:?}: k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use", extra.key));
            } else if !keys.insert(&extra.key) {
                findings.push(format!("{at}.key: Duplicate value: {:?}", extra.key));
            }
            if extra.value_expression.is_empty() {
                findings.push(format!(
                    "{at}.valueExpression: Required value: valueExpression is required"
                ));
            } else {
                check_expression(
                    &extra.value_expression,
                    Variables::Claims,
                    false,
                    &format!("{at}.valueExpression"),
                    findings,
                );
            }
        }
        for (i, rule) in self.user_validation_rules.iter().enumerate() {
            let at = format!("{at}.userValidationRules[{i}].expression");
            if rule.expression.is_empty() {
                findings.push(format!("{at}: Required value: expression is required"));
            } else {
                check_expression(&rule.expression, Variables::User, true, &at, findings);
            }
        }
    }

    fn judge_address(&self, at: &str, findings: &mut Vec<String>) {
        let address = &self.issuer;
        let https = |url: &str, at: &str, findings: &mut Vec<String>| match url.parse::<http::Uri>() {
            Ok(uri)
                if uri.scheme_str() == Some("https")
                    && !url.contains('@')
                    && uri.query().is_none()
                    && !url.contains('#') => {}
            Ok(_) => findings.push(format!(
                "{at}: Invalid value: {url:?}: URL scheme must be https, without username, query or fragment"
            )),
            Err(error) => findings.push(format!("{at}: Invalid value: {url:?}: {error}")),
        };
        if address.url.is_empty() {
            findings.push(format!("{at}.url: Required value: URL is required"));
        } else {
            https(&address.url, &format!("{at}.url"), findings);
        }
        if let Some(discovery) = &address.discovery_url {
            let at = format!("{at}.discoveryURL");
            https(discovery, &at, findings);
            if discovery.trim_end_matches('/') == address.url.trim_end_matches('/') {
                findings.push(format!(
                    "{at}: Invalid value: {discovery:?}: discoveryURL must be different from URL"
                ));
            }
        }
        let policy = address.audience_match_policy.as_str();
        match address.audiences.len() {
            0 => findings.push(format!("{at}.audiences: Required value: at least one jwt[0].issuer.audiences is required").replace("jwt[0].issuer", at)),
            1 if policy.is_empty() || policy == "MatchAny" => {}
            1 => findings.push(format!("{at}.audienceMatchPolicy: Invalid value: {policy:?}: audienceMatchPolicy must be empty or MatchAny for single audience")),
            _ if policy == "MatchAny" => {}
            _ => findings.push(format!("{at}.audienceMatchPolicy: Invalid value: {policy:?}: audienceMatchPolicy must be MatchAny for multiple audiences")),
        }
        let mut seen = HashSet::new();
        for (i, audience) in address.audiences.iter().enumerate() {
            if audience.is_empty() {
                findings.push(format!(
                    "{at}.audiences[{i}]: Required value: audience can't be empty"
                ));
            } else if !seen.insert(audience) {
                findings.push(format!("{at}.audiences[{i}]: Duplicate value: {audience:?}"));
            }
        }
    }
}

fn judge_mapping(mapping: &Mapping, at: &str, username: bool, findings: &mut Vec<String>) {
    match (mapping.claim.is_empty(), mapping.expression.is_empty()) {
        (true, true) if username => {
            findings.push(format!("{at}: Required value: claim or expression is required"))
        }
        (true, true) => {}
        (false, false) => findings.push(format!(
            "{at}: Invalid value: \"\": claim and expression can't both be set"
        )),
        (true, false) => {
            if mapping.prefix.is_some() {
                findings.push(format!(
                    "{at}.prefix: Invalid value: prefix can't be set when expression is set"
                ));
            }
            check_expression(
                &mapping.expression,
                Variables::Claims,
                false,
                &format!("{at}.expression"),
                findings,
            );
        }
        (false, true) if mapping.prefix.is_none() && !at.ends_with("uid") => {
            findings.push(format!("{at}.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing"));
        }
        (false, true) => {}
    }
}

fn check_expression(text: &str, variables: Variables, is_rule: bool, at: &str, findings: &mut Vec<String>) {
    match Expression::compile(text, variables) {
        Err(why) => findings.push(format!(
            "{at}: Invalid value: {text:?}: compilation failed: {why}"
        )),
        Ok(expression) if is_rule && !expression.may_be_bool() => {
            findings.push(format!("{at}: Invalid value: {text:?}: must evaluate to bool"));
        }
        Ok(_) => {}
    }
}
