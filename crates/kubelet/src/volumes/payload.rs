//! From config maps, secrets and a pod's own fields to files. Pure. Follows upstream's `MakePayload`s and their
//! messages.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Secret};

use super::atomic::{File, Payload};
use crate::downward::{self, PodFacts};
use crate::error::{Error, Result};
use crate::pod::PodExt;

/// The mode of files of projected volumes when none is given.
pub const DEFAULT_MODE: i32 = 0o644;

/// Which keys become which files.
pub struct Shape<'a> {
    pub items: Option<&'a [KeyToPath]>,
    pub default_mode: i32,
    pub optional: bool,
}

pub fn config_map(map: &ConfigMap, shape: &Shape<'_>) -> Result<Payload> {
    let mut data: BTreeMap<&str, &[u8]> = map
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.as_bytes()))
        .collect();
    data.extend(
        map.binary_data
            .iter()
            .flatten()
            .map(|(k, v)| (k.as_str(), v.0.as_slice())),
    );
    files(&data, shape, "configmap")
}

pub fn secret(secret: &Secret, shape: &Shape<'_>) -> Result<Payload> {
    let data: BTreeMap<&str, &[u8]> = secret
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.0.as_slice()))
        .collect();
    files(&data, shape, "secret")
}

fn files(data: &BTreeMap<&str, &[u8]>, shape: &Shape<'_>, kind: &str) -> Result<Payload> {
    let file = |data: &[u8], mode: Option<i32>| File {
        data: data.to_vec(),
        mode: bits(mode.unwrap_or(shape.default_mode)),
        owner: None,
    };
    let items = shape.items.unwrap_or_default();
    if items.is_empty() {
        return Ok(data
            .iter()
            .map(|(key, data)| ((*key).to_owned(), file(data, None)))
            .collect());
    }
    let mut payload = Payload::new();
    for item in items {
        match data.get(item.key.as_str()) {
            Some(data) => drop(payload.insert(item.path.clone(), file(data, item.mode))),
            None if shape.optional => {}
            None => {
                return Err(Error::Pod(format!(
                    "references non-existent {kind} key: {}",
                    item.key
                )));
            }
        }
    }
    Ok(payload)
}

pub fn downward_api(
    facts: &PodFacts<'_>,
    items: &[DownwardAPIVolumeFile],
    default_mode: i32,
) -> Result<Payload> {
    let mut payload = Payload::new();
    for item in items {
        let data = if let Some(field) = &item.field_ref {
            downward::field(facts, &field.field_path)?
        } else if let Some(selector) = &item.resource_field_ref {
            let name = selector.container_name.as_deref().unwrap_or_default();
            let own = facts
                .pod
                .init_containers()
                .iter()
                .chain(facts.pod.containers())
                .find(|c| c.name == name);
            let own: &Container = own.ok_or_else(|| Error::Pod(format!("container {name} not found")))?;
            downward::resource(facts, selector, own)?
        } else {
            continue;
        };
        let mode = bits(item.mode.unwrap_or(default_mode));
        payload.insert(
            item.path.clone(),
            File {
                data: data.into_bytes(),
                mode,
                owner: None,
            },
        );
    }
    Ok(payload)
}

pub fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0) & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_become_files() {
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1"}, "binaryData": {"b": "Mg=="}})).unwrap();
        let shape = |items, optional| Shape {
            items,
            default_mode: 0o400,
            optional,
        };
        let all = config_map(&map, &shape(None, false)).unwrap();
        assert_eq!(all["b"].data, b"2");
        assert_eq!(all["a"].mode, 0o400);
        let items: Vec<KeyToPath> = serde_json::from_value(
            json!([{"key": "a", "path": "x/y", "mode": 0o777}, {"key": "none", "path": "n"}]),
        )
        .unwrap();
        let chosen = config_map(&map, &shape(Some(&items), true)).unwrap();
        assert_eq!(chosen.keys().collect::<Vec<_>>(), ["x/y"]);
        assert_eq!(chosen["x/y"].mode, 0o777);
        let error = config_map(&map, &shape(Some(&items), false)).unwrap_err();
        assert_eq!(error.to_string(), "references non-existent configmap key: none");
    }
}
