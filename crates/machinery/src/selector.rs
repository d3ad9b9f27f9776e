//! Label and field selectors: parsed once, asked often.

use crate::field::quote;
use crate::names;
use crate::value::{Map, Value};
use std::fmt;

/// What a label must be for one requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted; one of them for the comparisons, none for existence.
    pub values: Vec<String>,
}

/// Conditions that must all hold. No condition selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
    /// Selects nothing at all: what upstream makes of an absent `LabelSelector` object.
    nothing: bool,
}

/// Why a selector cannot be read, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

impl LabelSelector {
    pub fn everything() -> Self {
        Self::default()
    }

    pub fn nothing() -> Self {
        Self {
            requirements: Vec::new(),
            nothing: true,
        }
    }

    /// Reads the form of URLs and `kubectl -l`: `a=b,c in (d,e),!f,g>1`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Tokens::new(text).requirements()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// Reads a metav1 `LabelSelector` object; absent selects nothing, empty everything.
    pub fn from_object(selector: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(selector) = selector.filter(|value| !value.is_null()) else {
            return Ok(Self::nothing());
        };
        let mut requirements = Vec::new();
        for (key, value) in selector
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            requirements.push(requirement(
                key,
                Operator::In,
                vec![value.as_str().unwrap_or("").to_owned()],
            )?);
        }
        for expression in selector
            .get("matchExpressions")
            .and_then(Value::as_array)
            .unwrap_or_default()
        {
            let field = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or("");
            let operator = match field("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!(
                        "{} is not a valid label selector operator",
                        quote(other)
                    )));
                }
            };
            let values = expression
                .get("values")
                .and_then(Value::as_array)
                .unwrap_or_default();
            let values = values
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            requirements.push(requirement(field("key"), operator, values)?);
        }
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// Reads a plain map of labels that must all be equal, as Services and ReplicationControllers have it.
    pub fn from_map(labels: &Map) -> Self {
        let requirements = labels
            .iter()
            .map(|(key, value)| Requirement {
                key: key.to_string(),
                operator: Operator::In,
                values: vec![value.as_str().unwrap_or("").to_owned()],
            })
            .collect();
        Self {
            requirements,
            nothing: false,
        }
    }

    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether labels, looked up one by one, satisfy every requirement.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self
                .requirements
                .iter()
                .all(|requirement| requirement.matches(label(&requirement.key)))
    }

    /// Whether an object's labels satisfy every requirement.
    pub fn matches(&self, labels: Option<&Map>) -> bool {
        self.matches_with(|key| labels?.get(key)?.as_str())
    }
}

impl Requirement {
    fn matches(&self, label: Option<&str>) -> bool {
        let among = |label: &str| self.values.iter().any(|value| value == label);
        let compare = |test: fn(i64, i64) -> bool| {
            let bound = self.values.first().and_then(|value| value.parse().ok());
            match (label.and_then(|label| label.parse().ok()), bound) {
                (Some(label), Some(bound)) => test(label, bound),
                _ => false,
            }
        };
        match self.operator {
            Operator::In => label.is_some_and(among),
            Operator::NotIn => !label.is_some_and(among),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => compare(|label, bound| label > bound),
            Operator::LessThan => compare(|label, bound| label < bound),
        }
    }
}

fn requirement(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Requirement, SelectorError> {
    let mut wrong: Vec<String> = names::qualified_name(key)
        .into_iter()
        .map(|message| format!("key: Invalid value: {}: {message}", quote(key)))
        .collect();
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            wrong.push(
                "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                    .to_owned(),
            );
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => wrong.push(format!(
            "values: Invalid value: {}: values set must be empty for exists and does not exist",
            list(&values)
        )),
        Operator::GreaterThan | Operator::LessThan if values.len() != 1 => wrong.push(format!(
            "values: Invalid value: {}: for 'Gt', 'Lt' operators, exactly one value is required",
            list(&values)
        )),
        Operator::GreaterThan | Operator::LessThan if values[0].parse::<i64>().is_err() => {
            wrong.push(format!(
                "values[0]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
                quote(&values[0])
            ))
        }
        _ => {}
    }
    for (index, value) in values.iter().enumerate() {
        for message in names::label_value(value) {
            wrong.push(format!(
                "values[{index}][{key}]: Invalid value: {}: {message}",
                quote(value)
            ));
        }
    }
    match wrong.as_slice() {
        [] => {
            values.sort();
            values.dedup();
            Ok(Requirement {
                key: key.to_owned(),
                operator,
                values,
            })
        }
        [one] => Err(SelectorError(one.clone())),
        many => Err(SelectorError(format!("[{}]", many.join(", ")))),
    }
}

