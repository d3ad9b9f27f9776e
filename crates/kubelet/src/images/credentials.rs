//! Registry credentials from `imagePullSecrets`, and which of them fit an image.
//!
//! Follows upstream's `credentialprovider`: both secret forms, glob matching of host parts, the longest path
//! first.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

const JSON: (&str, &str) = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");
const LEGACY: (&str, &str) = ("kubernetes.io/dockercfg", ".dockercfg");

#[derive(Deserialize)]
struct Config {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// Credentials by the place they are for, the most particular place first.
#[derive(Default)]
pub struct Keyring {
    entries: Vec<(String, AuthConfig)>,
}

impl Keyring {
    /// Reads the secrets; one that cannot be read is an error, as upstream.
    pub fn from_secrets<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Result<Self, String> {
        let mut entries = Vec::new();
        for secret in secrets {
            let data = |key: &str| {
                secret
                    .data
                    .as_ref()
                    .and_then(|d| d.get(key))
                    .map(|b| b.0.as_slice())
            };
            let auths = match secret.type_.as_deref() {
                Some(kind) if kind == JSON.0 => match data(JSON.1) {
                    Some(bytes) => {
                        serde_json::from_slice::<Config>(bytes)
                            .map_err(|e| e.to_string())?
                            .auths
                    }
                    None => continue,
                },
                Some(kind) if kind == LEGACY.0 => match data(LEGACY.1) {
                    Some(bytes) => serde_json::from_slice(bytes).map_err(|e| e.to_string())?,
                    None => continue,
                },
                _ => continue,
            };
            for (place, entry) in auths {
                let auth = auth_config(entry, &place)?;
                entries.push((normalize(&place), auth));
            }
        }
        entries.sort_by(|a, b| b.0.cmp(&a.0));
        Ok(Self { entries })
    }

    /// All credentials that fit a repository (`registry/path`), in the order to try them.
    pub fn lookup(&self, repository: &str) -> Vec<&AuthConfig> {
        let found: Vec<_> = self
            .entries
            .iter()
            .filter(|(place, _)| matches(place, repository))
            .map(|(_, auth)| auth)
            .collect();
        if found.is_empty() && repository.starts_with("docker.io/") {
            return self
                .entries
                .iter()
                .filter(|(place, _)| place.starts_with("index.docker.io"))
                .map(|(_, a)| a)
                .collect();
        }
        found
    }
}

/// Whether credentials for a place are for a repository (`registry/path`).
pub fn fits(place: &str, repository: &str) -> bool {
    matches(&normalize(place), repository)
}

/// A user's name and password for a place.
pub fn auth(place: &str, username: String, password: String) -> AuthConfig {
    AuthConfig {
        username,
        password,
        server_address: place.to_owned(),
        ..AuthConfig::default()
    }
}

fn auth_config(entry: Entry, place: &str) -> Result<AuthConfig, String> {
    let (mut username, mut password) = (entry.username, entry.password);
    if !entry.auth.is_empty() {
        let decoded = STANDARD.decode(entry.auth.trim()).map_err(|e| e.to_string())?;
        let decoded = String::from_utf8(decoded).map_err(|e| e.to_string())?;
        let (user, secret) = decoded.split_once(':').ok_or_else(|| {
            format!("unable to parse auth field, must be formatted as base64(username:password): {place}")
        })?;
        (username, password) = (user.to_owned(), secret.to_owned());
    }
    Ok(AuthConfig {
        username,
        password,
        identity_token: entry.identitytoken,
        registry_token: entry.registrytoken,
        server_address: place.to_owned(),
        ..AuthConfig::default()
    })
}

/// Without scheme, and without the API version's path.
fn normalize(place: &str) -> String {
    let bare = place.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = match path.trim_end_matches('/') {
        "v1" | "v2" => "",
        path => path
            .strip_prefix("v1/")
            .or_else(|| path.strip_prefix("v2/"))
            .unwrap_or(path),
    };
    if path.is_empty() {
        host.to_owned()
    } else {
        format!("{host}/{path}")
    }
}

/// `*.example.com/team` fits `hub.example.com/team/app`.
fn matches(place: &str, repository: &str) -> bool {
    let (place_host, place_path) = place.split_once('/').unwrap_or((place, ""));
    let (host, path) = repository.split_once('/').unwrap_or((repository, ""));
    let place_host = if place_host == "index.docker.io" {
        "docker.io"
    } else {
        place_host
    };
    let port = |h: &str| h.rsplit_once(':').map(|(_, p)| p.to_owned());
    let name = |h: &str| h.rsplit_once(':').map_or(h.to_owned(), |(n, _)| n.to_owned());
    let (place_name, host_name) = (name(place_host), name(host));
    let (a, b): (Vec<_>, Vec<_>) = (place_name.split('.').collect(), host_name.split('.').collect());
    port(place_host) == port(host)
        && a.len() == b.len()
        && a.iter().zip(&b).all(|(pattern, part)| glob(pattern, part))
        && path.starts_with(place_path)
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).any(|i| rest.is_char_boundary(i) && glob(tail, &rest[i..]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_and_matching() {
        let config = json!({"auths": {
            "https://r.example.com:5000/v2/": {"auth": STANDARD.encode("u:p:q")},
            "*.wild.io/team": {"username": "w", "password": "x"}}});
        let legacy = json!({"index.docker.io/v1/": {"username": "d", "password": "e"}});
        let secret = |kind: &str, key: &str, value: &serde_json::Value| -> Secret {
            serde_json::from_value(json!({"type": kind, "data": {key: STANDARD.encode(value.to_string())}}))
                .unwrap()
        };
        let secrets = [
            secret(JSON.0, JSON.1, &config),
            secret(LEGACY.0, LEGACY.1, &legacy),
        ];
        let keyring = Keyring::from_secrets(&secrets).unwrap();
        let users = |repository: &str| {
            keyring
                .lookup(repository)
                .iter()
                .map(|a| format!("{}/{}", a.username, a.password))
                .collect::<Vec<_>>()
        };
        assert_eq!(users("r.example.com:5000/a/b"), ["u/p:q"]);
        assert_eq!(users("r.example.com/a/b"), Vec::<String>::new());
        assert_eq!(users("hub.wild.io/team/app"), ["w/x"]);
        assert_eq!(users("hub.wild.io/other"), Vec::<String>::new());
        assert_eq!(users("docker.io/library/nginx"), ["d/e"]);
        let broken = secret(JSON.0, JSON.1, &json!("x"));
        assert!(Keyring::from_secrets(&[broken]).is_err());
    }
}
