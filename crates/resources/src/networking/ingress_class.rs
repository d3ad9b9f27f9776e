//! IngressClass.

use crate::KindInfo;
use crate::fields::{fill, text};
use crate::strategy::{Column, Strategy};
use crate::table;
use jiff::Timestamp;
use machinery::{Value, meta};

pub(crate) struct IngressClass;

const COLUMNS: [Column; 4] = [
    Column::NAME,
    Column::text("Controller", "What serves the class."),
    Column::text("Parameters", "Where more is said."),
    Column::AGE,
];

impl Strategy for IngressClass {
    fn default(&self, object: &mut Value) {
        if let Some(parameters) = object
            .get_path_mut(&["spec", "parameters"])
            .and_then(Value::as_object_mut)
        {
            fill(parameters, "scope", "Cluster");
        }
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut name = meta::name(object).to_owned();
        if meta::annotation(object, "ingressclass.kubernetes.io/is-default-class") == Some("true") {
            name.push_str(" (default)");
        }
        let parameters =
            object
                .get_path(&["spec", "parameters"])
                .map_or(table::NONE.to_owned(), |parameters| {
                    let group = text(parameters, "apiGroup");
                    let dot = if group.is_empty() { "" } else { "." };
                    format!(
                        "{}{dot}{group}/{}",
                        text(parameters, "kind"),
                        text(parameters, "name")
                    )
                });
        vec![
            name.into(),
            table::word(object, &["spec", "controller"]),
            parameters.into(),
            table::age(object, now),
        ]
    }
}
