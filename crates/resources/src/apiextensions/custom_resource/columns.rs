//! The columns of a custom kind: its name, and what its definition adds.

use super::json_path::JsonPath;
use crate::apiextensions::definition;
use crate::strategy::Column;
use crate::table;
use compact_str::CompactString;
use jiff::Timestamp;
use machinery::{Map, Value, meta};

/// Columns made ready for rows.
pub(super) struct Columns {
    pub(super) definitions: Vec<Value>,
    cells: Vec<(CompactString, JsonPath)>,
}

impl Columns {
    pub(super) fn new(columns: &[definition::Column]) -> Self {
        let age = [definition::Column {
            name: "Age".into(),
            kind: "date".into(),
            format: "".into(),
            description: Column::AGE.description.into(),
            priority: 0,
            path: ".metadata.creationTimestamp".into(),
        }];
        let columns = if columns.is_empty() { &age } else { columns };
        let mut definitions = vec![Column::NAME.definition()];
        let mut cells = Vec::new();
        for column in columns {
            // A path that cannot be read ends the list, as upstream.
            let Some(path) = JsonPath::parse(&column.path) else {
                break;
            };
            let mut map = Map::new();
            map.insert(
                "description",
                if column.description.is_empty() {
                    format!(
                        "Custom resource definition column (in JSONPath format): {}",
                        column.path
                    )
                } else {
                    column.description.to_string()
                },
            );
            map.insert("format", column.format.as_str());
            map.insert("name", column.name.as_str());
            map.insert("priority", column.priority);
            map.insert("type", column.kind.as_str());
            definitions.push(map.into());
            cells.push((column.kind.clone(), path));
        }
        Self { definitions, cells }
    }

    pub(super) fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut row = Vec::with_capacity(self.cells.len() + 1);
        row.push(Value::from(meta::name(object)));
        for (kind, path) in &self.cells {
            row.push(match path.find(object).first() {
                Some(value) => cell(kind, value, now),
                None => Value::Null,
            });
        }
        row
    }
}

fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        (_, Value::Null) => Value::Null,
        ("integer", Value::Int(number)) => (*number).into(),
        // As Go converts: towards zero.
        ("integer", Value::Float(number)) => (number.trunc() as i64).into(),
        ("number", number) => number.as_f64().map_or(Value::Null, Value::from),
        ("boolean", Value::Bool(flag)) => (*flag).into(),
        ("string", Value::String(text)) => text.clone().into(),
        ("string", other) => String::from_utf8_lossy(&machinery::codec::json::to_vec(other))
            .into_owned()
            .into(),
        ("date", Value::String(time)) if time.parse::<Timestamp>().is_ok() => table::since(time, now).into(),
        ("date", Value::String(_)) => "<invalid>".into(),
        _ => Value::Null,
    }
}
