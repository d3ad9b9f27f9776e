//! Who may do what: a table of requests by user, node, service account, anonymous and impersonator, each through the
//! whole server.

use super::{Api, read};
use access::authorization::configured::{Configuration, Configured};
use apiserver::Config;
use http::{Method, Request};
use machinery::clock::SystemClock;
use machinery::user::UserInfo;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use store::Memory;
use wire::body::Body;

const TABLE: &str = include_str!("rights.txt");
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const TEAM: &str = "/api/v1/namespaces/team";

async fn cluster() -> Api {
    let modes = ["Node".to_owned(), "RBAC".to_owned()];
    let configuration = Configuration::of_modes(&modes, None).expect("valid");
    let authorizer = Configured::new(&configuration).await.expect("no webhooks");
    let config = Config {
        authorizer: Arc::new(authorizer),
        dial: Arc::new(super::connect::EchoKubelet),
        // There is no controller here that makes the accounts pods run as.
        admission: access::admission::plugins::chain(&[], &["ServiceAccount".to_owned()])
            .expect("known plugins"),
        ..Config::new(Arc::new(Memory::new()), Arc::new(SystemClock))
    };
    let api = Api::with(config).await;
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "team"}}))
        .await
        .ok();
    for node in ["n1", "n2"] {
        api.post("/api/v1/nodes", json!({"metadata": {"name": node}}))
            .await
            .ok();
        // Where logs are asked for.
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        let path = format!("/api/v1/nodes/{node}/status");
        api.patch(&path, "merge-patch+json", status).await.ok();
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        api.post(
            leases,
            json!({"metadata": {"name": node}, "spec": {"holderIdentity": node}}),
        )
        .await
        .ok();
    }
    for secret in ["of-p1", "of-p2", "free"] {
        api.post(&format!("{TEAM}/secrets"), json!({"metadata": {"name": secret}}))
            .await
            .ok();
    }
    for map in ["of-p1", "named", "other", "gone"] {
        api.post(&format!("{TEAM}/configmaps"), json!({"metadata": {"name": map}}))
            .await
            .ok();
    }
    for (pod, node) in [("p1", "n1"), ("p2", "n2")] {
        let secret = format!("of-{pod}");
        let pod = json!({"metadata": {"name": pod}, "spec": {
            "nodeName": node,
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "s", "secret": {"secretName": secret}}, {"name": "m", "configMap": {"name": "of-p1", "optional": true}}],
        }});
        let pod = if node == "n2" {
            let mut pod = pod;
            pod["spec"]["volumes"].as_array_mut().expect("list").pop();
            pod
        } else {
            pod
        };
        api.post(&format!("{TEAM}/pods"), pod).await.ok();
    }
    api.post(
        &format!("{TEAM}/serviceaccounts"),
        json!({"metadata": {"name": "robot"}}),
    )
    .await
    .ok();
    policy(&api).await;
    api
}

async fn policy(api: &Api) {
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    let mut named = rule(&[""], &["configmaps"], &["get"]);
    named["resourceNames"] = json!(["named"]);
    let pods = rule(&[""], &["pods"], &["get", "list"]);
    let role = |name: &str, rules: Vec<Json>| json!({"metadata": {"name": name}, "rules": rules});
    let roles = format!("{RBAC}/namespaces/team/roles");
    for (name, rules) in [
        ("reader", vec![pods.clone(), named]),
        ("pods", vec![pods.clone()]),
        ("writer", vec![rule(&[""], &["configmaps"], &["create"])]),
        (
            "binder",
            vec![
                pods,
                rule(
                    &["rbac.authorization.k8s.io"],
                    &["roles", "rolebindings"],
                    &["get", "list", "create"],
                ),
            ],
        ),
    ] {
        api.post(&roles, role(name, rules)).await.ok();
    }
    let mut acts = rule(&[""], &["users"], &["impersonate"]);
    acts["resourceNames"] = json!(["alice"]);
    let mut in_group = rule(&[""], &["groups"], &["impersonate"]);
    in_group["resourceNames"] = json!(["dev"]);
    api.post(
        &format!("{RBAC}/clusterroles"),
        role("acts", vec![acts, in_group]),
    )
    .await
    .ok();
    let mut as_carol = rule(&["authentication.k8s.io"], &["users"], &["impersonate:user-info"]);
    as_carol["resourceNames"] = json!(["carol"]);
    let limited = vec![
        as_carol,
        rule(&[""], &["pods"], &["impersonate-on:user-info:list"]),
        rule(
            &["authentication.k8s.io"],
            &["nodes"],
            &["impersonate:arbitrary-node"],
        ),
        rule(&[""], &["secrets"], &["impersonate-on:arbitrary-node:get"]),
    ];
    api.post(&format!("{RBAC}/clusterroles"), role("limited", limited))
        .await
        .ok();
    let user = |name: &str| json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name});
    let binding = |name: &str, kind: &str, role: &str, subject: Json| {
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role});
        json!({"metadata": {"name": name}, "roleRef": role, "subjects": [subject]})
    };
    let bindings = format!("{RBAC}/namespaces/team/rolebindings");
    let robot = json!({"kind": "ServiceAccount", "name": "robot", "namespace": "team"});
    for (name, kind, role, subject) in [
        ("a", "Role", "reader", user("alice")),
        ("b", "ClusterRole", "edit", user("editor")),
        ("c", "Role", "binder", user("binder")),
        ("d", "Role", "writer", robot),
        ("g", "Role", "pods", user("carol")),
    ] {
        api.post(&bindings, binding(name, kind, role, subject)).await.ok();
    }
    let bindings = format!("{RBAC}/clusterrolebindings");
    api.post(&bindings, binding("e", "ClusterRole", "view", user("viewer")))
        .await
        .ok();
    api.post(&bindings, binding("f", "ClusterRole", "acts", user("boss")))
        .await
        .ok();
    api.post(&bindings, binding("h", "ClusterRole", "limited", user("limited")))
        .await
        .ok();
    // Roles that gather others are filled by a controller upstream; here by hand.
    let view = json!({"rules": [rule(&["", "apps"], &["pods", "pods/log", "configmaps", "deployments", "services"], &["get", "list", "watch"])]});
    let edit = json!({"rules": [rule(&["", "apps"], &["pods", "configmaps", "secrets", "deployments"], &["get", "list", "watch", "create", "update", "patch", "delete"])]});
    for (name, rules) in [("view", view), ("edit", edit)] {
        api.patch(&format!("{RBAC}/clusterroles/{name}"), "merge-patch+json", rules)
            .await
            .ok();
    }
}

