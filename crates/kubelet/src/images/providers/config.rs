//! A `CredentialProviderConfig` (kubelet.config.k8s.io): which program knows credentials for which images.
//!
//! One file, or a directory whose `.json`, `.yaml` and `.yml` files are taken together in the order of their names.
//! Refused where upstream refuses, with every fault told at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::configuration::go_duration;

const KIND: &str = "CredentialProviderConfig";
const GROUP: &str = "kubelet.config.k8s.io";
/// Versions of a program's language.
const SPOKEN: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
];

/// One program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub name: String,
    pub program: PathBuf,
    pub api_version: String,
    /// Places of images, as in pull secrets.
    pub images: Vec<String>,
    /// Where the program's answer does not say.
    pub cache: Duration,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub account: Option<Account>,
}

/// What a program is told of the pod's service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub audience: String,
    /// Without one the program is not asked.
    pub required: bool,
    pub required_annotations: Vec<String>,
    pub optional_annotations: Vec<String>,
    /// A token's answer is for that token alone, and not for all of its account.
    pub by_token: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<Given>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Given {
    #[serde(default)]
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    #[serde(default)]
    api_version: String,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    token_attributes: Option<GivenAccount>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GivenAccount {
    #[serde(default)]
    service_account_token_audience: String,
    #[serde(default)]
    cache_type: String,
    require_service_account: Option<bool>,
    #[serde(default)]
    required_service_account_annotation_keys: Vec<String>,
    #[serde(default)]
    optional_service_account_annotation_keys: Vec<String>,
}

/// The files that a path stands for.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: std::io::Error| format!("unable to access path {:?}: {error}", path.display());
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let ending = file.extension().and_then(|e| e.to_str());
        if !file.is_dir() && matches!(ending, Some("json" | "yaml" | "yml")) {
            files.push(file);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(format!(
            "no configuration files found in directory {:?}",
            path.display()
        )),
        false => Ok(files),
    }
}

/// Judges the contents of those files; the programs are looked for in `bin`.
pub fn read(contents: Vec<Value>, bin: &Path) -> Result<Vec<Settings>, String> {
    let mut given = Vec::new();
    for content in contents {
        let file: File = serde_json::from_value(content).map_err(|error| error.to_string())?;
        let group = file.api_version.split('/').next().unwrap_or_default();
        if file.kind != KIND || group != GROUP {
            return Err(format!(
                "failed to decode {:?} of {:?}: a {KIND} of {GROUP} is wanted",
                file.kind, file.api_version
            ));
        }
        given.extend(file.providers);
    }
    let mut faults = Vec::new();
    if given.is_empty() {
        faults.push("providers: Required value: at least 1 item in plugins is required".to_owned());
    }
    let mut names = BTreeSet::new();
    let mut providers = Vec::new();
    for provider in given {
        if !names.insert(provider.name.clone()) {
            return Err(format!(
                "duplicate provider name {:?} found in configuration file(s)",
                provider.name
            ));
        }
        providers.push(settle(provider, bin, &mut faults));
    }
    if !faults.is_empty() {
        return Err(format!(
            "failed to validate credential provider config: [{}]",
            faults.join(", ")
        ));
    }
    for provider in &providers {
        if !provider.program.is_file() {
            return Err(format!(
                "plugin binary executable {} did not exist",
                provider.program.display()
            ));
        }
    }
    Ok(providers)
}

