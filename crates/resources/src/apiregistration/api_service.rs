//! APIService.

use crate::KindInfo;
use crate::fields::{fill, object_mut};
use crate::strategy::{Context, Strategy};
use machinery::codec::scalar::format_time;
use machinery::{Map, Value};

pub(crate) struct ApiService;

impl Strategy for ApiService {
    fn default(&self, object: &mut Value) {
        if let Some(service) = object
            .get_mut("spec")
            .and_then(|spec| object_mut(spec, "service"))
        {
            fill(service, "port", 443);
        }
    }

    /// What this server serves itself is available.
    fn prepare_for_create(&self, context: &Context<'_>, object: &mut Value) {
        let mut status = Map::new();
        if object.get_path(&["spec", "service"]).is_none_or(Value::is_null) {
            let mut condition = Map::new();
            condition.insert("lastTransitionTime", format_time(context.now));
            condition.insert("message", "Local APIServices are always available");
            condition.insert("reason", "Local");
            condition.insert("status", "True");
            condition.insert("type", "Available");
            status.insert("conditions", Value::Array(vec![condition.into()]));
        }
        object.set_path(&["status"], status);
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        false
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}
