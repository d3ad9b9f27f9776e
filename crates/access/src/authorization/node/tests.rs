//! A table of what two nodes may and may not.

use super::*;
use crate::admission::plugins::testing::{Fixed, object};

fn stored() -> Arc<dyn Objects> {
    let pod = |name: &str, node: &str, more: &str| {
        (
            "pods",
            Arc::new(object(&format!(
                r#"{{"metadata":{{"name":"{name}","namespace":"ns"}},"spec":{{"nodeName":"{node}",{more}}}}}"#
            ))),
        )
    };
    let other = |resource: &'static str, text: &str| (resource, Arc::new(object(text)));
    Arc::new(Fixed(vec![
        pod(
            "p",
            "a",
            r#""serviceAccountName":"sa","imagePullSecrets":[{"name":"pull"}],
               "containers":[{"env":[{"valueFrom":{"secretKeyRef":{"name":"env"}}},{"valueFrom":{"configMapKeyRef":{"name":"conf"}}}],
                              "envFrom":[{"secretRef":{"name":"from"}}]}],
               "volumes":[{"name":"v","secret":{"secretName":"vol"}},{"name":"c","persistentVolumeClaim":{"claimName":"claim"}},
                          {"name":"e","ephemeral":{}},{"name":"j","projected":{"sources":[{"configMap":{"name":"proj"}}]}}],
               "resourceClaims":[{"name":"r","resourceClaimName":"dra"}]"#,
        ),
        pod("q", "b", r#""serviceAccountName":"sb""#),
        other(
            "persistentvolumeclaims",
            r#"{"metadata":{"name":"claim","namespace":"ns"},"spec":{"volumeName":"pv"}}"#,
        ),
        other(
            "persistentvolumes",
            r#"{"metadata":{"name":"pv"},"spec":{"claimRef":{"namespace":"ns","name":"claim"},
                "csi":{"nodePublishSecretRef":{"namespace":"far","name":"csi"}}}}"#,
        ),
        other(
            "volumeattachments",
            r#"{"metadata":{"name":"va"},"spec":{"nodeName":"a"}}"#,
        ),
        other(
            "resourceslices",
            r#"{"metadata":{"name":"sl"},"spec":{"nodeName":"a"}}"#,
        ),
    ]))
}

