//! What the cells of tables are made of: ages, names of containers, labels and selectors in upstream's short forms.

use crate::fields::{entries, list, text, text_at, texts};
use jiff::{SignedDuration, Timestamp};
use machinery::{Key, Value, meta};

pub const NONE: &str = "<none>";
pub const UNSET: &str = "<unset>";
pub const UNKNOWN: &str = "<unknown>";

/// The object's name.
pub fn name(object: &Value) -> Value {
    meta::name(object).into()
}

/// How long ago the object was made.
pub fn age(object: &Value, now: Timestamp) -> Value {
    since(meta::creation_timestamp(object), now).into()
}

/// How long ago a time was.
pub fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => human(now.duration_since(time)),
        Err(_) => UNKNOWN.to_owned(),
    }
}

/// A text, or what stands for none.
pub fn or(text: &str, otherwise: &'static str) -> Value {
    if text.is_empty() {
        otherwise.into()
    } else {
        text.into()
    }
}

/// A number of the object; zero when absent.
pub fn number(object: &Value, path: &[&str]) -> Value {
    object.get_path(path).and_then(Value::as_i64).unwrap_or(0).into()
}

/// A text of the object.
pub fn word(object: &Value, path: &[&str]) -> Value {
    text_at(object, path).into()
}

/// A flag of the object.
pub fn flag(object: &Value, path: &[&str]) -> Value {
    object
        .get_path(path)
        .and_then(Value::as_bool)
        .unwrap_or(false)
        .into()
}

/// A duration in two or three significant figures.
pub fn human(duration: SignedDuration) -> String {
    // A little of the future is forgiven: clocks differ.
    let seconds = duration.as_secs();
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let pair = |whole: i64, unit: &str, part: i64, small: &str| {
        if part == 0 {
            format!("{whole}{unit}")
        } else {
            format!("{whole}{unit}{part}{small}")
        }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        pair(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        pair(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        pair(hours / 24, "d", hours % 24, "h")
    } else if hours < 24 * 365 * 2 {
        format!("{}d", hours / 24)
    } else if hours < 24 * 365 * 8 {
        pair(hours / 24 / 365, "y", hours / 24 % 365, "d")
    } else {
        format!("{}y", hours / 24 / 365)
    }
}

/// The names and the images of the containers of a pod's spec.
pub fn containers(spec: Option<&Value>) -> [Value; 2] {
    let containers = spec.map(|spec| list(spec, "containers")).unwrap_or_default();
    ["name", "image"].map(|field| join(containers.iter().map(|container| text(container, field)), ",").into())
}

/// The names and the images of the containers of an object's template.
pub fn template_containers(object: &Value) -> [Value; 2] {
    containers(object.get_path(&["spec", "template", "spec"]))
}

/// Texts one after the other.
pub fn join<'a>(texts: impl Iterator<Item = &'a str>, separator: &str) -> String {
    let mut out = String::new();
    for (at, text) in texts.enumerate() {
        if at > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
    }
    out
}

/// Labels as `a=b,c=d`.
pub fn labels(labels: &[(Key, Value)]) -> Value {
    if labels.is_empty() {
        return NONE.into();
    }
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.join(",").into()
}

/// A label selector in the form of a command line.
pub fn selector(selector: Option<&Value>) -> Value {
    let text = selector_text(selector);
    if text.is_empty() { NONE.into() } else { text.into() }
}

/// A label selector in the form of a command line; empty when it has no requirement.
pub fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else {
        return String::new();
    };
    let mut requirements: Vec<(&str, String)> = entries(selector, "matchLabels")
        .iter()
        .map(|(key, value)| {
            (
                key.as_str(),
                format!("{key}={}", value.as_str().unwrap_or_default()),
            )
        })
        .collect();
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key");
        let mut values: Vec<&str> = texts(expression, "values").collect();
        values.sort_unstable();
        let values = values.join(",");
        let requirement = match text(expression, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        requirements.push((key, requirement));
    }
    requirements.sort_by_key(|(key, _)| *key);
    join(
        requirements.iter().map(|(_, requirement)| requirement.as_str()),
        ",",
    )
}

/// The first three of a list, and how many more there are.
pub fn first_three(items: impl Iterator<Item = String>) -> String {
    let mut items = items.peekable();
    let shown: Vec<String> = items.by_ref().take(3).collect();
    match items.count() {
        0 if shown.is_empty() => UNSET.to_owned(),
        0 => shown.join(","),
        more => format!("{} + {more} more...", shown.join(",")),
    }
}

/// Whether a condition of the status holds.
pub fn condition(object: &Value, kind: &str) -> Option<bool> {
    let conditions = object
        .get("status")
        .map(|status| list(status, "conditions"))
        .unwrap_or_default();
    let found = conditions
        .iter()
        .find(|condition| text(condition, "type") == kind)?;
    Some(text(found, "status") == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, want) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (49 * 3600, "2d1h"),
            (8 * 86_400, "8d"),
            (729 * 86_400, "729d"),
            (730 * 86_400, "2y"),
            (740 * 86_400, "2y10d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(human(SignedDuration::from_secs(seconds)), want, "{seconds}");
        }
    }
}
