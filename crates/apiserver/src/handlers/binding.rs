//! Binding a pod to a node: `pods/binding`, and the old `bindings`.

use super::Exchange;
use crate::object;
use crate::registry::update::Change;
use crate::registry::{Resource, Write};
use crate::respond;
use crate::routes::Endpoint;
use http::header::USER_AGENT;
use http::{Response, StatusCode};
use machinery::field::{Error, Path};
use machinery::gvk::{GroupResource, GroupVersionKind};
use machinery::status::ApiError;
use machinery::{Value, codec, meta};
use std::sync::Arc;
use wire::body::Body;

pub(super) async fn binding(
    mut exchange: Exchange,
    endpoint: &Arc<Endpoint>,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(false, false)?;
    let options = exchange.write_options("CreateOptions")?;
    let (mut binding, _) = exchange
        .decode_other(&GroupVersionKind::new("", "v1", "Binding"), &options)
        .await?;
    let name = if exchange.info.name.is_empty() {
        meta::name(&binding).to_owned()
    } else {
        exchange.info.name.clone()
    };
    if !meta::name(&binding).is_empty() && meta::name(&binding) != name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Binding object",
        ));
    }
    let node = check(&binding, &name)?;
    let manager = options.manager(exchange.headers().get(USER_AGENT));
    let options_object = exchange.options_object("CreateOptions", &options);
    let write = Write {
        name: &name,
        // Binding writes the spec, which no endpoint of the object itself may.
        ..exchange.write(endpoint, resource, &options, &options_object, &manager)
    };
    let kind = ("", "v1", "Binding");
    write
        .admit_other(
            "binding",
            kind,
            &name,
            &exchange.core.registry.admission,
            &mut binding,
        )
        .await?;
    let change = Bind {
        binding: &binding,
        node,
        name: &name,
        now: codec::scalar::format_time(exchange.core.registry.clock.now()).to_string(),
    };
    exchange.core.registry.update_raw(&write, &change).await?;
    Ok(respond::value(
        StatusCode::CREATED,
        &output,
        &object::status_success(201, None),
    ))
}

fn check(binding: &Value, name: &str) -> Result<String, ApiError> {
    let mut errors = Vec::new();
    let target = Path::new("target");
    let kind = binding.get_str_path(&["target", "kind"]).unwrap_or_default();
    if !kind.is_empty() && kind != "Node" {
        errors.push(Error::not_supported(
            &target.child("kind"),
            kind,
            &["Node", "<empty>"],
        ));
    }
    let node = binding.get_str_path(&["target", "name"]).unwrap_or_default();
    if node.is_empty() {
        errors.push(Error::required(&target.child("name"), ""));
    }
    if errors.is_empty() {
        Ok(node.to_owned())
    } else {
        Err(ApiError::invalid("", "Binding", name, errors))
    }
}

struct Bind<'a> {
    binding: &'a Value,
    node: String,
    name: &'a str,
    now: String,
}

impl Change for Bind<'_> {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        let pods = GroupResource::new("", "pods");
        let Some(live) = live else {
            return Err(ApiError::not_found(&pods, self.name));
        };
        let refuse = |why: String| {
            Err(ApiError::conflict(
                &GroupResource::new("", "pods/binding"),
                self.name,
                why,
            ))
        };
        let uid = meta::uid(self.binding);
        if !uid.is_empty() && uid != meta::uid(live) {
            return refuse(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta::uid(live)
            ));
        }
        if meta::deletion_timestamp(live).is_some() {
            return refuse(format!(
                "pod {} is being deleted, cannot be assigned to a host",
                self.name
            ));
        }
        let assigned = live.get_str_path(&["spec", "nodeName"]).unwrap_or_default();
        if !assigned.is_empty() {
            return refuse(format!(
                "pod {} is already assigned to node {}",
                self.name,
                machinery::field::quote(assigned)
            ));
        }
        let gates = live
            .get_path(&["spec", "schedulingGates"])
            .and_then(Value::as_array)
            .unwrap_or_default();
        if !gates.is_empty() {
            return refuse(format!("pod {} has non-empty .spec.schedulingGates", self.name));
        }
        let mut new = live.clone();
        new.set_path(&["spec", "nodeName"], self.node.as_str());
        for field in ["annotations", "labels"] {
            let given = self
                .binding
                .get_path(&["metadata", field])
                .and_then(Value::as_object);
            for (key, value) in given.into_iter().flatten() {
                new.set_path(&["metadata", field, key], value.clone());
            }
        }
        set_scheduled(&mut new, &self.now);
        Ok(new)
    }
}

/// The pod's `PodScheduled` condition is true from now on.
fn set_scheduled(pod: &mut Value, now: &str) {
    let mut condition = machinery::Map::new();
    condition.insert("lastProbeTime", Value::Null);
    condition.insert("lastTransitionTime", now);
    condition.insert("status", "True");
    condition.insert("type", "PodScheduled");
    let status = pod.make_object().object_entry("status");
    let generation = status.get("observedGeneration").cloned();
    if let Some(generation) = generation {
        condition.insert("observedGeneration", generation);
    }
    let conditions = status.entry_or_null("conditions");
    if conditions.is_null() {
        *conditions = Value::Array(Vec::new());
    }
    let Some(list) = conditions.as_array_mut() else {
        return;
    };
    match list
        .iter_mut()
        .find(|c| c.get("type").and_then(Value::as_str) == Some("PodScheduled"))
    {
        Some(existing) => {
            if existing.get("status").and_then(Value::as_str) != Some("True") {
                *existing = condition.into();
            }
        }
        None => list.push(condition.into()),
    }
}