/// Verb, group, resource[/subresource], namespace, name; whether node `a` and node `b` may.
const TABLE: &[(&str, &str, &str, &str, &str, bool, bool)] = &[
    ("get", "", "secrets", "ns", "pull", true, false),
    ("get", "", "secrets", "ns", "env", true, false),
    ("get", "", "secrets", "ns", "from", true, false),
    ("get", "", "secrets", "ns", "vol", true, false),
    ("watch", "", "secrets", "ns", "vol", true, false),
    ("list", "", "secrets", "ns", "vol", true, false),
    ("list", "", "secrets", "ns", "", false, false),
    ("list", "", "secrets", "", "", false, false),
    ("get", "", "secrets", "ns", "other", false, false),
    ("get", "", "secrets", "elsewhere", "vol", false, false),
    ("get", "", "secrets", "far", "csi", true, false),
    ("update", "", "secrets", "ns", "vol", false, false),
    ("delete", "", "secrets", "ns", "vol", false, false),
    ("create", "", "secrets", "ns", "", false, false),
    ("get", "", "configmaps", "ns", "conf", true, false),
    ("get", "", "configmaps", "ns", "proj", true, false),
    ("get", "", "configmaps", "ns", "x", false, false),
    ("patch", "", "configmaps", "ns", "conf", false, false),
    ("get", "", "persistentvolumeclaims", "ns", "claim", true, false),
    ("get", "", "persistentvolumeclaims", "ns", "p-e", true, false),
    ("list", "", "persistentvolumeclaims", "ns", "claim", false, false),
    (
        "update",
        "",
        "persistentvolumeclaims",
        "ns",
        "claim",
        false,
        false,
    ),
    (
        "patch",
        "",
        "persistentvolumeclaims/status",
        "ns",
        "claim",
        true,
        false,
    ),
    (
        "get",
        "",
        "persistentvolumeclaims/status",
        "ns",
        "claim",
        false,
        false,
    ),
    ("get", "", "persistentvolumes", "", "pv", true, false),
    ("get", "", "persistentvolumes", "", "other", false, false),
    (
        "get",
        "storage.k8s.io",
        "volumeattachments",
        "",
        "va",
        true,
        false,
    ),
    (
        "get",
        "resource.k8s.io",
        "resourceclaims",
        "ns",
        "dra",
        true,
        false,
    ),
    ("create", "resource.k8s.io", "resourceslices", "", "", true, true),
    (
        "delete",
        "resource.k8s.io",
        "resourceslices",
        "",
        "sl",
        true,
        false,
    ),
    ("list", "resource.k8s.io", "resourceslices", "", "", false, false),
    ("get", "", "serviceaccounts", "ns", "sa", true, false),
    ("create", "", "serviceaccounts/token", "ns", "sa", true, false),
    ("create", "", "serviceaccounts/token", "ns", "sb", false, true),
    (
        "create",
        "",
        "serviceaccounts/token",
        "kube-system",
        "sa",
        false,
        false,
    ),
    ("create", "", "serviceaccounts", "ns", "sa", false, false),
    (
        "get",
        "coordination.k8s.io",
        "leases",
        "kube-node-lease",
        "a",
        true,
        false,
    ),
    (
        "update",
        "coordination.k8s.io",
        "leases",
        "kube-node-lease",
        "b",
        false,
        true,
    ),
    (
        "create",
        "coordination.k8s.io",
        "leases",
        "kube-node-lease",
        "",
        true,
        true,
    ),
    (
        "get",
        "coordination.k8s.io",
        "leases",
        "kube-system",
        "a",
        false,
        false,
    ),
    (
        "list",
        "coordination.k8s.io",
        "leases",
        "kube-node-lease",
        "a",
        false,
        false,
    ),
    ("get", "storage.k8s.io", "csinodes", "", "a", true, false),
    ("create", "storage.k8s.io", "csinodes", "", "a", true, true),
    ("get", "", "nodes", "", "a", true, false),
    ("get", "", "nodes", "", "c", false, false),
    ("list", "", "nodes", "", "", false, false),
    ("create", "", "nodes", "", "", true, true),
    ("delete", "", "nodes", "", "a", false, false),
    ("patch", "", "nodes/status", "", "a", true, true),
    ("get", "", "nodes/proxy", "", "a", false, false),
    ("get", "", "pods", "ns", "p", true, false),
    ("get", "", "pods", "ns", "q", false, true),
    ("watch", "", "pods", "ns", "p", true, false),
    ("list", "", "pods", "", "", false, false),
    ("create", "", "pods", "ns", "", true, true),
    ("delete", "", "pods", "ns", "p", true, true),
    ("update", "", "pods", "ns", "p", false, false),
    ("patch", "", "pods/status", "ns", "p", true, true),
    ("create", "", "pods/eviction", "ns", "p", true, true),
    ("create", "", "pods/exec", "ns", "p", false, false),
    ("create", "", "pods/binding", "ns", "p", false, false),
    ("list", "", "services", "", "", true, true),
    ("create", "", "services", "ns", "", false, false),
    ("create", "", "events", "ns", "", true, true),
    (
        "create",
        "authentication.k8s.io",
        "tokenreviews",
        "",
        "",
        true,
        true,
    ),
    (
        "create",
        "authorization.k8s.io",
        "subjectaccessreviews",
        "",
        "",
        true,
        true,
    ),
    (
        "create",
        "certificates.k8s.io",
        "certificatesigningrequests",
        "",
        "",
        true,
        true,
    ),
    ("create", "apps", "deployments", "ns", "", false, false),
    ("get", "apps", "deployments", "ns", "x", false, false),
    (
        "get",
        "rbac.authorization.k8s.io",
        "clusterroles",
        "",
        "x",
        false,
        false,
    ),
    ("impersonate", "", "users", "", "x", false, false),
];

#[tokio::test]
async fn nodes_may_what_is_theirs() {
    let authorizer = Node::default();
    authorizer.bind(stored());
    for (node, allowed) in [("a", 5), ("b", 6)] {
        let user = UserInfo::authenticated(format!("system:node:{node}"), &["system:nodes"]);
        // Twice: ways that were found are remembered.
        for _ in 0..2 {
            for row in TABLE {
                let (verb, group, resource, namespace, name, a, b) = *row;
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                let asked = Attributes {
                    namespace,
                    name,
                    subresource,
                    ..Attributes::resource(&user, verb, group, resource)
                };
                let decision = authorizer.authorize(&asked).await;
                let expected = if allowed == 5 { a } else { b };
                assert_eq!(
                    decision == Decision::Allow,
                    expected,
                    "node {node}: {row:?}: {decision:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn only_nodes_are_nodes() {
    let authorizer = Node::default();
    authorizer.bind(stored());
    for (name, group) in [
        ("system:node:a", "x"),
        ("a", "system:nodes"),
        ("system:node:", "system:nodes"),
    ] {
        let user = UserInfo::authenticated(name, &[group]);
        let asked = Attributes::resource(&user, "create", "", "nodes");
        assert_ne!(
            authorizer.authorize(&asked).await,
            Decision::Allow,
            "{name} {group}"
        );
    }
}

#[tokio::test]
async fn a_node_lists_its_own_pods() {
    let authorizer = Node::default();
    authorizer.bind(stored());
    let user = UserInfo::authenticated("system:node:a", &["system:nodes"]);
    for (selector, allowed) in [
        ("spec.nodeName=a", true),
        ("spec.nodeName=b", false),
        ("spec.nodeName!=a", false),
        ("metadata.name=p", false),
    ] {
        let asked = Attributes {
            field_selector: Some(selector),
            ..Attributes::resource(&user, "watch", "", "pods")
        };
        let decision = authorizer.authorize(&asked).await;
        assert_eq!(decision == Decision::Allow, allowed, "{selector}");
    }
}
