//! Usage as `NodeMetrics` and `PodMetrics`, in lists and tables, as a metrics server writes them.

use super::readings::Usage;
use super::{GROUP, VERSION};
use crate::object;
use crate::request::{Output, Shape};
use crate::respond;
use http::{Response, StatusCode};
use jiff::SignedDuration;
use machinery::codec::scalar::format_time;
use machinery::quantity::{Format, Quantity};
use machinery::{Map, Value};
use wire::body::Body;

/// An object, and what of it stands in a table.
pub(super) struct Item {
    object: Value,
    usage: Usage,
}

pub(super) fn node(node: &Value, used: &Usage) -> Item {
    let mut object = object_of(node, used);
    object.set_path(&["usage"], usage(used));
    Item { object, usage: *used }
}

/// A pod is told of as of its earliest container; the window is the longest.
pub(super) fn pod(pod: &Value, containers: &[(String, Usage)]) -> Item {
    let sum = |of: fn(&Usage) -> u64| {
        containers
            .iter()
            .fold(0, |sum: u64, (_, u)| sum.saturating_add(of(u)))
    };
    let used = containers.iter().map(|(_, u)| *u);
    let total = Usage {
        at: used.clone().map(|u| u.at).min().unwrap_or_default(),
        window: used.map(|u| u.window).max().unwrap_or_default(),
        cpu: sum(|u| u.cpu),
        memory: sum(|u| u.memory),
    };
    let mut object = object_of(pod, &total);
    let containers = containers.iter().map(|(name, used)| {
        let mut container = Map::new();
        container.insert("name", name.as_str());
        container.insert("usage", usage(used));
        Value::from(container)
    });
    object.set_path(&["containers"], containers.collect::<Vec<_>>());
    Item { object, usage: total }
}

fn object_of(subject: &Value, used: &Usage) -> Value {
    let mut metadata = Map::new();
    for key in ["name", "namespace", "labels"] {
        if let Some(value) = subject.get_path(&["metadata", key]) {
            metadata.insert(key, value.clone());
        }
    }
    metadata.insert("creationTimestamp", format_time(used.at));
    let mut object = Value::object();
    object.set_path(&["metadata"], metadata);
    object.set_path(&["timestamp"], format_time(used.at));
    object.set_path(&["window"], go_duration(used.window));
    object
}

fn usage(used: &Usage) -> Map {
    let mut map = Map::new();
    map.insert("cpu", format!("{}n", used.cpu));
    map.insert("memory", memory(used.memory));
    map
}

fn memory(bytes: u64) -> String {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    Quantity::from_units(bytes, Format::BinarySi).to_string()
}

/// As Go writes durations of seconds and minutes: `15.2s`, `1m0s`.
fn go_duration(window: SignedDuration) -> String {
    let millis = window.as_millis().max(0);
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let mut seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    let kept = seconds.trim_end_matches('0').trim_end_matches('.').len();
    seconds.truncate(kept);
    if minutes > 0 {
        format!("{minutes}m{seconds}s")
    } else {
        format!("{seconds}s")
    }
}

fn api_version() -> String {
    format!("{GROUP}/{VERSION}")
}

pub(super) fn one(output: &Output, kind: &str, item: Item) -> Response<Body> {
    let value = match output.shape {
        Shape::Object => of_kind(item.object, kind),
        Shape::Partial(version) => object::partial(item.object, version),
        Shape::Table(_) => table(output, vec![item]),
    };
    respond::value(StatusCode::OK, output, &value)
}

pub(super) fn list(output: &Output, kind: &str, items: Vec<Item>) -> Response<Body> {
    let mut value = Value::object();
    let items = match output.shape {
        Shape::Table(_) => {
            let table = table(output, items);
            return respond::value(StatusCode::OK, output, &table);
        }
        Shape::Object => {
            object::set_kind(&mut value, &api_version(), &format!("{kind}List"));
            items.into_iter().map(|item| item.object).collect::<Vec<_>>()
        }
        Shape::Partial(version) => {
            object::set_kind(&mut value, version.api_version(), "PartialObjectMetadataList");
            items
                .into_iter()
                .map(|item| object::partial(item.object, version))
                .collect()
        }
    };
    value.set_path(&["metadata"], Map::new());
    value.set_path(&["items"], items);
    respond::value(StatusCode::OK, output, &value)
}

fn of_kind(mut object: Value, kind: &str) -> Value {
    object::set_kind(&mut object, &api_version(), kind);
    object
}

fn table(output: &Output, items: Vec<Item>) -> Value {
    let Shape::Table(version) = output.shape else {
        return Value::Null;
    };
    let column = |name: &str, kind: &str, format: &str| {
        let mut column = Map::new();
        column.insert("name", name);
        column.insert("type", kind);
        column.insert("format", format);
        column.insert("description", "");
        column.insert("priority", 0);
        Value::from(column)
    };
    let rows = items.into_iter().map(|Item { object, usage }| {
        let name = object.get_str_path(&["metadata", "name"]).unwrap_or_default();
        let cells: Vec<Value> = vec![
            Value::from(name),
            Value::from(format!("{}n", usage.cpu)),
            Value::from(memory(usage.memory)),
            Value::from(go_duration(usage.window)),
        ];
        let mut row = Map::new();
        row.insert("cells", cells);
        row.insert("object", object::partial(object, version));
        Value::from(row)
    });
    let rows: Vec<Value> = rows.collect();
    let mut table = Value::object();
    object::set_kind(&mut table, version.api_version(), "Table");
    table.set_path(&["metadata"], Map::new());
    table.set_path(
        &["columnDefinitions"],
        vec![
            column("Name", "string", "name"),
            column("cpu", "string", ""),
            column("memory", "string", ""),
            column("Window", "string", ""),
        ],
    );
    table.set_path(&["rows"], rows);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let check = |millis: i64, expected: &str| {
            assert_eq!(go_duration(SignedDuration::from_millis(millis)), expected);
        };
        check(15_000, "15s");
        check(15_230, "15.23s");
        check(1_003, "1.003s");
        check(60_000, "1m0s");
        check(75_500, "1m15.5s");
    }

    #[test]
    fn a_pod_is_the_sum_of_its_containers() {
        let object = machinery::codec::json::decode_any(
            br#"{"metadata":{"name":"p","namespace":"n","labels":{"a":"b"}}}"#,
        )
        .expect("pod")
        .value;
        let used = |at: i64, cpu: u64| Usage {
            at: jiff::Timestamp::from_second(at).expect("time"),
            window: SignedDuration::from_secs(at),
            cpu,
            memory: 2048 * 1024,
        };
        let item = pod(
            &object,
            &[("a".to_owned(), used(20, 5)), ("b".to_owned(), used(15, 7))],
        );
        assert_eq!((item.usage.cpu, item.usage.memory), (12, 4096 * 1024));
        let text = |path: &[&str]| item.object.get_str_path(path).map(str::to_owned);
        assert_eq!(text(&["timestamp"]).as_deref(), Some("1970-01-01T00:00:15Z"));
        assert_eq!(text(&["window"]).as_deref(), Some("20s"));
        assert_eq!(text(&["metadata", "labels", "a"]).as_deref(), Some("b"));
        let containers = item
            .object
            .get("containers")
            .and_then(Value::as_array)
            .expect("containers");
        assert_eq!(containers[0].get_str_path(&["usage", "cpu"]), Some("5n"));
        assert_eq!(containers[0].get_str_path(&["usage", "memory"]), Some("2Mi"));
    }
}
