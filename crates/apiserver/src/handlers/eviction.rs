//! `pods/eviction`: a delete that asks disruption budgets first.

use super::Exchange;
use crate::cache::{Filter, PageRequest};
use crate::object;
use crate::registry::delete::DeleteOptions;
use crate::registry::update::Change;
use crate::registry::{Resource, Write, stored_error};
use crate::respond;
use crate::routes::Endpoint;
use http::{Response, StatusCode};
use machinery::gvk::GroupVersionKind;
use machinery::selector::LabelSelector;
use machinery::status::{ApiError, Cause, Details};
use machinery::{Value, codec, meta};
use std::sync::Arc;
use wire::body::Body;

const BUDGETS: (&str, &str) = ("policy", "poddisruptionbudgets");

pub(super) async fn eviction(
    mut exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(false, false)?;
    let options = exchange.write_options("CreateOptions")?;
    let (mut eviction, _) = exchange
        .decode_other(&GroupVersionKind::new("policy", "v1", "Eviction"), &options)
        .await?;
    let name = exchange.info.name.clone();
    if !meta::name(&eviction).is_empty() && meta::name(&eviction) != name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let options_object = exchange.options_object("CreateOptions", &options);
    let made = exchange.write(endpoint, resource, &options, &options_object, "");
    let kind = ("policy", "v1", "Eviction");
    made.admit_other(
        "eviction",
        kind,
        &name,
        &exchange.core.registry.admission,
        &mut eviction,
    )
    .await?;
    let mut delete_object = eviction
        .get("deleteOptions")
        .cloned()
        .unwrap_or_else(Value::object);
    object::set_kind(&mut delete_object, "meta.k8s.io/v1", "DeleteOptions");
    let mut delete = DeleteOptions::from_value(&delete_object)?;
    delete.dry_run |= options.dry_run;
    let registry = &exchange.core.registry;
    let entry = registry
        .get(resource, &exchange.info.namespace, &name, false)
        .await?;
    let pod = entry.value(resource).map_err(stored_error)?;
    if needs_budget(&pod) {
        take_from_budget(&exchange, &pod, &name, delete.dry_run).await?;
    }
    if !delete.dry_run {
        announce(&exchange, resource, &name).await?;
    }
    let write = Write {
        subresource: "",
        dry_run: delete.dry_run,
        ..exchange.write(endpoint, resource, &options, &delete_object, "")
    };
    registry.delete(&write, &delete).await?;
    Ok(respond::value(
        StatusCode::CREATED,
        &output,
        &object::status_success(201, None),
    ))
}

/// Says on the pod that it is being disrupted, so that whoever owns it can tell that from a failure of its own.
async fn announce(exchange: &Exchange, pods: &Arc<Resource>, name: &str) -> Result<(), ApiError> {
    let registry = &exchange.core.registry;
    let options = Value::object();
    let write = Write {
        resource: pods,
        version: pods.storage,
        subresource: "status",
        namespace: &exchange.info.namespace,
        name,
        user: &exchange.user,
        dry_run: false,
        manager: "kube-apiserver",
        options: &options,
        notes: &exchange.notes,
    };
    let now = codec::scalar::format_time(registry.clock.now()).to_string();
    registry.update_raw(&write, &Announce { pod: name, now }).await?;
    Ok(())
}

/// The pod with the condition that tells of its eviction.
struct Announce<'a> {
    pod: &'a str,
    now: String,
}

impl Change for Announce<'_> {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        let Some(live) = live else {
            return Err(ApiError::not_found(
                &machinery::gvk::GroupResource::new("", "pods"),
                self.pod,
            ));
        };
        let mut condition = Value::object();
        for (field, text) in [
            ("type", "DisruptionTarget"),
            ("status", "True"),
            ("reason", "EvictionByEvictionAPI"),
            ("message", "Eviction API: evicting"),
            ("lastTransitionTime", &self.now),
        ] {
            condition.set_path(&[field], text);
        }
        if let Some(generation) = live.get_path(&["metadata", "generation"]) {
            condition.set_path(&["observedGeneration"], generation.clone());
        }
        let path = ["status", "conditions"];
        let known = live.get_path(&path).and_then(Value::as_array).unwrap_or_default();
        let others = known
            .iter()
            .filter(|c| c.get("type").and_then(Value::as_str) != Some("DisruptionTarget"));
        let conditions = others.cloned().chain([condition]).collect();
        let mut new = live.clone();
        new.set_path(&path, Value::Array(conditions));
        Ok(new)
    }
}

