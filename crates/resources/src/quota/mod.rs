//! What objects use of a `ResourceQuota`: asked by admission before an object is stored, and by the controller that
//! counts what is there.
//!
//! Most kinds are only counted; [`evaluator`] gives those that use more their own file. Everything is a plain function
//! of the object: no lister, no lock. Follows upstream's `pkg/quota/v1`.

pub mod amounts;
mod claim;
mod device_claim;
mod pod;
pub mod pod_resources;
mod scope;
mod service;

pub use amounts::Amounts;
pub use scope::{Scope, scopes};

use jiff::Timestamp;
use machinery::Value;

/// How one resource is charged.
pub trait Evaluator: Send + Sync {
    /// Whether a change of an object can change what it uses, so that admission must ask; creation always can.
    fn handles_update(&self, _subresource: &str, _new: &Value, _old: &Value) -> bool {
        false
    }

    /// Whether the resource quotas name is one this kind uses.
    fn charges(&self, name: &str) -> bool;

    /// Whether the object is in a quota's scope.
    fn in_scope(&self, _scope: &Scope<'_>, _object: &Value) -> bool {
        false
    }

    /// Refuses objects that leave out what a quota demands.
    fn constraints(&self, _required: &[&str], _object: &Value) -> Result<(), String> {
        Ok(())
    }

    /// What the object uses, by the names quotas use.
    fn usage(&self, object: &Value, now: Timestamp) -> Amounts;
}

/// Counts objects.
struct Counted {
    name: String,
    /// What quotas called it before every kind could be counted.
    alias: Option<&'static str>,
}

impl Evaluator for Counted {
    fn charges(&self, name: &str) -> bool {
        name == self.name || self.alias == Some(name)
    }

    fn usage(&self, _: &Value, _: Timestamp) -> Amounts {
        let one = amounts::count(1);
        let mut used = Amounts::from([(self.name.clone(), one)]);
        if let Some(alias) = self.alias {
            used.insert(alias.to_owned(), one);
        }
        used
    }
}

/// Resources no quota counts.
const IGNORED: &[(&str, &str)] = &[
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("events.k8s.io", "events"),
];

const ALIASES: &[&str] = &[
    "configmaps",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
];

/// How a resource is charged; `None` if it never is.
pub fn evaluator(group: &str, resource: &str) -> Option<Box<dyn Evaluator>> {
    Some(match (group, resource) {
        _ if IGNORED.contains(&(group, resource)) => return None,
        ("", "pods") => Box::new(pod::Pods),
        ("", "services") => Box::new(service::Services),
        ("", "persistentvolumeclaims") => Box::new(claim::Claims),
        ("resource.k8s.io", "resourceclaims") => Box::new(device_claim::DeviceClaims),
        _ => Box::new(Counted {
            name: count_name(group, resource),
            alias: ALIASES
                .iter()
                .copied()
                .find(|alias| group.is_empty() && *alias == resource),
        }),
    })
}

/// The resource by which the kind's objects are counted, and the other way round.
pub fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() {
        format!("count/{resource}")
    } else {
        format!("count/{resource}.{group}")
    }
}

/// The group and resource a `count/` name counts.
pub fn counted(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_prefix("count/")?;
    let (resource, group) = name.split_once('.').unwrap_or((name, ""));
    Some((group, resource))
}

