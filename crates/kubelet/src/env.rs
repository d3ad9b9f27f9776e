//! The environment of a container: what it is told, in which order, and `$(NAME)` in it.
//!
//! Follows upstream's `makeEnvironmentVariables`: `envFrom` first, then `env` (each may refer to what stands
//! before it), then the addresses of Services unless something of that name stands already.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};

use crate::downward::{self, PodFacts};
use crate::error::{Error, Result};
use crate::pod::PodExt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvVar {
    pub name: String,
    pub value: String,
}

/// Config maps and secrets of the pod's namespace, already fetched. `None` inside: it does not exist.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    pub secrets: BTreeMap<String, Option<Arc<Secret>>>,
}

/// Names of the config maps and secrets that a container's environment reads.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let mut maps = Vec::new();
    let mut secrets = Vec::new();
    for source in container.env_from.iter().flatten() {
        maps.extend(source.config_map_ref.iter().map(|r| r.name.clone()));
        secrets.extend(source.secret_ref.iter().map(|r| r.name.clone()));
    }
    for source in container
        .env
        .iter()
        .flatten()
        .filter_map(|e| e.value_from.as_ref())
    {
        maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// Reads one key of an environment file in a volume: volume, path, key.
pub type FileKeys<'a> = dyn Fn(&str, &str, &str) -> Result<Option<String>> + 'a;

pub fn make(
    container: &Container,
    facts: &PodFacts<'_>,
    objects: &Objects,
    services: &[Arc<Service>],
    file_key: &FileKeys<'_>,
) -> Result<Vec<EnvVar>> {
    let service_env = service_variables(facts.pod, services);
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    let mut put = |env: &mut BTreeMap<String, String>, name: String, value: String| {
        if env.insert(name.clone(), value).is_none() {
            order.push(name);
        }
    };
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            if let Some(map) = config_map(objects, facts.pod, &reference.name, reference.optional)? {
                for (key, value) in map.data.iter().flatten() {
                    put(&mut env, format!("{prefix}{key}"), value.clone());
                }
            }
        } else if let Some(reference) = &source.secret_ref
            && let Some(secret) = secret(objects, facts.pod, &reference.name, reference.optional)?
        {
            for (key, value) in secret.data.iter().flatten() {
                put(
                    &mut env,
                    format!("{prefix}{key}"),
                    String::from_utf8_lossy(&value.0).into_owned(),
                );
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (variable.value.as_deref(), &variable.value_from) {
            (Some(text), _) if !text.is_empty() => expand(text, |name| {
                env.get(name).or_else(|| service_env.get(name)).cloned()
            }),
            (_, Some(source)) => {
                if let Some(field) = &source.field_ref {
                    downward::field(facts, &field.field_path)?
                } else if let Some(selector) = &source.resource_field_ref {
                    downward::resource(facts, selector, container)?
                } else if let Some(reference) = &source.config_map_key_ref {
                    let map = config_map(objects, facts.pod, &reference.name, reference.optional)?;
                    match map
                        .as_ref()
                        .and_then(|m| m.data.as_ref())
                        .and_then(|d| d.get(&reference.key))
                    {
                        Some(value) => value.clone(),
                        None if reference.optional == Some(true) => continue,
                        None => {
                            return Err(missing_key(
                                "ConfigMap",
                                facts.pod,
                                &reference.name,
                                &reference.key,
                            ));
                        }
                    }
                } else if let Some(reference) = &source.secret_key_ref {
                    let secret = secret(objects, facts.pod, &reference.name, reference.optional)?;
                    match secret
                        .as_ref()
                        .and_then(|s| s.data.as_ref())
                        .and_then(|d| d.get(&reference.key))
                    {
                        Some(value) => String::from_utf8_lossy(&value.0).into_owned(),
                        None if reference.optional == Some(true) => continue,
                        None => {
                            return Err(missing_key("Secret", facts.pod, &reference.name, &reference.key));
                        }
                    }
                } else if let Some(reference) = &source.file_key_ref {
                    match file_key(&reference.volume_name, &reference.path, &reference.key)? {
                        Some(value) => value,
                        None if reference.optional == Some(true) => continue,
                        None => {
                            return Err(Error::Pod(format!(
                                "environment variable key {:?} not found in file {:?}",
                                reference.key, reference.path
                            )));
                        }
                    }
                } else {
                    String::new()
                }
            }
            _ => String::new(),
        };
        put(&mut env, variable.name.clone(), value);
    }
    let mut result: Vec<EnvVar> = order
        .into_iter()
        .map(|name| EnvVar {
            value: env[&name].clone(),
            name,
        })
        .collect();
    result.extend(
        service_env
            .into_iter()
            .filter(|(name, _)| !env.contains_key(name))
            .map(|(name, value)| EnvVar { name, value }),
    );
    Ok(result)
}

fn config_map(
    objects: &Objects,
    pod: &Pod,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<Arc<ConfigMap>>> {
    match objects.config_maps.get(name).cloned().flatten() {
        None if optional != Some(true) => Err(not_found("configmap", pod, name)),
        found => Ok(found),
    }
}

fn secret(objects: &Objects, pod: &Pod, name: &str, optional: Option<bool>) -> Result<Option<Arc<Secret>>> {
    match objects.secrets.get(name).cloned().flatten() {
        None if optional != Some(true) => Err(not_found("secret", pod, name)),
        found => Ok(found),
    }
}

/// As the API server says it.
fn not_found(kind: &str, _: &Pod, name: &str) -> Error {
    Error::Pod(format!("{kind} {name:?} not found"))
}

fn missing_key(kind: &str, pod: &Pod, name: &str, key: &str) -> Error {
    Error::Pod(format!(
        "couldn't find key {key} in {kind} {}/{name}",
        pod.namespace()
    ))
}

/// `$(NAME)` replaced where `lookup` knows the name; `$$` is one dollar; the rest stays.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if after.is_empty() {
            result.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|a| a.split_once(')')) {
            match lookup(name) {
                Some(value) => result.push_str(&value),
                None => {
                    result.push_str("$(");
                    result.push_str(name);
                    result.push(')');
                }
            }
            rest = after;
        } else {
            // The character after a lone dollar is never the beginning of a reference.
            let width = after.chars().next().map_or(0, char::len_utf8);
            result.push('$');
            result.push_str(&after[..width]);
            rest = &after[width..];
        }
    }
    result.push_str(rest);
    result
}

