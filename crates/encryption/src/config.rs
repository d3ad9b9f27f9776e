//! EncryptionConfiguration (`apiserver.config.k8s.io/v1`): read strictly, judged by upstream's rules.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::HashSet;
use std::time::Duration;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
const AES_SIZES: &[usize] = &[16, 24, 32];
const BOX_SIZES: &[usize] = &[32];

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("the encryption configuration cannot be read: {0}")]
    Syntax(String),
    #[error("the encryption configuration is invalid: {0}")]
    Invalid(String),
}

/// A configuration that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    pub(crate) rules: Vec<Rule>,
}

/// Providers for some resources, the first of which writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub resources: Vec<Pattern>,
    pub providers: Vec<Provider>,
}

/// `secrets`, `deployments.apps`, `*.apps`, `*.` or `*.*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pattern {
    pub resource: String,
    pub group: String,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Provider {
    Identity,
    AesCbc(Vec<Key>),
    AesGcm(Vec<Key>),
    Secretbox(Vec<Key>),
    Kms {
        name: String,
        /// Of its unix socket.
        path: String,
        timeout: Duration,
    },
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Identity => "Identity",
            Self::AesCbc(_) => "AesCbc",
            Self::AesGcm(_) => "AesGcm",
            Self::Secretbox(_) => "Secretbox",
            Self::Kms { .. } => "Kms",
        })
    }
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub name: String,
    pub secret: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    resources: Vec<FileRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileRule {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<FileProvider>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileProvider {
    aesgcm: Option<FileKeys>,
    aescbc: Option<FileKeys>,
    secretbox: Option<FileKeys>,
    identity: Option<FileIdentity>,
    kms: Option<FileKms>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileIdentity {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKeys {
    #[serde(default)]
    keys: Vec<FileKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKey {
    #[serde(default)]
    name: String,
    #[serde(default)]
    secret: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileKms {
    #[serde(default = "v1")]
    api_version: String,
    #[serde(default)]
    name: String,
    cachesize: Option<i64>,
    #[serde(default)]
    endpoint: String,
    timeout: Option<String>,
}

fn v1() -> String {
    "v1".to_owned()
}

impl Configuration {
    /// Reads YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: File =
            serde_yaml_ng::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
        if file.api_version != "apiserver.config.k8s.io/v1" || file.kind != "EncryptionConfiguration" {
            return Err(ConfigError::Syntax(format!(
                "no kind {:?} is registered for version {:?}",
                file.kind, file.api_version
            )));
        }
        let mut findings = Vec::new();
        let rules = judge(&file, &mut findings);
        if !findings.is_empty() {
            return Err(ConfigError::Invalid(findings.join(", ")));
        }
        Ok(Self { rules })
    }

    /// The text of a configuration that encrypts Secrets with a new key, and reads what was not encrypted.
    ///
    /// No two keys made have one name: what a lost one sealed is told from what was damaged.
    pub fn generate() -> Result<String, ConfigError> {
        let wrong = |error| ConfigError::Invalid(format!("making a key: {error}"));
        let key: [u8; 32] = crate::cipher::random().map_err(wrong)?;
        let name: [u8; 4] = crate::cipher::random().map_err(wrong)?;
        let name = u32::from_be_bytes(name);
        Ok(format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources:\n  - secrets\n  \
             providers:\n  - secretbox:\n      keys:\n      - name: key-{name:08x}\n        secret: {}\n  - identity: {{}}\n",
            STANDARD.encode(key)
        ))
    }
}

fn judge(file: &File, findings: &mut Vec<String>) -> Vec<Rule> {
    if file.resources.is_empty() {
        findings.push("resources: Required value: at least one resources is required".to_owned());
    }
    let mut kms_names = HashSet::new();
    let mut seen: HashSet<Pattern> = HashSet::new();
    let mut rules = Vec::new();
    for (i, rule) in file.resources.iter().enumerate() {
        let at = format!("resources[{i}]");
        if rule.resources.is_empty() {
            findings.push(format!(
                "{at}.resources: Required value: at least one {at}.resources is required"
            ));
        }
        if rule.providers.is_empty() {
            findings.push(format!(
                "{at}.providers: Required value: at least one {at}.providers is required"
            ));
        }
        let patterns: Vec<Pattern> = rule.resources.iter().map(|text| Pattern::parse(text)).collect();
        overlaps(&patterns, &at, findings);
        for (j, (text, pattern)) in rule.resources.iter().zip(&patterns).enumerate() {
            if let Some(why) = bad_name(text, pattern) {
                findings.push(format!("{at}.resources[{j}]: Invalid value: {text:?}: {why}"));
            }
            let group = Pattern {
                resource: "*".to_owned(),
                group: pattern.group.clone(),
            };
            for wide in [
                group,
                Pattern {
                    resource: "*".to_owned(),
                    group: "*".to_owned(),
                },
            ] {
                if wide != *pattern && seen.contains(&wide) {
                    findings.push(format!(
                        "resource {text:?} is masked by earlier rule {:?}",
                        wide.to_string()
                    ));
                }
            }
        }
        let providers = rule.providers.iter().enumerate().filter_map(|(j, provider)| {
            judge_provider(
                provider,
                &format!("{at}.providers[{j}]"),
                &mut kms_names,
                findings,
            )
        });
        let providers = providers.collect();
        seen.extend(patterns.iter().cloned());
        rules.push(Rule {
            resources: patterns,
            providers,
        });
    }
    rules
}

fn overlaps(patterns: &[Pattern], at: &str, findings: &mut Vec<String>) {
    let (mut twice, mut overlap) = (false, false);
    for (i, a) in patterns.iter().enumerate() {
        for b in &patterns[i + 1..] {
            let everything = |p: &Pattern| p.resource == "*" && p.group == "*";
            if a == b {
                twice = true;
            } else if everything(a)
                || everything(b)
                || a.group == b.group && (a.resource == "*" || b.resource == "*")
            {
                overlap = true;
            }
        }
    }
    if twice {
        findings.push(format!(
            "{at}.resources: Invalid value: the same resource cannot be specified multiple times"
        ));
    }
    if overlap {
        findings.push(format!(
            "{at}.resources: Invalid value: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked"
        ));
    }
}

fn bad_name(text: &str, pattern: &Pattern) -> Option<&'static str> {
    if text.chars().any(char::is_uppercase) {
        Some("resource name should not contain capital letters")
    } else if text == "*" {
        Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources")
    } else if [
        "apiserveripinfo",
        "serviceipallocations",
        "servicenodeportallocations",
    ]
    .contains(&text)
    {
        Some("resources which do not have REST API/s cannot be encrypted")
    } else if pattern.group == "events.k8s.io" {
        Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
        )
    } else if pattern.group == "extensions" {
        Some("'extensions' group has been removed and cannot be used for encryption")
    } else if pattern.group == "*" && pattern.resource != "*" {
        Some("encrypting the same resource across groups is not supported")
    } else {
        None
    }
}

fn judge_provider(
    file: &FileProvider,
    at: &str,
    kms_names: &mut HashSet<String>,
    findings: &mut Vec<String>,
) -> Option<Provider> {
    let given = [
        file.aesgcm.is_some(),
        file.aescbc.is_some(),
        file.secretbox.is_some(),
        file.identity.is_some(),
        file.kms.is_some(),
    ];
    match given.iter().filter(|given| **given).count() {
        1 => {}
        0 => {
            findings.push(format!(
                "{at}: Invalid value: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
            ));
            return None;
        }
        _ => {
            findings.push(format!(
                "{at}: Invalid value: more than one provider specified in a single element, should split into different list elements"
            ));
            return None;
        }
    }
    let mut keys =
        |keys: &FileKeys, name: &str, sizes| judge_keys(keys, &format!("{at}.{name}.keys"), sizes, findings);
    if let Some(file) = &file.aesgcm {
        return Some(Provider::AesGcm(keys(file, "aesgcm", AES_SIZES)));
    }
    if let Some(file) = &file.aescbc {
        return Some(Provider::AesCbc(keys(file, "aescbc", AES_SIZES)));
    }
    if let Some(file) = &file.secretbox {
        return Some(Provider::Secretbox(keys(file, "secretbox", BOX_SIZES)));
    }
    match &file.kms {
        Some(kms) => judge_kms(kms, &format!("{at}.kms"), kms_names, findings),
        None => Some(Provider::Identity),
    }
}

fn judge_keys(file: &FileKeys, at: &str, sizes: &[usize], findings: &mut Vec<String>) -> Vec<Key> {
    if file.keys.is_empty() {
        findings.push(format!("{at}: Required value: at least one keys is required"));
    }
    let mut keys = Vec::new();
    for (i, key) in file.keys.iter().enumerate() {
        if key.name.is_empty() {
            findings.push(format!(
                "{at}[{i}].name: Required value: name is a mandatory field for a key"
            ));
        }
        if key.secret.is_empty() {
            findings.push(format!(
                "{at}[{i}].secret: Required value: secret is a mandatory field for a key"
            ));
            continue;
        }
        match STANDARD.decode(&key.secret) {
            Err(_) => findings.push(format!(
                "{at}[{i}].secret: Invalid value: \"REDACTED\": secrets must be base64 encoded"
            )),
            Ok(secret) if !sizes.contains(&secret.len()) => {
                let expected: Vec<String> = sizes.iter().map(ToString::to_string).collect();
                findings.push(format!(
                    "{at}[{i}].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got {}, expected one of [{}]",
                    secret.len(),
                    expected.join(" ")
                ));
            }
            Ok(secret) => keys.push(Key {
                name: key.name.clone(),
                secret,
            }),
        }
    }
    keys
}

fn judge_kms(
    file: &FileKms,
    at: &str,
    names: &mut HashSet<String>,
    findings: &mut Vec<String>,
) -> Option<Provider> {
    if file.name.is_empty() {
        findings.push(format!(
            "{at}.name: Required value: name is a mandatory field for a provider"
        ));
    } else if file.name.contains(':') {
        findings.push(format!(
            "{at}.name: Invalid value: {0:?}: invalid KMS provider name {0}, must not contain ':'",
            file.name
        ));
    } else if !names.insert(file.name.clone()) {
        findings.push(format!(
            "{at}.name: Invalid value: {0:?}: duplicate KMS provider name {0}, names must be unique",
            file.name
        ));
    }
    let timeout = match &file.timeout {
        None => Some(DEFAULT_TIMEOUT),
        Some(text) => duration(text).filter(|timeout| !timeout.is_zero()),
    };
    if timeout.is_none() {
        findings.push(format!(
            "{at}.timeout: Invalid value: timeout should be a positive value"
        ));
    }
    let path = file.endpoint.strip_prefix("unix://");
    if file.endpoint.is_empty() {
        findings.push(format!(
            "{at}.endpoint: Required value: endpoint is a mandatory field for a KMS provider"
        ));
    } else if path.is_none() {
        let scheme = file.endpoint.split("://").next().unwrap_or_default();
        findings.push(format!(
            "{at}.endpoint: Invalid value: {:?}: unsupported scheme {scheme:?} for KMS provider, only unix is supported",
            file.endpoint
        ));
    }
    match file.api_version.as_str() {
        "v2" if file.cachesize.is_some() => {
            findings.push(format!("{at}.cachesize: Invalid value: cachesize is not supported in v2"));
        }
        "v2" => {}
        // Upstream has the first version switched off as well.
        "v1" => findings.push(format!(
            "{at}.apiVersion: Invalid value: \"v1\": KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead"
        )),
        other => findings.push(format!(
            "{at}.apiVersion: Invalid value: {other:?}: unsupported apiVersion {other} for KMS provider, only v1 and v2 are supported"
        )),
    }
    Some(Provider::Kms {
        name: file.name.clone(),
        path: match path? {
            // A name that starts with `@` is one of Linux' abstract sockets; the URL shows it behind a slash.
            path if path.starts_with("/@") => path[1..].to_owned(),
            path => path.to_owned(),
        },
        timeout: timeout?,
    })
}

/// Go's durations, as configuration files write them: `3s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = &rest[unit..];
    }
    Some(total)
}

