//! The tables of every built-in group and version of Kubernetes v1.36: types, kinds and resources.
//!
//! `tables/zero.txt` names the fields whose zero value upstream's Go types leave out (`omitempty` on a plain value).
//!
//! `tables/defaults.txt` holds the defaults the published schema (OpenAPI v3) gives: `{}` marks a struct that upstream
//! holds by value, which is always written.
//!
//! **Invariant:** the rest of `tables/` is written by `examples/generate.rs` from the API facts, never by hand. What a kind needs
//! beyond facts is in its strategy (`resources`).

mod discovery;
mod parse;

pub use discovery::{Group, Resource, Subresource, Version, groups};

use machinery::gvk::GroupVersionKind;
use machinery::schema::{KindSchema, TypeId, Types};
use std::collections::HashMap;
use std::sync::LazyLock;

struct Tables {
    types: Types,
    kinds: HashMap<GroupVersionKind, TypeId>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let (mut types, kinds) = parse::types(include_str!("tables/types.txt"));
    parse::defaults(&mut types, include_str!("tables/defaults.txt"));
    parse::zero(&mut types, include_str!("tables/zero.txt"));
    Tables { types, kinds }
});

/// The arena of all built-in types.
pub fn types() -> &'static Types {
    &TABLES.types
}

/// The type of a kind's objects.
pub fn kind(gvk: &GroupVersionKind) -> Option<TypeId> {
    TABLES.kinds.get(gvk).copied()
}

/// Every built-in kind, lists and options among them, in no order.
pub fn kinds() -> impl Iterator<Item = KindSchema> {
    TABLES.kinds.iter().map(|(gvk, ty)| KindSchema {
        gvk: gvk.clone(),
        ty: *ty,
    })
}

/// The type of a definition name, such as `io.k8s.api.core.v1.PodSpec`.
pub fn by_name(name: &str) -> Option<TypeId> {
    types().by_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::codec::json;

    #[test]
    fn a_pod_is_decoded_along_its_table() {
        let id = kind(&GroupVersionKind::new("", "v1", "Pod")).unwrap();
        let text = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"x":"y"}},
            "spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"1000m","memory":"1024Ki"}},
            "imag":"typo","ports":[{"containerPort":80}]}],"hostIPC":true,"hostIPC":false}}"#;
        let decoded = json::decode(text, types(), id).unwrap();
        assert_eq!(
            decoded.findings,
            [
                r#"unknown field "spec.containers[0].imag""#,
                r#"duplicate field "spec.hostIPC""#
            ]
        );
        let limits = decoded
            .value
            .get_path(&["spec", "containers"])
            .unwrap()
            .as_array()
            .unwrap()[0]
            .get_path(&["resources", "limits"])
            .unwrap();
        assert_eq!(limits.get("cpu").unwrap().as_str(), Some("1"));
        assert_eq!(limits.get("memory").unwrap().as_str(), Some("1Mi"));
        let error = json::decode(br#"{"spec":{"containers":"x"}}"#, types(), id)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container"
        );
    }

    #[test]
    fn structs_held_by_value_default_to_empty() {
        let field = |name, field| {
            types()
                .as_struct(by_name(name).unwrap())
                .unwrap()
                .field(field)
                .unwrap()
                .default
                .clone()
        };
        let empty = Some(machinery::Value::object());
        assert_eq!(field("io.k8s.api.apps.v1.Deployment", "status"), empty);
        assert_eq!(field("io.k8s.api.core.v1.Container", "resources"), empty);
        assert_eq!(
            field("io.k8s.api.core.v1.ContainerPort", "protocol"),
            Some("TCP".into())
        );
        assert_eq!(field("io.k8s.api.core.v1.PodSpec", "securityContext"), None);
        let written = include_str!("tables/defaults.txt")
            .lines()
            .flat_map(|l| l.split(' ').skip(1))
            .count();
        let found: usize = (include_str!("tables/defaults.txt").lines())
            .map(|line| {
                types()
                    .as_struct(by_name(line.split(' ').next().unwrap()).unwrap())
                    .unwrap()
            })
            .map(|s| s.fields().iter().filter(|f| f.default.is_some()).count())
            .sum();
        assert_eq!(found, written);
    }

    #[test]
    fn every_resource_has_a_type() {
        for group in groups() {
            for version in &group.versions {
                for resource in &version.resources {
                    assert!(kind(&resource.kind).is_some(), "{}", resource.kind);
                    for subresource in &resource.subresources {
                        // Options of connect verbs travel in the query alone.
                        let options = subresource.kind.kind.ends_with("Options");
                        assert!(
                            options || kind(&subresource.kind).is_some(),
                            "{}",
                            subresource.kind
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn only_versions_that_are_done_are_on_by_default() {
        let on: Vec<String> = groups()
            .iter()
            .flat_map(|group| group.versions.iter().map(move |version| (group, version)))
            .filter(|(_, version)| version.on_by_default())
            .map(|(group, version)| format!("{}/{}", group.name, version.name))
            .collect();
        assert!(on.contains(&"/v1".to_owned()) && on.contains(&"autoscaling/v2".to_owned()));
        assert!(
            !on.iter()
                .any(|name| name.contains("alpha") || name.contains("beta")),
            "{on:?}"
        );
    }

    #[test]
    fn storage_version_hashes_are_upstreams() {
        let core = &groups()[0].versions[0];
        let hash = |name: &str| {
            core.resources
                .iter()
                .find(|r| r.name == name)
                .unwrap()
                .storage_version_hash()
        };
        assert_eq!(hash("configmaps"), "qFsyl6wFWjQ=");
        assert_eq!(hash("endpoints"), "fWeeMqaN/OA=");
    }
}
