//! The roles and bindings of every cluster, from `bootstrap_policy.txt` (its head describes the form).
//!
//! Reconciled at each start, as upstream's `rbac/bootstrap-roles` hook does: what is missing is made, missing rules and
//! subjects are added, what somebody added stays. An object whose annotation `rbac.authorization.kubernetes.io/autoupdate`
//! is not `true` is left alone.

use machinery::{Map, Value, meta};

/// Marks objects that are reconciled.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

const GROUP: &str = "rbac.authorization.k8s.io";

/// All objects of the policy, in the order to make them.
pub fn objects() -> Vec<Value> {
    parse(include_str!("bootstrap_policy.txt"))
}

/// What a stored object must become to hold everything `wanted` says; `None` when it does already, or is not to be
/// touched.
pub fn reconcile(stored: &Value, wanted: &Value) -> Option<Value> {
    if meta::annotation(stored, AUTOUPDATE) != Some("true") {
        return None;
    }
    let mut merged = stored.clone();
    for field in ["rules", "subjects"] {
        let list = |object: &Value| {
            object
                .get(field)
                .and_then(Value::as_array)
                .map(<[Value]>::to_vec)
                .unwrap_or_default()
        };
        // The rules of an aggregated role are the aggregator's.
        if field == "rules" && wanted.get("aggregationRule").is_some() {
            continue;
        }
        let mut items = list(stored);
        items.extend(
            list(wanted)
                .into_iter()
                .filter(|item| !list(stored).iter().any(|s| s.semantic_eq(item))),
        );
        if !items.is_empty() {
            merged.set_path(&[field], Value::Array(items));
        }
    }
    if let Some(rule) = wanted.get("aggregationRule") {
        merged.set_path(&["aggregationRule"], rule.clone());
    }
    for (key, value) in meta::labels(wanted).into_iter().flatten() {
        meta::metadata_mut(&mut merged)
            .object_entry("labels")
            .insert(key.clone(), value.clone());
    }
    (!merged.semantic_eq(stored)).then_some(merged)
}

fn map<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.into_iter().collect())
}

fn texts(word: &str) -> Value {
    Value::Array(
        word.split(',')
            .map(|text| Value::from(if text == "-" { "" } else { text }))
            .collect(),
    )
}

/// The policy is compiled in and tested whole, so what cannot be read in it is a panic at the first test.
fn parse(text: &str) -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(rule) = line.strip_prefix("  ") {
            let role = objects.last_mut().expect("a rule is of a role");
            let rules = role.make_object().entry_or_null("rules");
            rules
                .as_array_mut()
                .expect("a role has rules")
                .push(policy_rule(rule));
            continue;
        }
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        objects.push(match words[..] {
            ["ClusterRole", name, ref rest @ ..] => cluster_role(name, rest),
            ["Role", namespace, name] => role("Role", namespace, name),
            ["ClusterRoleBinding", name, role, ref subjects @ ..] => {
                binding("ClusterRoleBinding", "", name, ("ClusterRole", role), subjects)
            }
            ["RoleBinding", namespace, name, role, ref subjects @ ..] => {
                let role = role.split_once('/').expect("a role has a kind");
                binding("RoleBinding", namespace, name, role, subjects)
            }
            _ => panic!("unknown line {line:?}"),
        });
    }
    objects
}

fn head(kind: &str, namespace: &str, name: &str) -> Value {
    let mut metadata: Map = [
        ("annotations", map([(AUTOUPDATE, "true".into())])),
        (
            "labels",
            map([("kubernetes.io/bootstrapping", "rbac-defaults".into())]),
        ),
        ("name", Value::from(name)),
    ]
    .into_iter()
    .collect();
    if !namespace.is_empty() {
        metadata.insert("namespace", namespace);
    }
    map([
        ("apiVersion", format!("{GROUP}/v1").into()),
        ("kind", kind.into()),
        ("metadata", Value::Object(metadata)),
    ])
}

fn role(kind: &str, namespace: &str, name: &str) -> Value {
    let mut role = head(kind, namespace, name);
    role.set_path(&["rules"], Value::Array(Vec::new()));
    role
}