fn user(name: &str) -> UserInfo {
    match name {
        "admin" => UserInfo::authenticated("admin", &["system:masters"]),
        "anonymous" => UserInfo::anonymous(),
        "robot" => UserInfo::service_account("team", "robot"),
        "n1" | "n2" => UserInfo::authenticated(format!("system:node:{name}"), &["system:nodes"]),
        name => UserInfo::authenticated(name, &[]),
    }
}

/// What is sent to a path: enough that only the right to do it can be missing.
fn body(method: &Method, path: &str, variant: &str, line: usize) -> (&'static str, Json) {
    let name = format!("made-{line}");
    let json = "application/json";
    if *method == Method::PATCH {
        let patch = if path.ends_with("/status") {
            json!({"status": {"phase": "Running"}})
        } else {
            json!({"metadata": {"labels": {"l": "v"}}})
        };
        return ("application/merge-patch+json", patch);
    }
    if *method == Method::DELETE {
        // Nothing the next lines need goes away.
        return (
            json,
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}),
        );
    }
    let rbac = "rbac.authorization.k8s.io";
    let object = match path.rsplit('/').next().unwrap_or_default() {
        "rolebindings" => {
            let (kind, role) = if variant == "pods" {
                ("Role", "pods")
            } else {
                ("ClusterRole", "edit")
            };
            json!({"metadata": {"name": name}, "roleRef": {"apiGroup": rbac, "kind": kind, "name": role},
                "subjects": [{"kind": "User", "apiGroup": rbac, "name": "x"}]})
        }
        "roles" => {
            json!({"metadata": {"name": name}, "rules": [{"apiGroups": [""], "resources": [if variant.is_empty() { "pods" } else { variant }], "verbs": ["get"]}]})
        }
        "selfsubjectaccessreviews" => {
            json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}})
        }
        "subjectaccessreviews" => {
            json!({"spec": {"user": "x", "resourceAttributes": {"verb": "get", "resource": "pods"}}})
        }
        "selfsubjectrulesreviews" => json!({"spec": {"namespace": "team"}}),
        "tokenreviews" => json!({"spec": {"token": "x"}}),
        "selfsubjectreviews" => json!({}),
        "token" => json!({"spec": {}}),
        _ => json!({"metadata": {"name": name}}),
    };
    (json, object)
}

#[tokio::test]
async fn the_table_of_rights() {
    let api = cluster().await;
    let (mut wrong, mut counts) = (Vec::new(), [0, 0]);
    for (at, line) in TABLE
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with('#'))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [who, method, target, verdict] = words[..] else {
            panic!("line {}: {line}", at + 1);
        };
        let method: Method = method.parse().expect("method");
        let (path, variant) = match target.rsplit_once('=') {
            Some((path, variant)) if !path.contains('?') => (path, variant),
            _ => (target, ""),
        };
        let (who, acts_as) = who.split_once('+').unwrap_or((who, ""));
        let (kind, object) = body(&method, path, variant, at);
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .header("content-type", kind);
        let (name, group) = acts_as.split_once('/').unwrap_or((acts_as, ""));
        for (header, value) in [("impersonate-user", name), ("impersonate-group", group)] {
            if !value.is_empty() {
                request = request.header(header, value);
            }
        }
        let sent = if method == Method::GET {
            Body::empty()
        } else {
            Body::from(object.to_string().into_bytes())
        };
        let request = request.body(sent).expect("request");
        let answer = read(api.service.call_as(Arc::new(user(who)), request).await).await;
        let code = answer.status.as_u16();
        let denied = code == 403;
        counts[usize::from(denied)] += 1;
        // What is allowed may still fail for reasons of its own, but never for want of a server.
        if denied != (verdict == "denied") || code == 401 || code >= 500 && code != 504 {
            wrong.push(format!(
                "line {}: {line}\n  {code} {}",
                at + 1,
                String::from_utf8_lossy(&answer.body)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        counts.iter().sum::<i32>() >= 100 && counts.iter().all(|count| *count >= 40),
        "{counts:?}"
    );
}