fn list(values: &[String]) -> String {
    format!(
        "[{}]",
        values
            .iter()
            .map(|value| quote(value))
            .collect::<Vec<_>>()
            .join(",")
    )
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Symbol(symbol) => symbol,
            Self::End => "",
        }
    }
}

struct Tokens<'a> {
    rest: &'a str,
    next: Option<Token>,
}

impl<'a> Tokens<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            next: None,
        }
    }

    fn peek(&mut self) -> &Token {
        if self.next.is_none() {
            self.next = Some(self.read());
        }
        self.next.as_ref().unwrap_or(&Token::End)
    }

    fn take(&mut self) -> Token {
        match self.next.take() {
            Some(token) => token,
            None => self.read(),
        }
    }

    fn read(&mut self) -> Token {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        for symbol in ["==", "!=", "=", "!", ",", "(", ")", ">", "<"] {
            if let Some(rest) = self.rest.strip_prefix(symbol) {
                self.rest = rest;
                return Token::Symbol(symbol);
            }
        }
        let end = self
            .rest
            .find([' ', '\t', '\r', '\n', '=', '!', ',', '(', ')', '>', '<'])
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.is_empty() {
            Token::End
        } else {
            Token::Word(word.to_owned())
        }
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                Token::Word(_) | Token::Symbol("!") => requirements.push(self.requirement()?),
                other => {
                    let found = other.text().to_owned();
                    return Err(SelectorError(format!(
                        "found '{found}', expected: !, identifier, or 'end of string'"
                    )));
                }
            }
            match self.take() {
                Token::End => return Ok(requirements),
                Token::Symbol(",") => {
                    if !matches!(self.peek(), Token::Word(_) | Token::Symbol("!")) {
                        let found = self.take();
                        return Err(SelectorError(format!(
                            "found '{}', expected: identifier after ','",
                            found.text()
                        )));
                    }
                }
                other => {
                    return Err(SelectorError(format!(
                        "found '{}', expected: ',' or 'end of string'",
                        other.text()
                    )));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let negated = *self.peek() == Token::Symbol("!");
        if negated {
            self.take();
        }
        let key = match self.take() {
            Token::Word(word) => word,
            other => {
                return Err(SelectorError(format!(
                    "found '{}', expected: identifier",
                    other.text()
                )));
            }
        };
        if negated {
            return requirement(&key, Operator::DoesNotExist, Vec::new());
        }
        match self.peek().clone() {
            Token::End | Token::Symbol(",") => requirement(&key, Operator::Exists, Vec::new()),
            Token::Symbol("=" | "==") => self.exact(&key, Operator::In),
            Token::Symbol("!=") => self.exact(&key, Operator::NotIn),
            Token::Symbol(">") => self.exact(&key, Operator::GreaterThan),
            Token::Symbol("<") => self.exact(&key, Operator::LessThan),
            Token::Word(word) if word == "in" => self.set(&key, Operator::In),
            Token::Word(word) if word == "notin" => self.set(&key, Operator::NotIn),
            other => Err(SelectorError(format!(
                "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                other.text()
            ))),
        }
    }

    fn exact(&mut self, key: &str, operator: Operator) -> Result<Requirement, SelectorError> {
        self.take();
        let value = match self.peek() {
            Token::End | Token::Symbol(",") => String::new(),
            Token::Word(_) => self.take().text().to_owned(),
            other => {
                return Err(SelectorError(format!(
                    "found '{}', expected: identifier",
                    other.text()
                )));
            }
        };
        requirement(key, operator, vec![value])
    }

    fn set(&mut self, key: &str, operator: Operator) -> Result<Requirement, SelectorError> {
        self.take();
        if self.take() != Token::Symbol("(") {
            return Err(SelectorError("found '', expected: '('".to_owned()));
        }
        let mut values = Vec::new();
        let mut value = String::new();
        loop {
            match self.take() {
                Token::Word(word) => value = word,
                Token::Symbol(",") => values.push(std::mem::take(&mut value)),
                Token::Symbol(")") => {
                    values.push(value);
                    return requirement(key, operator, values);
                }
                other => {
                    return Err(SelectorError(format!(
                        "found '{}', expected: ',', ')' or identifier",
                        other.text()
                    )));
                }
            }
        }
    }
}

