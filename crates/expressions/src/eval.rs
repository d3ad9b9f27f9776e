//! Running a program.
//!
//! Errors travel as CEL says: `&&` and `||` forgive an error on one side when the other decides, and so do the
//! macros made of them.

use crate::compile::{Definition, Memo};
use crate::functions;
use crate::lower::{Each, EachKind, Loop, Node, Optional};
use crate::types::Type;
use crate::value::Val;
use machinery::Value;
use std::sync::Arc;

/// What an evaluation may still cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    left: u64,
}

impl Budget {
    pub const fn new(most: u64) -> Self {
        Self { left: most }
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    pub fn spend(&mut self, cost: u64) -> Result<(), EvalError> {
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(EvalError::Exhausted)
            }
        }
    }
}

/// Why an evaluation has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    #[error("{0}")]
    Failed(String),
    #[error("operation cancelled: actual cost limit exceeded")]
    Exhausted,
}

impl From<String> for EvalError {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

type Outcome<'a> = Result<Val<'a>, EvalError>;

/// One evaluation.
pub(crate) struct Run<'a, 'b> {
    pub slots: Vec<Val<'a>>,
    /// All values there are, for definitions.
    pub given: &'b [Val<'a>],
    pub memo: &'b mut Memo<'a>,
    pub budget: &'b mut Budget,
}