fn settle(given: Given, bin: &Path, faults: &mut Vec<String>) -> Settings {
    let mut fault = |field: &str, what: String| faults.push(format!("providers.{field}: {what}"));
    let name = given.name;
    for (wrong, words) in [
        (name.contains('/'), "cannot contain '/'"),
        (name.contains(' '), "cannot contain spaces"),
        (name == ".", "cannot be '.'"),
        (name == "..", "cannot be '..'"),
    ] {
        if wrong {
            fault("name", format!("Invalid value: {name:?}: provider name {words}"));
        }
    }
    if given.api_version.is_empty() {
        fault("apiVersion", "Required value".to_owned());
    } else if !SPOKEN.contains(&given.api_version.as_str()) {
        fault(
            "apiVersion",
            format!(
                "Unsupported value: {:?}: supported values: {}",
                given.api_version,
                SPOKEN.map(|v| format!("{v:?}")).join(", ")
            ),
        );
    }
    if given.match_images.is_empty() {
        fault(
            "matchImages",
            "Required value: at least 1 item in matchImages is required".to_owned(),
        );
    }
    let cache = match &given.default_cache_duration {
        None => {
            fault("defaultCacheDuration", "Required value".to_owned());
            Duration::ZERO
        }
        Some(text) => go_duration(text).unwrap_or_else(|why| {
            fault("defaultCacheDuration", format!("Invalid value: {text:?}: {why}"));
            Duration::ZERO
        }),
    };
    let account = given.token_attributes.map(|account| {
        let mut fault = |field: &str, what: &str| fault(&format!("tokenAttributes{field}"), what.to_owned());
        if account.service_account_token_audience.is_empty() {
            fault(".serviceAccountTokenAudience", "Required value");
        }
        if given.api_version != SPOKEN[0] {
            fault(
                "",
                "Forbidden: tokenAttributes is only supported for credentialprovider.kubelet.k8s.io/v1 API version",
            );
        }
        match account.require_service_account {
            None => fault(".requireServiceAccount", "Required value"),
            Some(false) if !account.required_service_account_annotation_keys.is_empty() => fault(
                ".requiredServiceAccountAnnotationKeys",
                "Forbidden: requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set",
            ),
            Some(_) => {}
        }
        let required: BTreeSet<_> = account.required_service_account_annotation_keys.iter().collect();
        if account.optional_service_account_annotation_keys.iter().any(|k| required.contains(k)) {
            fault("", "Invalid value: annotation keys cannot be both required and optional");
        }
        match account.cache_type.as_str() {
            "ServiceAccount" | "Token" => {}
            "" => fault(
                ".cacheType",
                "Required value: cacheType is required to be set when tokenAttributes is specified. Supported values \
                 are: ServiceAccount, Token",
            ),
            other => fault(
                ".cacheType",
                &format!("Unsupported value: {other:?}: supported values: \"ServiceAccount\", \"Token\""),
            ),
        }
        Account {
            audience: account.service_account_token_audience,
            required: account.require_service_account == Some(true),
            required_annotations: account.required_service_account_annotation_keys,
            optional_annotations: account.optional_service_account_annotation_keys,
            by_token: account.cache_type == "Token",
        }
    });
    Settings {
        program: bin.join(&name),
        name,
        api_version: given.api_version,
        images: given.match_images,
        cache,
        args: given.args.unwrap_or_default(),
        env: given
            .env
            .into_iter()
            .flatten()
            .map(|v| (v.name, v.value))
            .collect(),
        account,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(provider: Value) -> Value {
        json!({"apiVersion": "kubelet.config.k8s.io/v1", "kind": KIND, "providers": [provider]})
    }

    #[test]
    fn a_provider_is_read() {
        let provider = file(json!({
            "name": "sh", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "matchImages": ["*.example.com"],
            "defaultCacheDuration": "1h30m", "args": ["get"], "env": [{"name": "A", "value": "b"}],
            "tokenAttributes": {"serviceAccountTokenAudience": "r", "requireServiceAccount": true, "cacheType": "Token"},
        }));
        let read = read(vec![provider], Path::new("/bin")).unwrap();
        assert_eq!(read[0].program, Path::new("/bin/sh"));
        assert_eq!(read[0].cache, Duration::from_secs(5400));
        assert_eq!(read[0].env["A"], "b");
        assert!(read[0].account.as_ref().is_some_and(|a| a.by_token && a.required));
    }

    #[test]
    fn faults_are_told() {
        let check = |provider: Value, words: &str| {
            let told = read(vec![file(provider)], Path::new("/bin")).unwrap_err();
            assert!(told.contains(words), "{told}");
        };
        let fine = |change: Value| {
            let mut provider = json!({
                "name": "sh", "apiVersion": SPOKEN[0], "matchImages": ["a"], "defaultCacheDuration": "0s"});
            for (key, value) in change.as_object().unwrap() {
                provider[key] = value.clone();
            }
            provider
        };
        check(json!({}), "matchImages: Required value");
        check(fine(json!({"name": "a/b"})), "cannot contain '/'");
        check(
            fine(json!({"apiVersion": "v1"})),
            "apiVersion: Unsupported value: \"v1\"",
        );
        check(
            fine(json!({"defaultCacheDuration": "x"})),
            "defaultCacheDuration: Invalid value",
        );
        check(fine(json!({"name": "no-such-program"})), "did not exist");
        check(
            fine(json!({"tokenAttributes": {}})),
            "tokenAttributes.cacheType: Required value",
        );
        check(fine(json!({"nonsense": 1})), "unknown field");
        let twice = vec![file(fine(json!({}))), file(fine(json!({})))];
        assert!(
            read(twice, Path::new("/bin"))
                .unwrap_err()
                .contains("duplicate provider name")
        );
        assert!(
            read(vec![], Path::new("/bin"))
                .unwrap_err()
                .contains("at least 1 item")
        );
    }
}