/// One field that must, or must not, be equal to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: String,
    pub equal: bool,
    pub value: String,
}

/// Conditions on fields that must all hold: `status.phase!=Running,spec.nodeName=n1`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let (field, equal, value) = ["!=", "==", "="]
                .iter()
                .filter_map(|operator| term.find(operator).map(|at| (at, *operator)))
                .min_by_key(|(at, operator)| (*at, std::cmp::Reverse(operator.len())))
                .map(|(at, operator)| (&term[..at], operator != "!=", &term[at + operator.len()..]))
                .ok_or_else(|| {
                    SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'"))
                })?;
            requirements.push(FieldRequirement {
                field: field.to_owned(),
                equal,
                value: unescape(value)?,
            });
        }
        Ok(Self { requirements })
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value a field must be equal to, when there is such a requirement.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.equal && r.field == field)
            .map(|r| r.value.as_str())
    }

    /// Whether fields, looked up one by one (absent is empty), satisfy every requirement.
    pub fn matches_with<'a>(&self, field: impl Fn(&str) -> &'a str) -> bool {
        self.requirements
            .iter()
            .all(|r| (field(&r.field) == r.value) == r.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, r) in self.requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(
                f,
                "{comma}{}{}{}",
                r.field,
                if r.equal { "=" } else { "!=" },
                escaped(&r.value)
            )?;
        }
        Ok(())
    }
}

/// A value as [`unescape`] reads it.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut terms, mut from, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[from..]);
    terms
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                _ => {
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence in value: {value}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {value}: '{c}'"
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Map {
        pairs.iter().copied().collect()
    }

    #[test]
    fn label_selectors_select() {
        let of = labels(&[("a", "b"), ("n", "5")]);
        for (selector, want) in [
            ("", true),
            ("a=b", true),
            ("a==b,n", true),
            ("a!=b", false),
            ("a in (x, b)", true),
            ("a notin (x,y)", true),
            ("c notin (x)", true),
            ("!a", false),
            ("!c", true),
            ("n>4", true),
            ("n<5", false),
            ("x=", false),
            ("a in ()", false),
        ] {
            let parsed = LabelSelector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
            assert_eq!(parsed.matches(Some(&of)), want, "{selector}");
        }
        for bad in ["a in b", "a in (b", "a=b c", ",a", "a,", "n>x", "-a=b", "a=%"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn absent_selects_nothing_and_empty_everything() {
        assert!(!LabelSelector::from_object(None).unwrap().matches(None));
        assert!(
            LabelSelector::from_object(Some(&Value::object()))
                .unwrap()
                .matches(None)
        );
    }

    #[test]
    fn field_selectors_select() {
        let selector = FieldSelector::parse(r"status.phase!=Failed,metadata.name=a\,b").unwrap();
        assert_eq!(selector.exact("metadata.name"), Some("a,b"));
        assert!(selector.matches_with(|field| if field == "metadata.name" {
            "a,b"
        } else {
            "Running"
        }));
        assert!(!selector.matches_with(|_| "Failed"));
        assert!(FieldSelector::parse("nonsense").is_err());
    }
}