impl<'a> Run<'a, '_> {
    pub(crate) fn node(&mut self, node: &'a Node) -> Outcome<'a> {
        match node {
            Node::Constant(value) => Ok(value.clone()),
            Node::Slot(slot) => {
                self.budget.spend(1)?;
                Ok(self.slots[*slot].clone())
            }
            Node::Select { of, field, test } => {
                let of = self.node(of)?;
                self.budget.spend(1)?;
                self.select(of, field, *test)
            }
            Node::Index(of, index) => {
                let of = self.node(of)?;
                let index = self.node(index)?;
                self.budget.spend(1)?;
                match of {
                    Val::Optional(None) => Ok(Val::Optional(None)),
                    Val::Optional(Some(of)) => Ok(Val::Optional(find(&of, &index).map(Arc::new))),
                    of => find(&of, &index).ok_or_else(|| not_found(&of, &index)),
                }
            }
            Node::OptionalIndex(of, index) => {
                let of = self.node(of)?;
                let index = self.node(index)?;
                self.budget.spend(1)?;
                let found = match &of {
                    Val::Optional(None) => None,
                    Val::Optional(Some(of)) => find(of, &index),
                    of => find(of, &index),
                };
                Ok(Val::Optional(found.map(Arc::new)))
            }
            Node::Not(of) => {
                self.budget.spend(1)?;
                Ok(Val::Bool(!self.flag(of)?))
            }
            Node::NotFalse(of) => {
                self.budget.spend(1)?;
                match self.node(of) {
                    Ok(Val::Bool(flag)) => Ok(Val::Bool(flag)),
                    Err(EvalError::Exhausted) => Err(EvalError::Exhausted),
                    Ok(_) | Err(EvalError::Failed(_)) => Ok(Val::Bool(true)),
                }
            }
            Node::And(a, b) => self.both(a, b, false),
            Node::Or(a, b) => self.both(a, b, true),
            Node::If(condition, yes, no) => {
                let branch = if self.flag(condition)? { yes } else { no };
                self.node(branch)
            }
            Node::Equal(a, b, wanted) => {
                let (a, b) = (self.node(a)?, self.node(b)?);
                let size = weight(&a).min(weight(&b));
                self.budget.spend(functions::traversal(size).max(1))?;
                Ok(Val::Bool(a.equals(&b) == *wanted))
            }
            Node::In(item, of) => {
                let (item, of) = (self.node(item)?, self.node(of)?);
                if let Some(items) = of.items() {
                    self.budget.spend(items.len() as u64)?;
                    return Ok(Val::Bool(items.iter().any(|known| known.equals(&item))));
                }
                self.budget.spend(1)?;
                match &of {
                    Val::Map(_) | Val::Part(Value::Object(_), _) => Ok(Val::Bool(of.get(&item).is_some())),
                    Val::Domains(known) => Ok(Val::Bool(known.iter().any(|(key, _)| key.equals(&item)))),
                    _ => Err(no_overload("@in")),
                }
            }
            Node::Call(candidates, arguments) => {
                let mut values = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    values.push(self.node(argument)?);
                }
                let sizes: Vec<u64> = values.iter().map(|value| value.size().unwrap_or(1)).collect();
                let mut outcome = Err(functions::no_overload());
                for function in candidates {
                    self.budget.spend(function.cost(&sizes))?;
                    outcome = (function.run)(&values);
                    if outcome
                        .as_ref()
                        .err()
                        .is_none_or(|why| *why != functions::no_overload())
                    {
                        break;
                    }
                }
                Ok(outcome?)
            }
            Node::Matches(text, regex) => {
                let text = self.node(text)?;
                let Some(text) = text.as_str() else {
                    return Err(no_overload("matches"));
                };
                let pattern = regex.as_str().len() as u64;
                self.budget
                    .spend(functions::traversal(text.len() as u64 + 1).saturating_mul(pattern.div_ceil(4)))?;
                Ok(Val::Bool(regex.is_match(text)))
            }
            Node::List(items) => {
                self.budget.spend(10)?;
                let mut out = Vec::with_capacity(items.len());
                for (item, optional) in items {
                    match (self.node(item)?, optional) {
                        (Val::Optional(inner), true) => out.extend(inner.map(|v| v.as_ref().clone())),
                        (value, _) => out.push(value),
                    }
                }
                Ok(Val::list(out))
            }
            Node::Map(entries) => {
                self.budget.spend(30)?;
                let mut out = Vec::with_capacity(entries.len());
                for (key, value, optional) in entries {
                    let key = self.node(key)?;
                    match (self.node(value)?, optional) {
                        (Val::Optional(None), true) => {}
                        (Val::Optional(Some(inner)), true) => out.push((key, inner.as_ref().clone())),
                        (value, _) => out.push((key, value)),
                    }
                }
                Ok(Val::Map(Arc::new(out)))
            }
            Node::Definition(at, definition) => self.definition(*at, definition),
            Node::Fail(why) => Err(EvalError::Failed(why.clone())),
            Node::Loop(of) => self.round(of),
            Node::Each(of) => self.each(of),
            Node::Bind {
                value,
                slot,
                body,
                optional,
            } => {
                let value = self.node(value)?;
                let bound = match (value, optional) {
                    (value, Optional::No) => value,
                    (Val::Optional(None), _) => return Ok(Val::Optional(None)),
                    (Val::Optional(Some(inner)), _) => inner.as_ref().clone(),
                    _ => return Err(no_overload("optMap")),
                };
                self.slots.truncate(*slot);
                self.slots.push(bound);
                let result = self.node(body);
                self.slots.truncate(*slot);
                let result = result?;
                Ok(match optional {
                    Optional::Map => Val::Optional(Some(Arc::new(result))),
                    Optional::No | Optional::FlatMap => result,
                })
            }
        }
    }

    /// Evaluates an expression with a name, unless that was done before.
    fn definition(&mut self, at: usize, definition: &'a Definition) -> Outcome<'a> {
        self.budget.spend(1)?;
        if let Some(Some(known)) = self.memo.0.get(at) {
            return known.clone();
        }
        let name = &definition.name;
        let outcome = match &definition.program {
            Ok(program) => program
                .evaluate_with(self.given, self.memo, self.budget)
                .map_err(|error| match error {
                    EvalError::Exhausted => EvalError::Exhausted,
                    EvalError::Failed(why) => {
                        EvalError::Failed(format!("composited variable {name:?} fails to evaluate: {why}"))
                    }
                }),
            Err(why) => Err(EvalError::Failed(format!(
                "composited variable {name:?} fails to compile: {why}"
            ))),
        };
        if self.memo.0.len() <= at {
            self.memo.0.resize(at + 1, None);
        }
        self.memo.0[at] = Some(outcome.clone());
        outcome
    }

    fn select(&mut self, of: Val<'a>, field: &str, test: bool) -> Outcome<'a> {
        let inner = match &of {
            Val::Optional(None) if test => return Ok(Val::Bool(false)),
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => inner.as_ref(),
            of => of,
        };
        let key = Val::text(field);
        let found = match inner {
            Val::Map(_) | Val::Domains(_) | Val::Part(Value::Object(_), _) => inner.get(&key),
            _ => return Err(no_overload(field)),
        };
        if test {
            // A field that is null is there in a map, and not in an object.
            let null = matches!((&found, inner), (Some(Val::Null), Val::Part(_, Type::Object(_))));
            return Ok(Val::Bool(found.is_some() && !null));
        }
        if matches!(of, Val::Optional(_)) {
            return Ok(Val::Optional(found.map(Arc::new)));
        }
        found.ok_or_else(|| EvalError::Failed(format!("no such key: {field}")))
    }

    fn flag(&mut self, node: &'a Node) -> Result<bool, EvalError> {
        self.node(node)?
            .as_bool()
            .ok_or_else(|| EvalError::Failed("no such overload".to_owned()))
    }

    /// `decides` is the value of one side that makes the other one unimportant.
    fn both(&mut self, a: &'a Node, b: &'a Node, decides: bool) -> Outcome<'a> {
        let first = self.flag(a);
        match first {
            Err(EvalError::Exhausted) => return Err(EvalError::Exhausted),
            Ok(value) if value == decides => return Ok(Val::Bool(decides)),
            _ => {}
        }
        let second = self.flag(b)?;
        if second == decides {
            return Ok(Val::Bool(decides));
        }
        first.map(|_| Val::Bool(second))
    }

    fn round(&mut self, of: &'a Loop) -> Outcome<'a> {
        let range = self.node(&of.range)?;
        let items = match range.items() {
            Some(items) => items,
            None => match range.entries() {
                Some(entries) => entries.into_iter().map(|(key, _)| key).collect(),
                None => return Err(no_overload("comprehension")),
            },
        };
        let mut accumulated = self.node(&of.start)?;
        for item in items {
            self.slots.truncate(of.item);
            self.slots.push(item);
            self.slots.push(accumulated.clone());
            if !self.flag(&of.condition)? {
                break;
            }
            // A failed round is an answer like any other: the next one may decide.
            accumulated = match self.node(&of.step) {
                Ok(value) => value,
                Err(error) => return self.fail_softly(of, error),
            };
        }
        self.slots.truncate(of.item);
        self.slots.push(Val::Null);
        self.slots.push(accumulated);
        let result = self.node(&of.result);
        self.slots.truncate(of.item);
        result
    }

    /// After a round failed, only a later round that decides (`exists` found, `all` refuted) gives a result.
    fn fail_softly(&mut self, of: &'a Loop, error: EvalError) -> Outcome<'a> {
        if error == EvalError::Exhausted {
            return Err(error);
        }
        let (decides, body) = match &of.step {
            Node::Or(_, body) => (true, body),
            Node::And(_, body) => (false, body),
            _ => return Err(error),
        };
        let range = self.node(&of.range)?;
        let items = match range.items() {
            Some(items) => items,
            None => range
                .entries()
                .unwrap_or_default()
                .into_iter()
                .map(|(key, _)| key)
                .collect(),
        };
        for item in items {
            self.slots.truncate(of.item);
            self.slots.push(item);
            self.slots.push(Val::Bool(!decides));
            match self.flag(body) {
                Ok(value) if value == decides => {
                    self.slots.truncate(of.item);
                    return Ok(Val::Bool(decides));
                }
                Err(EvalError::Exhausted) => return Err(EvalError::Exhausted),
                _ => {}
            }
        }
        self.slots.truncate(of.item);
        Err(error)
    }

    fn each(&mut self, of: &'a Each) -> Outcome<'a> {
        let range = self.node(&of.range)?;
        let entries: Vec<(Val<'a>, Val<'a>)> = match range.items() {
            Some(items) => (0..).map(Val::Int).zip(items).collect(),
            None => range.entries().ok_or_else(|| no_overload("comprehension"))?,
        };
        let (mut list, mut map, mut count, mut failed) = (Vec::new(), Vec::new(), 0, None);
        for (key, value) in entries {
            self.slots.truncate(of.key);
            self.slots.push(key.clone());
            self.slots.push(value);
            self.budget.spend(1)?;
            if let Some(filter) = &of.filter
                && !self.flag(filter)?
            {
                continue;
            }
            match of.kind {
                EachKind::All | EachKind::Exists => {
                    let decides = of.kind == EachKind::Exists;
                    match self.flag(&of.body) {
                        Ok(value) if value == decides => {
                            self.slots.truncate(of.key);
                            return Ok(Val::Bool(decides));
                        }
                        Ok(_) => {}
                        Err(EvalError::Exhausted) => return Err(EvalError::Exhausted),
                        Err(error) => failed = Some(error),
                    }
                }
                EachKind::ExistsOne => count += u32::from(self.flag(&of.body)?),
                EachKind::TransformList => list.push(self.node(&of.body)?),
                EachKind::TransformMap => map.push((key, self.node(&of.body)?)),
                EachKind::TransformMapEntry => {
                    for (key, value) in self.node(&of.body)?.entries().unwrap_or_default() {
                        if map.iter().any(|(known, _): &(Val<'_>, _)| known.equals(&key)) {
                            let shown = functions::strings::display(&key);
                            return Err(EvalError::Failed(format!(
                                "insert failed: key {shown} already exists"
                            )));
                        }
                        map.push((key, value));
                    }
                }
            }
        }
        self.slots.truncate(of.key);
        if let Some(error) = failed {
            return Err(error);
        }
        Ok(match of.kind {
            EachKind::All => Val::Bool(true),
            EachKind::Exists => Val::Bool(false),
            EachKind::ExistsOne => Val::Bool(count == 1),
            EachKind::TransformList => Val::list(list),
            EachKind::TransformMap | EachKind::TransformMapEntry => Val::Map(Arc::new(map)),
        })
    }
}

fn find<'a>(of: &Val<'a>, index: &Val<'_>) -> Option<Val<'a>> {
    match (of, index) {
        (Val::List(_) | Val::Part(Value::Array(_), _), Val::Int(index)) => of.at(*index),
        (Val::List(_) | Val::Part(Value::Array(_), _), Val::Uint(index)) => {
            of.at(i64::try_from(*index).ok()?)
        }
        (Val::List(_) | Val::Part(Value::Array(_), _), Val::Double(index)) if index.fract() == 0.0 => {
            of.at(*index as i64)
        }
        _ => of.get(index),
    }
}

fn not_found(of: &Val<'_>, index: &Val<'_>) -> EvalError {
    let shown = functions::strings::display(index);
    EvalError::Failed(match of {
        Val::List(_) | Val::Part(Value::Array(_), _) => format!("index out of bounds: {shown}"),
        Val::Map(_) | Val::Part(..) => format!("no such key: {shown}"),
        _ => "no such overload".to_owned(),
    })
}

fn no_overload(name: &str) -> EvalError {
    EvalError::Failed(format!("no such overload: {name}"))
}

/// How much there is to compare.
fn weight(value: &Val<'_>) -> u64 {
    value.size().unwrap_or(1)
}
