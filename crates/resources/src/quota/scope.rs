//! The scopes of a quota: which objects it speaks of.

use machinery::Value;

/// One scope, as a selector over one made-up label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope<'a> {
    pub name: &'a str,
    pub operator: &'a str,
    pub values: Vec<&'a str>,
}

impl Scope<'_> {
    /// Whether an object with these values of the scope's label is selected.
    pub fn selects(&self, values: &[&str]) -> bool {
        let among = || values.iter().any(|value| self.values.contains(value));
        match self.operator {
            "In" => among(),
            "NotIn" => values.is_empty() || values.iter().any(|value| !self.values.contains(value)),
            "Exists" => !values.is_empty(),
            "DoesNotExist" => values.is_empty(),
            _ => false,
        }
    }
}

/// The scopes a quota has, both ways of writing them.
pub fn scopes(quota: &Value) -> Vec<Scope<'_>> {
    let list = |path: &[&str]| quota.get_path(path).and_then(Value::as_array).unwrap_or_default();
    let plain = list(&["spec", "scopes"])
        .iter()
        .filter_map(Value::as_str)
        .map(|name| Scope {
            name,
            operator: "Exists",
            values: Vec::new(),
        });
    let selected = list(&["spec", "scopeSelector", "matchExpressions"])
        .iter()
        .map(|expression| {
            let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default();
            let values = expression
                .get("values")
                .and_then(Value::as_array)
                .unwrap_or_default();
            Scope {
                name: text("scopeName"),
                operator: text("operator"),
                values: values.iter().filter_map(Value::as_str).collect(),
            }
        });
    plain.chain(selected).collect()
}