impl Pattern {
    fn parse(text: &str) -> Self {
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        Self {
            resource: resource.to_owned(),
            group: group.to_owned(),
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.resource)?;
        if !self.group.is_empty() || self.resource == "*" {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(rules: &str) -> String {
        format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{rules}")
    }

    #[test]
    fn what_is_generated_is_valid_and_new() {
        let (a, b) = (
            Configuration::generate().expect("made"),
            Configuration::generate().expect("made"),
        );
        assert_ne!(a, b);
        assert_eq!(Configuration::parse(&a).expect("valid").rules.len(), 1);
    }

    #[test]
    fn mistakes_are_told() {
        let check = |rules: &str, expected: &str| {
            let error = Configuration::parse(&with(rules)).expect_err(rules).to_string();
            assert!(error.contains(expected), "{rules}\n{error}");
        };
        let of = |resources: &str, provider: &str| {
            format!("- resources: [{resources}]\n  providers: [{provider}]\n")
        };
        check("", "at least one resources is required");
        check(
            &of("", "identity: {}"),
            "at least one resources[0].resources is required",
        );
        check(
            "- resources: [secrets]\n  providers: []\n",
            "at least one resources[0].providers",
        );
        check(
            &of("\"*\"", "identity: {}"),
            "use '*.' to encrypt all the resources",
        );
        check(&of("secrets, \"*.\"", "identity: {}"), "overlapping resources");
        check(&of("secrets, secrets", "identity: {}"), "multiple times");
        check(&of("Secrets", "identity: {}"), "capital letters");
        check(&of("\"secrets.*\"", "identity: {}"), "across groups");
        check(
            &of("secrets", "{}"),
            "does not contain any of the expected providers",
        );
        check(
            &of("secrets", "{identity: {}, aescbc: {keys: []}}"),
            "more than one provider",
        );
        check(
            &of("secrets", "aescbc: {keys: [{name: a, secret: YWJj}]}"),
            "got 3, expected one of [16 24 32]",
        );
        check(
            &of("secrets", "aescbc: {keys: [{name: a, secret: \"&\"}]}"),
            "must be base64 encoded",
        );
        check(
            &of("secrets", "kms: {name: a, endpoint: \"unix:///x\"}"),
            "KMSv1 is deprecated",
        );
        check(
            &of(
                "secrets",
                "kms: {apiVersion: v2, name: \"a:b\", endpoint: \"unix:///x\"}",
            ),
            "must not contain ':'",
        );
        check(
            &of("secrets", "kms: {apiVersion: v2, name: a, endpoint: \"tcp://x\"}"),
            "only unix is supported",
        );
        check(
            &of(
                "secrets",
                "kms: {apiVersion: v2, name: a, endpoint: \"unix:///x\", timeout: 0s}",
            ),
            "positive value",
        );
        check(&of("secrets", "identity: {}, unknown: {}"), "unknown");
        check(
            &format!(
                "{}{}",
                of("\"*.\"", "identity: {}"),
                of("secrets", "identity: {}")
            ),
            "resource \"secrets\" is masked by earlier rule \"*.\"",
        );
        assert!(Configuration::parse("apiVersion: v1\nkind: EncryptionConfiguration\n").is_err());
    }

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [("3s", 3000), ("1m30s", 90_000), ("1.5s", 1500), ("10ms", 10)] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in ["", "3", "s", "3x"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