fn cluster_role(name: &str, words: &[&str]) -> Value {
    let mut role = role("ClusterRole", "", name);
    let mut selectors = Vec::new();
    for word in words {
        match word.split_once('=') {
            Some(("label", key)) => role.set_path(&["metadata", "labels", key], "true"),
            Some(("aggregate", key)) => selectors.push(map([("matchLabels", map([(key, "true".into())]))])),
            _ => panic!("unknown word {word:?}"),
        }
    }
    if !selectors.is_empty() {
        role.set_path(
            &["aggregationRule", "clusterRoleSelectors"],
            Value::Array(selectors),
        );
    }
    role
}

fn policy_rule(text: &str) -> Value {
    let parts: Vec<&str> = text.split(" | ").collect();
    match parts[..] {
        [verbs, "url", paths] => map([("nonResourceURLs", texts(paths)), ("verbs", texts(verbs))]),
        [verbs, groups, resources] => map([
            ("apiGroups", texts(groups)),
            ("resources", texts(resources)),
            ("verbs", texts(verbs)),
        ]),
        [verbs, groups, resources, names] => map([
            ("apiGroups", texts(groups)),
            ("resourceNames", texts(names)),
            ("resources", texts(resources)),
            ("verbs", texts(verbs)),
        ]),
        _ => panic!("unknown rule {text:?}"),
    }
}

fn binding(kind: &str, namespace: &str, name: &str, role: (&str, &str), subjects: &[&str]) -> Value {
    let mut binding = head(kind, namespace, name);
    binding.set_path(
        &["roleRef"],
        map([
            ("apiGroup", GROUP.into()),
            ("kind", role.0.into()),
            ("name", role.1.into()),
        ]),
    );
    let subjects: Vec<Value> = subjects.iter().map(|subject| self::subject(subject)).collect();
    binding.set_path(&["subjects"], Value::Array(subjects));
    binding
}

fn subject(text: &str) -> Value {
    let named = |kind: &str, name: &str| {
        map([
            ("apiGroup", GROUP.into()),
            ("kind", kind.into()),
            ("name", name.into()),
        ])
    };
    match text.split_once(':') {
        Some(("user", name)) => named("User", name),
        Some(("group", name)) => named("Group", name),
        Some(("sa", account)) => {
            let (namespace, name) = account.split_once(':').expect("an account has a namespace");
            map([
                ("kind", "ServiceAccount".into()),
                ("name", name.into()),
                ("namespace", namespace.into()),
            ])
        }
        _ => panic!("unknown subject {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binding_finds_its_role() {
        let all = objects();
        assert!(all.len() > 100);
        let names: Vec<&str> = all
            .iter()
            .filter(|object| object.get("kind").and_then(Value::as_str) == Some("ClusterRole"))
            .map(meta::name)
            .collect();
        for binding in all.iter().filter(|object| object.get("roleRef").is_some()) {
            let role = binding.get_str_path(&["roleRef", "name"]).unwrap();
            let cluster = binding.get_str_path(&["roleRef", "kind"]) == Some("ClusterRole");
            assert!(
                !cluster || names.contains(&role),
                "{} names {role}",
                meta::name(binding)
            );
            assert!(!binding.get("subjects").unwrap().is_empty() || meta::name(binding) == "system:node");
        }
    }

    #[test]
    fn reconciling_adds_what_is_missing_and_keeps_what_was_added() {
        let wanted = objects()
            .into_iter()
            .find(|object| meta::name(object) == "system:basic-user")
            .unwrap();
        assert_eq!(reconcile(&wanted, &wanted), None);
        let mut stored = wanted.clone();
        let extra = policy_rule("get | - | pods");
        stored.set_path(&["rules"], Value::Array(vec![extra.clone()]));
        let merged = reconcile(&stored, &wanted).unwrap();
        let rules = merged.get("rules").unwrap().as_array().unwrap();
        assert!(rules.contains(&extra) && rules.len() > 1);
        stored.set_path(&["metadata", "annotations", AUTOUPDATE], "false");
        assert_eq!(reconcile(&stored, &wanted), None);
    }
}
