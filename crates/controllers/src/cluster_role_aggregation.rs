//! The ClusterRole aggregation controller: a role with an aggregation rule has the rules of all roles the rule's
//! selectors match.

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::labels::Matcher;
use client::{Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;

const WORKERS: usize = 5;

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let roles = context.informer::<ClusterRole>();
    let queue = context.queue::<ObjectKey>("ClusterRoleAggregator");
    let (adds, all) = (queue.clone(), roles.clone());
    roles.subscribe(move |event| {
        // Any role may be part of any aggregate; aggregates are few.
        if all.has_synced() {
            let aggregates = all.list().into_iter().filter(|r| r.aggregation_rule.is_some());
            aggregates.for_each(|r| adds.add(ObjectKey::of(&*r)));
        } else if event.object().aggregation_rule.is_some() {
            adds.add(ObjectKey::of(&**event.object()));
        }
    });
    let known = roles.clone();
    let synced = async move { known.synced().await };
    let shell = context.clone();
    context
        .work(&queue, WORKERS, synced, move |key| {
            let (context, roles) = (shell.clone(), roles.clone());
            async move { reconcile(&context, &roles, &key).await }
        })
        .await;
}

/// The rules an aggregate should have; `None` when it has them, or is none.
fn aggregate(role: &ClusterRole, mut all: Vec<Arc<ClusterRole>>) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_ref()?;
    all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let selector = Matcher::of(Some(selector));
        let parts = all.iter().filter(|r| r.metadata.name != role.metadata.name);
        for part in parts.filter(|r| selector.matches(r.metadata.labels.as_ref())) {
            for rule in part.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    (role.rules.as_deref().unwrap_or(&[]) != rules).then_some(rules)
}

async fn reconcile(
    context: &Context,
    roles: &Informer<ClusterRole>,
    key: &ObjectKey,
) -> Result<Outcome, kube::Error> {
    let Some(role) = roles.get(key) else {
        return Ok(Outcome::Done);
    };
    let Some(rules) = aggregate(&role, roles.list()) else {
        return Ok(Outcome::Done);
    };
    let api = Api::<ClusterRole>::all(context.client.clone());
    let patch = Patch::Merge(json!({"metadata": {"uid": role.metadata.uid}, "rules": rules}));
    match api.patch(&key.name, &PatchParams::default(), &patch).await {
        Ok(written) => roles.written(written),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: Option<&str>, verbs: &[&str]) -> Arc<ClusterRole> {
        let labels = label.map(|l| json!({ l: "true" }));
        let rules: Vec<_> = verbs
            .iter()
            .map(|v| json!({"verbs": [v], "resources": ["pods"]}))
            .collect();
        let role = json!({"metadata": {"name": name, "labels": labels}, "rules": rules});
        Arc::new(serde_json::from_value(role).expect("role"))
    }

    #[test]
    fn an_aggregate_has_the_rules_of_its_parts() {
        let selectors = json!([{"matchLabels": {"to-view": "true"}}, {"matchLabels": {"to-edit": "true"}}]);
        let edit =
            json!({"metadata": {"name": "edit"}, "aggregationRule": {"clusterRoleSelectors": selectors}});
        let mut edit: ClusterRole = serde_json::from_value(edit).expect("role");
        let all = vec![
            role("b", Some("to-edit"), &["get", "update"]),
            role("a", Some("to-view"), &["get"]),
            role("c", None, &["delete"]),
        ];
        let rules = aggregate(&edit, all.clone()).expect("new rules");
        let verbs: Vec<_> = rules.iter().flat_map(|r| r.verbs.clone()).collect();
        assert_eq!(verbs, ["get", "update"]);
        edit.rules = Some(rules);
        assert!(aggregate(&edit, all.clone()).is_none());
        assert!(aggregate(&all[0], all.clone()).is_none());
    }
}