/// Whether a quota speaks of an object: it limits something the kind uses, and the object is in all its scopes.
pub fn matches(evaluator: &dyn Evaluator, quota: &Value, object: &Value) -> bool {
    amounts::names(quota.get_path(&["status", "hard"])).any(|name| evaluator.charges(name))
        && scopes(quota)
            .iter()
            .all(|scope| evaluator.in_scope(scope, object))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Value {
        machinery::codec::json::decode_any(text.as_bytes()).unwrap().value
    }

    fn used(resource: &str, text: &str) -> String {
        let (group, resource) = resource.rsplit_once('/').unwrap_or(("", resource));
        let evaluator = evaluator(group, resource).unwrap();
        amounts::pretty(&evaluator.usage(&object(text), Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn objects_use_what_upstream_says() {
        for (resource, text, expected) in [
            ("secrets", "{}", "count/secrets=1,secrets=1"),
            ("apps/deployments", "{}", "count/deployments.apps=1"),
            (
                "services",
                r#"{"spec":{"type":"NodePort","ports":[{"port":1},{"port":2}]}}"#,
                "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2",
            ),
            (
                "services",
                r#"{"spec":{"type":"LoadBalancer","allocateLoadBalancerNodePorts":false,"ports":[{"port":1,"nodePort":3},{"port":2}]}}"#,
                "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1",
            ),
            (
                "persistentvolumeclaims",
                r#"{"spec":{"storageClassName":"gold","resources":{"requests":{"storage":"1Gi"}}}}"#,
                "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi",
            ),
            (
                "pods",
                r#"{"spec":{"containers":[{"resources":{"requests":{"cpu":"100m","a.b/gpu":"2"},"limits":{"memory":"1Gi"}}}],
                    "initContainers":[{"resources":{"requests":{"cpu":"1"}}}],"overhead":{"memory":"1Mi"}}}"#,
                "count/pods=1,cpu=1,limits.memory=1025Mi,memory=1Mi,pods=1,requests.a.b/gpu=2,requests.cpu=1,requests.memory=1Mi",
            ),
            (
                "pods",
                r#"{"spec":{"containers":[]},"status":{"phase":"Failed"}}"#,
                "count/pods=1",
            ),
        ] {
            assert_eq!(used(resource, text), expected, "{resource} {text}");
        }
    }

    #[test]
    fn quotas_cover_only_their_scopes() {
        let check = |scope: &str, pod: &str, expected: bool| {
            let quota = object(&format!(
                r#"{{"spec":{scope},"status":{{"hard":{{"pods":"1"}}}}}}"#
            ));
            let pods = evaluator("", "pods").unwrap();
            assert_eq!(matches(&*pods, &quota, &object(pod)), expected, "{scope} {pod}");
        };
        let (plain, dated) = (r#"{"spec":{}}"#, r#"{"spec":{"activeDeadlineSeconds":5}}"#);
        check("{}", plain, true);
        check(r#"{"scopes":["Terminating"]}"#, plain, false);
        check(r#"{"scopes":["Terminating"]}"#, dated, true);
        check(r#"{"scopes":["NotTerminating","BestEffort"]}"#, plain, true);
        let busy =
            r#"{"spec":{"containers":[{"resources":{"requests":{"cpu":"1"}}}],"priorityClassName":"high"}}"#;
        check(r#"{"scopes":["BestEffort"]}"#, busy, false);
        check(r#"{"scopes":["NotBestEffort"]}"#, busy, true);
        check(r#"{"scopes":["PriorityClass"]}"#, busy, true);
        check(r#"{"scopes":["PriorityClass"]}"#, plain, false);
        let select = |operator: &str, values: &str| {
            format!(
                r#"{{"scopeSelector":{{"matchExpressions":[{{"scopeName":"PriorityClass","operator":"{operator}","values":{values}}}]}}}}"#
            )
        };
        check(&select("In", r#"["high"]"#), busy, true);
        check(&select("In", r#"["low"]"#), busy, false);
        check(&select("NotIn", r#"["low"]"#), plain, true);
        check(&select("DoesNotExist", "[]"), plain, true);
    }

    #[test]
    fn pods_must_say_what_quotas_count() {
        let pods = evaluator("", "pods").unwrap();
        let pod = object(
            r#"{"spec":{"containers":[{"name":"b"},{"name":"a","resources":{"requests":{"cpu":"1"}}}]}}"#,
        );
        assert_eq!(
            pods.constraints(&["requests.cpu", "limits.memory", "pods"], &pod),
            Err("must specify limits.memory for: a,b; requests.cpu for: b".to_owned())
        );
        assert_eq!(pods.constraints(&["pods"], &pod), Ok(()));
    }
}
