//! The ServiceCIDR of the ranges the server was started with, as upstream's default ServiceCIDR controller makes it.

use crate::boot::{Always, Maker};
use crate::object;
use crate::registry::update::Change;
use crate::registry::{Write, stored_error};
use crate::server::Core;
use ipnet::IpNet;
use machinery::status::ApiError;
use machinery::{Value, codec};

const GROUP: &str = "networking.k8s.io";
const RESOURCE: &str = "servicecidrs";
const NAME: &str = "kubernetes";
const MANAGER: &str = "kubernetes-service-cidr-controller";

/// Makes it, adds a second family, or says that it is ready.
pub(super) async fn ensure(core: &Core, ranges: &[IpNet]) -> Result<(), ApiError> {
    let Some(resource) = core.routes.resource(GROUP, RESOURCE) else {
        return Ok(());
    };
    let ranges: Vec<String> = ranges.iter().map(|range| range.trunc().to_string()).collect();
    let maker = Maker::new(core);
    let text = serde_json::json!({"metadata": {"name": NAME}, "spec": {"cidrs": ranges}}).to_string();
    maker.make(GROUP, RESOURCE, "", &text).await?;
    let Some(kv) = core.registry.stored(&resource.key("", NAME)).await? else {
        return Ok(());
    };
    let stored = object::decode_stored(&resource, &kv.value, kv.mod_revision as u64).map_err(stored_error)?;
    let options = Value::object();
    let write = |subresource| Write {
        subresource,
        manager: MANAGER,
        ..maker.write(&resource, "", NAME, &options)
    };
    let known: Vec<&str> = cidrs(&stored);
    if machinery::meta::deletion_timestamp(&stored).is_some() {
        return Ok(());
    }
    if ranges.len() == 2 && known == [ranges[0].as_str()] {
        let cidrs = Value::Array(ranges.iter().map(|range| range.as_str().into()).collect());
        core.registry.update(&write(""), &Widen(cidrs), &Always).await?;
    } else if known != ranges {
        tracing::warn!(
            ?known,
            ?ranges,
            "the default ServiceCIDR is not of this server's ranges"
        );
        return Ok(());
    }
    if ready(&stored).is_none_or(|status| status == "Unknown") {
        let now = codec::scalar::format_time(core.registry.clock.now());
        core.registry
            .update(&write("status"), &Ready(now.to_string()), &Always)
            .await?;
    }
    Ok(())
}

fn cidrs(object: &Value) -> Vec<&str> {
    let cidrs = object.get_path(&["spec", "cidrs"]).and_then(Value::as_array);
    cidrs.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn ready(object: &Value) -> Option<&str> {
    conditions(object)
        .iter()
        .find(|c| c.get("type").and_then(Value::as_str) == Some("Ready"))
        .and_then(|c| c.get("status"))
        .and_then(Value::as_str)
}

fn conditions(object: &Value) -> &[Value] {
    object
        .get_path(&["status", "conditions"])
        .and_then(Value::as_array)
        .map_or(&[], |conditions| conditions)
}

/// One family becomes two.
struct Widen(Value);

impl Change for Widen {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        let mut object = standing(live)?;
        object.set_path(&["spec", "cidrs"], self.0.clone());
        Ok(object)
    }
}

/// Ready since then.
struct Ready(String);

impl Change for Ready {
    fn apply(&self, live: Option<&Value>) -> Result<Value, ApiError> {
        let mut object = standing(live)?;
        let mut kept: Vec<Value> = conditions(&object)
            .iter()
            .filter(|c| c.get("type").and_then(Value::as_str) != Some("Ready"))
            .cloned()
            .collect();
        let mut condition = Value::object();
        for (field, value) in [
            ("type", "Ready"),
            ("status", "True"),
            ("reason", ""),
            ("message", "Kubernetes default Service CIDR is ready"),
            ("lastTransitionTime", self.0.as_str()),
        ] {
            condition.set_path(&[field], value);
        }
        kept.push(condition);
        object.set_path(&["status", "conditions"], kept);
        Ok(object)
    }
}

fn standing(live: Option<&Value>) -> Result<Value, ApiError> {
    live.cloned()
        .ok_or_else(|| ApiError::internal("the default ServiceCIDR is gone"))
}