pub fn expand_command(words: &[String], env: &[EnvVar]) -> Vec<String> {
    let lookup = |name: &str| env.iter().find(|e| e.name == name).map(|e| e.value.clone());
    words.iter().map(|word| expand(word, lookup)).collect()
}

/// The variables that tell where Services are: those of the pod's namespace, and always the API server's.
fn service_variables(pod: &Pod, services: &[Arc<Service>]) -> BTreeMap<String, String> {
    let links = pod.spec().enable_service_links.unwrap_or(true);
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let meta = &service.metadata;
        let (Some(name), Some(namespace)) = (meta.name.as_deref(), meta.namespace.as_deref()) else {
            continue;
        };
        if namespace == "default" && name == "kubernetes" {
            chosen.entry(name).or_insert(service);
        } else if namespace == pod.namespace() && links {
            chosen.insert(name, service);
        }
    }
    chosen
        .into_iter()
        .flat_map(|(name, service)| variables_of(name, service))
        .collect()
}

fn variables_of(name: &str, service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let ip = match spec.cluster_ip.as_deref() {
        Some(ip) if !ip.is_empty() && ip != "None" => ip,
        _ => return Vec::new(),
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else {
        return Vec::new();
    };
    let upper = |text: &str| text.replace('-', "_").to_uppercase();
    let prefix = upper(name);
    let mut list = vec![
        (format!("{prefix}_SERVICE_HOST"), ip.to_owned()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            list.push((
                format!("{prefix}_SERVICE_PORT_{}", upper(name)),
                port.port.to_string(),
            ));
        }
    }
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    for (i, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
        let url = format!("{protocol}://{host}:{}", port.port);
        if i == 0 {
            list.push((format!("{prefix}_PORT"), url.clone()));
        }
        let base = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        list.extend([
            (base.clone(), url),
            (format!("{base}_PROTO"), protocol),
            (format!("{base}_PORT"), port.port.to_string()),
            (format!("{base}_ADDR"), ip.to_owned()),
        ]);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expansion() {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "B" => Some("$(A)".to_owned()),
            _ => None,
        };
        let cases = [
            ("plain", "plain"),
            ("$(A)", "a"),
            ("x$(A)y$(B)z", "xay$(A)z"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$(C)", "$(C)"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("$$", "$"),
            ("$A $é", "$A $é"),
            ("a$", "a$"),
            ("$(A)$", "a$"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }

    #[test]
    fn order_and_sources() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "x"}},
            "spec": {"nodeName": "node", "containers": [{"name": "c",
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}},
                            {"secretRef": {"name": "gone", "optional": true}}],
                "env": [
                    {"name": "ONE", "value": "1"},
                    {"name": "TWO", "value": "$(ONE)$(P_k)$(DB_SERVICE_HOST)"},
                    {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "z", "optional": true}}}]
            }]}
        }))
        .unwrap();
        let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "v"}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"k": "c2VjcmV0"}})).unwrap();
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n"},
            "spec": {"clusterIP": "10.43.1.1", "ports": [{"port": 5432, "name": "pg"}]}
        }))
        .unwrap();
        let objects = Objects {
            config_maps: [("m".to_owned(), Some(Arc::new(map)))].into(),
            secrets: [("s".to_owned(), Some(Arc::new(secret)))].into(),
        };
        let facts = PodFacts {
            pod: &pod,
            pod_ips: &[],
            host_ips: &[],
            allocatable: &BTreeMap::new(),
        };
        let container = &pod.containers()[0];
        let no_files = |_: &str, _: &str, _: &str| Ok(None);
        let env = make(
            container,
            &facts,
            &objects,
            &[Arc::new(service.clone())],
            &no_files,
        )
        .unwrap();
        let line: Vec<String> = env
            .iter()
            .take(6)
            .map(|e| format!("{}={}", e.name, e.value))
            .collect();
        assert_eq!(
            line,
            [
                "P_k=v",
                "ONE=1",
                "TWO=1v10.43.1.1",
                "LABEL=x",
                "SECRET=secret",
                "DB_PORT=tcp://10.43.1.1:5432"
            ]
        );
        assert!(
            env.iter()
                .any(|e| e.name == "DB_SERVICE_PORT_PG" && e.value == "5432")
        );

        let error = make(container, &facts, &Objects::default(), &[], &no_files).unwrap_err();
        assert_eq!(error.to_string(), "configmap \"m\" not found");
    }
}
