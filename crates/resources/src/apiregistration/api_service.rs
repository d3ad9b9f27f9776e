//! APIService.

use crate::KindInfo;
use crate::fields::{fill, list_at, object_mut, text};
use crate::strategy::{Column, Context, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::codec::scalar::format_time;
use machinery::{Map, Value};

pub(crate) struct ApiService;

const COLUMNS: [Column; 4] = [
    Column::NAME,
    Column::text("Service", "What serves the group and version."),
    Column::text("Available", "Whether it does."),
    Column::AGE,
];

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

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let service = object
            .get_path(&["spec", "service"])
            .map_or("Local".to_owned(), |service| {
                format!("{}/{}", text(service, "namespace"), text(service, "name"))
            });
        let conditions = list_at(object, &["status", "conditions"]);
        let available = conditions
            .iter()
            .find(|condition| text(condition, "type") == "Available");
        let available = available.map_or("Unknown".to_owned(), |condition| {
            match text(condition, "status") {
                "True" => "True".to_owned(),
                status => format!("{status} ({})", text(condition, "reason")),
            }
        });
        vec![
            table::name(object),
            service.into(),
            available.into(),
            table::age(object, now),
        ]
    }
}
