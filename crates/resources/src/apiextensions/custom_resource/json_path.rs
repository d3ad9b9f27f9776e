//! The part of kubectl's JSONPath that definitions use for columns and selectable fields:
//! `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`, `.items[0]`, `.metadata.labels['a/b']`.

use machinery::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// Negative: from the end.
    Index(i64),
    All,
    Filter(Filter),
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    path: JsonPath,
    /// Without one the path must lead somewhere.
    test: Option<(Operator, Value)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl JsonPath {
    /// Reads a path without the braces around it; `None` for what is not understood.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim();
        let mut steps = Vec::new();
        rest = rest.strip_prefix('$').unwrap_or(rest);
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                if after.starts_with('[') || (after.is_empty() && steps.is_empty()) {
                    rest = after;
                    continue;
                }
                let (name, next) = field_name(after);
                if name.is_empty() {
                    return None;
                }
                steps.push(if name == "*" { Step::All } else { Step::Field(name) });
                rest = next;
            } else {
                let end = closing(rest)?;
                steps.push(bracket(rest.strip_prefix('[')?.get(..end - 1)?.trim())?);
                rest = &rest[end + 1..];
            }
        }
        Some(Self { steps })
    }

    /// Everything the path leads to.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.steps {
            let mut next = Vec::new();
            for value in found {
                step.follow(value, &mut next);
            }
            found = next;
        }
        found
    }
}

impl Step {
    fn follow<'a>(&self, value: &'a Value, out: &mut Vec<&'a Value>) {
        match (self, value) {
            (Self::Field(name), value) => out.extend(value.get(name)),
            (Self::Index(at), Value::Array(items)) => {
                let at = if *at < 0 { *at + items.len() as i64 } else { *at };
                out.extend(usize::try_from(at).ok().and_then(|at| items.get(at)));
            }
            (Self::All, Value::Array(items)) => out.extend(items),
            (Self::All, Value::Object(map)) => out.extend(map.values()),
            (Self::Filter(filter), Value::Array(items)) => {
                out.extend(items.iter().filter(|item| filter.holds(item)));
            }
            _ => {}
        }
    }
}

impl Filter {
    fn holds(&self, item: &Value) -> bool {
        let found = self.path.find(item);
        let Some(value) = found.first() else { return false };
        let Some((operator, wanted)) = &self.test else {
            return true;
        };
        let order = match (value, wanted) {
            (Value::String(a), Value::String(b)) => Some(a.as_str().cmp(b.as_str())),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (a, b) => match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) => a.partial_cmp(&b),
                _ => None,
            },
        };
        let Some(order) = order else {
            return *operator == Operator::NotEqual;
        };
        match operator {
            Operator::Equal => order.is_eq(),
            Operator::NotEqual => order.is_ne(),
            Operator::Less => order.is_lt(),
            Operator::LessOrEqual => order.is_le(),
            Operator::Greater => order.is_gt(),
            Operator::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// A name up to the next dot or bracket; a backslash takes the next character as it is.
fn field_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            c => name.push(c),
        }
    }
    (name, "")
}

/// Where the bracket at the start closes.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            (None, _) => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Option<Step> {
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(name) = quoted(inner) {
        return Some(Step::Field(name));
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        return parse_filter(filter.trim()).map(Step::Filter);
    }
    inner.parse().ok().map(Step::Index)
}

fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner.replace("\\", ""))
}

fn parse_filter(text: &str) -> Option<Filter> {
    let path = |text: &str| JsonPath::parse(text.trim().strip_prefix('@')?);
    for (sign, operator) in OPERATORS {
        if let Some((left, right)) = text.split_once(sign) {
            let right = right.trim();
            let wanted = match quoted(right) {
                Some(text) => Value::from(text),
                None => machinery::codec::json::decode_any(right.as_bytes()).ok()?.value,
            };
            return Some(Filter {
                path: path(left)?,
                test: Some((operator, wanted)),
            });
        }
    }
    Some(Filter {
        path: path(text)?,
        test: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::codec::json;

    #[test]
    fn paths_lead_where_kubectl_goes() {
        let object = json::decode_any(
            br#"{"spec":{"n":3,"a.b":1},"status":{"conditions":[{"type":"A","status":"False"},{"type":"Ready","status":"True"}]},
                "metadata":{"labels":{"x/y":"z"}}}"#,
        )
        .unwrap()
        .value;
        for (path, want) in [
            (".spec.n", "[3]"),
            (".spec.a\\.b", "[1]"),
            (".status.conditions[?(@.type==\"Ready\")].status", "[\"True\"]"),
            (".status.conditions[?(@.type=='A')].status", "[\"False\"]"),
            (".status.conditions[*].type", "[\"A\",\"Ready\"]"),
            (".status.conditions[-1].type", "[\"Ready\"]"),
            (".metadata.labels['x/y']", "[\"z\"]"),
            (".spec.missing.deep", "[]"),
        ] {
            let found: Vec<Value> = JsonPath::parse(path)
                .unwrap_or_else(|| panic!("{path}"))
                .find(&object)
                .into_iter()
                .cloned()
                .collect();
            assert_eq!(
                String::from_utf8(json::to_vec(&found.into())).unwrap(),
                want,
                "{path}"
            );
        }
        assert_eq!(JsonPath::parse(".a["), None);
        assert_eq!(JsonPath::parse("a"), None);
    }
}