/// Pods that have ended, have not begun, or are on their way out disrupt nothing.
fn needs_budget(pod: &Value) -> bool {
    let phase = pod.get_str_path(&["status", "phase"]).unwrap_or_default();
    !matches!(phase, "Succeeded" | "Failed" | "Pending") && meta::deletion_timestamp(pod).is_none()
}

async fn take_from_budget(
    exchange: &Exchange,
    pod: &Value,
    name: &str,
    dry_run: bool,
) -> Result<(), ApiError> {
    let core = &exchange.core;
    let Some(budgets) = core.routes.resource(BUDGETS.0, BUDGETS.1) else {
        return Ok(());
    };
    let page = core
        .registry
        .list(
            &budgets,
            &Filter::all(&exchange.info.namespace),
            &PageRequest::default(),
        )
        .await?;
    let mut matching = Vec::new();
    for entry in page.entries {
        let budget = entry.value(&budgets).map_err(stored_error)?;
        let selector = LabelSelector::from_object(budget.get_path(&["spec", "selector"]));
        if selector.is_ok_and(|s| s.matches(meta::labels(pod))) {
            matching.push(budget);
        }
    }
    let budget = match matching.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(ApiError::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let allowed = budget
        .get_path(&["status", "disruptionsAllowed"])
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if !is_ready(pod) {
        let status = |field: &str| {
            budget
                .get_path(&["status", field])
                .and_then(Value::as_i64)
                .unwrap_or(0)
        };
        let always = budget.get_str_path(&["spec", "unhealthyPodEvictionPolicy"]) == Some("AlwaysAllow");
        let healthy = status("currentHealthy") >= status("desiredHealthy") && status("desiredHealthy") > 0;
        if always || healthy {
            return Ok(());
        }
    }
    let budget_name = meta::name(budget);
    if allowed <= 0 {
        return Err(refused(format!(
            "The disruption budget {budget_name} does not allow evicting pods currently because it has insufficient disruptions allowed"
        )));
    }
    if dry_run {
        return Ok(());
    }
    let options = Value::object();
    let write = Write {
        resource: &budgets,
        version: budgets.storage,
        subresource: "status",
        namespace: &exchange.info.namespace,
        name: budget_name,
        user: &exchange.user,
        dry_run,
        manager: "kube-apiserver",
        options: &options,
        notes: &exchange.notes,
    };
    let now = codec::scalar::format_time(core.registry.clock.now()).to_string();
    core.registry
        .update_raw(
            &write,
            &Disrupt {
                pod: name,
                now,
                budget: budget_name,
            },
        )
        .await?;
    Ok(())
}

/// One disruption less is allowed, and the pod is remembered as the one.
struct Disrupt<'a> {
    pod: &'a str,
    now: String,
    budget: &'a str,
}

impl Change for Disrupt<'_> {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        let Some(live) = live else {
            return Err(ApiError::not_found(
                &machinery::gvk::GroupResource::new("policy", "poddisruptionbudgets"),
                self.budget,
            ));
        };
        let mut new = live.clone();
        let path = ["status", "disruptionsAllowed"];
        let allowed = live.get_path(&path).and_then(Value::as_i64).unwrap_or(0);
        if allowed <= 0 {
            return Err(refused(format!(
                "The disruption budget {} does not allow evicting pods currently because it has insufficient disruptions allowed",
                self.budget
            )));
        }
        new.set_path(&path, allowed - 1);
        new.set_path(&["status", "disruptedPods", self.pod], self.now.as_str());
        Ok(new)
    }
}

fn refused(message: String) -> ApiError {
    let mut error = ApiError::too_many_requests(
        "Cannot evict pod as it would violate the pod's disruption budget.",
        0,
    );
    let cause = Cause {
        reason: "DisruptionBudget".to_owned(),
        message,
        field: String::new(),
    };
    error.details = Some(Box::new(Details {
        causes: vec![cause],
        ..Details::default()
    }));
    error
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod
        .get_path(&["status", "conditions"])
        .and_then(Value::as_array)
        .unwrap_or_default();
    let text = |c: &Value, key: &str| c.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    conditions
        .iter()
        .any(|c| text(c, "type") == "Ready" && text(c, "status") == "True")
}
