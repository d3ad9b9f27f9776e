//! From a syntax tree to a typed program: names become slots, calls become functions, and every part has a type
//! and a cost. Findings are told as cel-go tells them.

mod names;

use crate::compile::{Definition, Environment};
use crate::functions::{self, Function};
use crate::types::{Type, UNBOUNDED};
use crate::value::Val;
use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use compact_str::CompactString;
use regex::Regex;
use std::sync::Arc;

/// A part of a program.
#[derive(Debug)]
pub(crate) enum Node {
    Constant(Val<'static>),
    Slot(usize),
    /// A field, or (with `test`) whether it is there.
    Select {
        of: Box<Node>,
        field: CompactString,
        test: bool,
    },
    /// `a.?b` and `a[?b]`.
    OptionalIndex(Box<Node>, Box<Node>),
    Index(Box<Node>, Box<Node>),
    Not(Box<Node>),
    /// False only when the value is false: errors do not end a loop.
    NotFalse(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    If(Box<Node>, Box<Node>, Box<Node>),
    Equal(Box<Node>, Box<Node>, bool),
    In(Box<Node>, Box<Node>),
    /// The functions that may be meant: more than one where types are not known.
    Call(Vec<&'static Function>, Vec<Node>),
    /// `matches` with an expression known beforehand.
    Matches(Box<Node>, Regex),
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Loop(Box<Loop>),
    Each(Box<Each>),
    /// An expression with a name, by its number.
    Definition(usize, Arc<Definition>),
    /// What cannot be evaluated, and why.
    Fail(String),
    /// A value with a name (`cel.bind`, `optMap`).
    Bind {
        value: Box<Node>,
        slot: usize,
        body: Box<Node>,
        optional: Optional,
    },
}

/// What becomes of an optional value that a body is evaluated with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Optional {
    /// The value is none.
    No,
    /// The result is wrapped.
    Map,
    /// The result is an optional itself.
    FlatMap,
}

/// A comprehension as CEL's macros expand to.
#[derive(Debug)]
pub(crate) struct Loop {
    pub range: Node,
    /// The slot of the item; the accumulator's is the next.
    pub item: usize,
    pub start: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
}

/// A comprehension over keys (or indices) and values.
#[derive(Debug)]
pub(crate) struct Each {
    pub kind: EachKind,
    pub range: Node,
    /// The slot of the key (or index); the value's is the next.
    pub key: usize,
    pub filter: Option<Node>,
    pub body: Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EachKind {
    All,
    Exists,
    ExistsOne,
    TransformList,
    TransformMap,
    TransformMapEntry,
}

/// A finished program.
#[derive(Debug)]
pub(crate) struct Lowered {
    pub node: Node,
    pub ty: Type,
    pub cost: u64,
    /// Which declared variables it uses.
    pub used: Vec<bool>,
}

pub(crate) fn lower(
    environment: &Environment,
    tree: &IdedExpr,
    source: &SourceInfo,
) -> Result<Lowered, String> {
    let mut lowering = Lowering {
        scope: environment
            .variables
            .iter()
            .map(|(name, ty)| (name.clone(), ty.clone()))
            .collect(),
        used: vec![false; environment.variables.len()],
        environment,
        source,
        findings: Vec::new(),
    };
    let part = lowering.expression(tree);
    if !lowering.findings.is_empty() {
        return Err(lowering.findings.join("\n"));
    }
    Ok(Lowered {
        node: part.node,
        ty: part.ty,
        cost: part.cost,
        used: lowering.used,
    })
}

/// A lowered expression.
struct Part {
    node: Node,
    ty: Type,
    cost: u64,
}

struct Lowering<'s> {
    scope: Vec<(CompactString, Type)>,
    used: Vec<bool>,
    environment: &'s Environment,
    source: &'s SourceInfo,
    findings: Vec<String>,
}

impl Lowering<'_> {
    fn expression(&mut self, tree: &IdedExpr) -> Part {
        match &tree.expr {
            Expr::Literal(literal) => constant(literal),
            Expr::Ident(name) => self.name(tree.id, name),
            Expr::Select(select) => self.select(tree.id, &select.operand, &select.field, select.test),
            Expr::Call(call) => self.call(tree.id, &call.func_name, call.target.as_deref(), &call.args),
            Expr::List(list) => {
                let mut items = Vec::with_capacity(list.elements.len());
                let (mut ty, mut cost) = (None::<Type>, 10);
                for (at, element) in list.elements.iter().enumerate() {
                    let part = self.expression(element);
                    let optional = list.optional_indices.contains(&at);
                    let item = match (&part.ty, optional) {
                        (Type::Optional(inner), true) => Type::clone(inner),
                        (ty, _) => ty.clone(),
                    };
                    ty = Some(ty.map_or(item.clone(), |ty| ty.join(&item)));
                    cost = add(cost, part.cost);
                    items.push((part.node, optional));
                }
                let size = items.len() as u64;
                Part {
                    node: Node::List(items),
                    ty: Type::List(Arc::new(ty.unwrap_or(Type::Dyn)), size),
                    cost,
                }
            }
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                let (mut keys, mut values, mut cost) = (None::<Type>, None::<Type>, 30);
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        continue;
                    };
                    let key = self.expression(&entry.key);
                    let value = self.expression(&entry.value);
                    cost = add(cost, add(key.cost, value.cost));
                    let of = match (&value.ty, entry.optional) {
                        (Type::Optional(inner), true) => Type::clone(inner),
                        (ty, _) => ty.clone(),
                    };
                    keys = Some(keys.map_or(key.ty.clone(), |ty| ty.join(&key.ty)));
                    values = Some(values.map_or(of.clone(), |ty| ty.join(&of)));
                    entries.push((key.node, value.node, entry.optional));
                }
                let size = entries.len() as u64;
                Part {
                    node: Node::Map(entries),
                    ty: Type::Map(
                        Arc::new(keys.unwrap_or(Type::Dyn)),
                        Arc::new(values.unwrap_or(Type::Dyn)),
                        size,
                    ),
                    cost,
                }
            }
            Expr::Struct(message) => self.message(tree.id, message),
            Expr::Comprehension(c) => self.comprehension(tree.id, c),
            Expr::Unspecified => self.wrong(tree.id, "unsupported expression".to_owned()),
        }
    }

    fn call(&mut self, id: u64, name: &str, target: Option<&IdedExpr>, args: &[IdedExpr]) -> Part {
        if let Some(part) = self.special(id, name, target, args) {
            return part;
        }
        // `math.greatest(a)` and such: the target is part of the function's name.
        let qualified = target.and_then(dotted).map(|path| format!("{path}.{name}"));
        let (name, receiver) = match &qualified {
            Some(qualified) if functions::find(qualified, false, args.len()).is_some() => {
                (qualified.as_str(), None)
            }
            _ => (name, target),
        };
        let mut parts: Vec<Part> = Vec::with_capacity(args.len() + 1);
        parts.extend(receiver.map(|target| self.expression(target)));
        for arg in args {
            parts.push(self.expression(arg));
        }
        let types: Vec<Type> = parts.iter().map(|part| part.ty.clone()).collect();
        let found = functions::find(name, receiver.is_some(), args.len());
        let Some(found) = found else {
            return self.wrong(id, format!("undeclared reference to '{name}' (in container '')"));
        };
        let Some((functions, ty)) = functions::choose(found, &types) else {
            let shown: Vec<String> = types.iter().map(ToString::to_string).collect();
            let shown = match (receiver.is_some(), shown.split_first()) {
                (true, Some((first, rest))) => format!("{first}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            return self.wrong(
                id,
                format!("found no matching overload for '{name}' applied to '{shown}'"),
            );
        };
        let sizes: Vec<u64> = types.iter().map(Type::size).collect();
        let spent = parts.iter().fold(0, |sum, part| add(sum, part.cost));
        let dearest = functions
            .iter()
            .map(|function| function.cost(&sizes))
            .max()
            .unwrap_or(1);
        let cost = add(spent, dearest);
        if name == "matches"
            && let [
                _,
                Part {
                    node: Node::Constant(Val::Text(pattern)),
                    ..
                },
            ] = parts.as_slice()
        {
            return match Regex::new(pattern) {
                Ok(regex) => Part {
                    node: Node::Matches(Box::new(parts.swap_remove(0).node), regex),
                    ty,
                    cost,
                },
                Err(error) => {
                    let message = format!("invalid matches argument: {error}");
                    self.wrong(id, message)
                }
            };
        }
        Part {
            node: Node::Call(functions, parts.into_iter().map(|part| part.node).collect()),
            ty,
            cost,
        }
    }

    /// Operators and macros that are no functions.
    fn special(&mut self, id: u64, name: &str, target: Option<&IdedExpr>, args: &[IdedExpr]) -> Option<Part> {
        let boxed = |part: Part| (Box::new(part.node), part.ty, part.cost);
        Some(match (name, target, args) {
            (operators::LOGICAL_NOT | operators::NOT_STRICTLY_FALSE, None, [a]) => {
                let (a, ty, cost) = boxed(self.expression(a));
                if !ty.fits(&Type::Bool) {
                    return Some(self.mismatch(id, name, &[ty]));
                }
                Part {
                    node: if name == operators::LOGICAL_NOT {
                        Node::Not(a)
                    } else {
                        Node::NotFalse(a)
                    },
                    ty: Type::Bool,
                    cost: add(cost, 1),
                }
            }
            (operators::LOGICAL_AND | operators::LOGICAL_OR, None, [a, b]) => {
                let (a, ta, ca) = boxed(self.expression(a));
                let (b, tb, cb) = boxed(self.expression(b));
                if !ta.fits(&Type::Bool) || !tb.fits(&Type::Bool) {
                    return Some(self.mismatch(id, name, &[ta, tb]));
                }
                Part {
                    node: if name == operators::LOGICAL_AND {
                        Node::And(a, b)
                    } else {
                        Node::Or(a, b)
                    },
                    ty: Type::Bool,
                    cost: add(ca, cb),
                }
            }
            (operators::CONDITIONAL, None, [c, a, b]) => {
                let (c, tc, cc) = boxed(self.expression(c));
                let (a, ta, ca) = boxed(self.expression(a));
                let (b, tb, cb) = boxed(self.expression(b));
                if !tc.fits(&Type::Bool) || !ta.fits(&tb) {
                    return Some(self.mismatch(id, name, &[tc, ta, tb]));
                }
                Part {
                    node: Node::If(c, a, b),
                    ty: ta.join(&tb),
                    cost: add(cc, ca.max(cb)),
                }
            }
            (operators::EQUALS | operators::NOT_EQUALS, None, [a, b]) => {
                let (a, ta, ca) = boxed(self.expression(a));
                let (b, tb, cb) = boxed(self.expression(b));
                if !ta.fits(&tb) {
                    return Some(self.mismatch(id, name, &[ta, tb]));
                }
                let compared = functions::traversal(ta.size().min(tb.size()));
                Part {
                    node: Node::Equal(a, b, name == operators::EQUALS),
                    ty: Type::Bool,
                    cost: add(add(ca, cb), compared.max(1)),
                }
            }
            (operators::IN, None, [a, b]) => {
                let (a, ta, ca) = boxed(self.expression(a));
                let (b, tb, cb) = boxed(self.expression(b));
                let fits = match &tb {
                    Type::List(item, _) => item.fits(&ta),
                    Type::Map(key, _, _) => key.fits(&ta),
                    Type::Dyn => true,
                    _ => false,
                };
                if !fits {
                    return Some(self.mismatch(id, name, &[ta, tb]));
                }
                let looked = if matches!(tb, Type::Map(..)) { 1 } else { tb.size() };
                Part {
                    node: Node::In(a, b),
                    ty: Type::Bool,
                    cost: add(add(ca, cb), looked),
                }
            }
            (operators::INDEX, None, [a, b]) => {
                let (a, ta, ca) = boxed(self.expression(a));
                let (b, tb, cb) = boxed(self.expression(b));
                let inner = match &ta {
                    Type::Optional(inner) => Type::clone(inner),
                    ty => ty.clone(),
                };
                let ty = match &inner {
                    Type::List(item, _) if tb.fits(&Type::Int) => Type::clone(item),
                    Type::Map(key, value, _) if key.fits(&tb) => Type::clone(value),
                    Type::Dyn => Type::Dyn,
                    _ => return Some(self.mismatch(id, name, &[ta, tb])),
                };
                Part {
                    node: Node::Index(a, b),
                    ty: if matches!(ta, Type::Optional(_)) {
                        Type::Optional(Arc::new(ty))
                    } else {
                        ty
                    },
                    cost: add(add(ca, cb), 1),
                }
            }
            (operators::OPT_SELECT | operators::OPT_INDEX, None, [a, b]) => {
                let (a, ta, ca) = boxed(self.expression(a));
                let (mut b, tb, cb) = boxed(self.expression(b));
                let inner = match &ta {
                    Type::Optional(inner) => Type::clone(inner),
                    ty => ty.clone(),
                };
                let ty = match (&inner, b.as_ref()) {
                    (Type::Object(object), Node::Constant(Val::Text(field))) => match object.field(field) {
                        Some((json, ty)) => {
                            let (json, ty) = (json.to_string(), ty.clone());
                            *b = Node::Constant(Val::text(json));
                            ty
                        }
                        None => return Some(self.wrong(id, format!("undefined field '{field}'"))),
                    },
                    (Type::List(item, _), _) => Type::clone(item),
                    (Type::Map(_, value, _), _) => Type::clone(value),
                    (Type::Dyn, _) => Type::Dyn,
                    _ => return Some(self.mismatch(id, name, &[ta, tb])),
                };
                Part {
                    node: Node::OptionalIndex(a, b),
                    ty: Type::Optional(Arc::new(ty)),
                    cost: add(add(ca, cb), 1),
                }
            }
            ("bind", Some(cel), [variable, value, body]) if dotted(cel).as_deref() == Some("cel") => {
                let Expr::Ident(variable) = &variable.expr else {
                    return Some(self.wrong(
                        variable.id,
                        "cel.bind() variable names must be simple identifiers".to_owned(),
                    ));
                };
                let value = self.expression(value);
                self.bind(variable, value, body, Optional::No)
            }
            ("optMap" | "optFlatMap", Some(target), [variable, body]) => {
                let Expr::Ident(variable) = &variable.expr else {
                    return Some(self.wrong(
                        variable.id,
                        format!("{name}() variable name must be a simple identifier"),
                    ));
                };
                let value = self.expression(target);
                let how = if name == "optMap" {
                    Optional::Map
                } else {
                    Optional::FlatMap
                };
                self.bind(variable, value, body, how)
            }
            (_, Some(target), [key, value, rest @ ..]) => {
                let kind = match (name, rest.len()) {
                    ("all", 1) => EachKind::All,
                    ("exists", 1) => EachKind::Exists,
                    ("existsOne" | "exists_one", 1) => EachKind::ExistsOne,
                    ("transformList", 1 | 2) => EachKind::TransformList,
                    ("transformMap", 1 | 2) => EachKind::TransformMap,
                    ("transformMapEntry", 1 | 2) => EachKind::TransformMapEntry,
                    _ => return None,
                };
                self.each(id, kind, target, (key, value), rest)
            }
            _ => return None,
        })
    }

    fn mismatch(&mut self, id: u64, name: &str, types: &[Type]) -> Part {
        let shown: Vec<String> = types.iter().map(ToString::to_string).collect();
        let shown = shown.join(", ");
        self.wrong(
            id,
            format!("found no matching overload for '{name}' applied to '({shown})'"),
        )
    }

    fn bind(&mut self, variable: &str, value: Part, body: &IdedExpr, optional: Optional) -> Part {
        let ty = match (&value.ty, optional) {
            (ty, Optional::No) => ty.clone(),
            (Type::Optional(inner), _) => Type::clone(inner),
            (_, _) => Type::Dyn,
        };
        let slot = self.scope.len();
        self.scope.push((variable.into(), ty));
        let body = self.expression(body);
        self.scope.truncate(slot);
        Part {
            ty: match optional {
                Optional::Map => Type::Optional(Arc::new(body.ty)),
                Optional::No | Optional::FlatMap => body.ty,
            },
            cost: add(value.cost, body.cost),
            node: Node::Bind {
                value: Box::new(value.node),
                slot,
                body: Box::new(body.node),
                optional,
            },
        }
    }

    fn comprehension(&mut self, id: u64, c: &cel::common::ast::ComprehensionExpr) -> Part {
        let range = self.expression(&c.iter_range);
        if !matches!(range.ty, Type::List(..) | Type::Map(..) | Type::Dyn) {
            let message = format!(
                "expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)",
                range.ty
            );
            return self.wrong(id, message);
        }
        let rounds = range.ty.size();
        let start = self.expression(&c.accu_init);
        let item = self.scope.len();
        self.scope.push((c.iter_var.as_str().into(), range.ty.item()));
        let accumulator = item + 1;
        // What a list gathers is not known before the step is.
        let gathers = matches!(&start.ty, Type::List(_, 0));
        let accumulated = if gathers {
            Type::List(Arc::new(Type::Dyn), rounds)
        } else {
            start.ty.clone()
        };
        self.scope.push((c.accu_var.as_str().into(), accumulated.clone()));
        let condition = self.expression(&c.loop_cond);
        let step = self.expression(&c.loop_step);
        let gathered = match (gathers, &step.ty) {
            (true, Type::List(item, _)) => Type::List(Arc::clone(item), rounds),
            _ => accumulated,
        };
        self.scope[accumulator].1 = gathered.clone();
        let result = self.expression(&c.result);
        self.scope.truncate(item);
        let each = add(condition.cost, step.cost);
        let cost = add(
            add(range.cost, start.cost),
            add(rounds.saturating_mul(each.max(1)), result.cost),
        );
        Part {
            ty: if matches!(&c.result.expr, Expr::Ident(_)) {
                gathered
            } else {
                result.ty
            },
            cost,
            node: Node::Loop(Box::new(Loop {
                range: range.node,
                item,
                start: start.node,
                condition: condition.node,
                step: step.node,
                result: result.node,
            })),
        }
    }

    fn each(
        &mut self,
        id: u64,
        kind: EachKind,
        target: &IdedExpr,
        (key, value): (&IdedExpr, &IdedExpr),
        rest: &[IdedExpr],
    ) -> Part {
        let (Expr::Ident(key), Expr::Ident(value)) = (&key.expr, &value.expr) else {
            return self.wrong(id, "argument must be a simple name".to_owned());
        };
        let range = self.expression(target);
        let (key_type, value_type) = match &range.ty {
            Type::List(item, _) => (Type::Int, Type::clone(item)),
            Type::Map(key, value, _) => (Type::clone(key), Type::clone(value)),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return self.wrong(id, message);
            }
        };
        let rounds = range.ty.size();
        let slot = self.scope.len();
        self.scope.push((key.as_str().into(), key_type.clone()));
        self.scope.push((value.as_str().into(), value_type));
        let parts: Vec<Part> = rest.iter().map(|tree| self.expression(tree)).collect();
        self.scope.truncate(slot);
        let cost = parts.iter().fold(1, |sum, part| add(sum, part.cost));
        let mut parts = parts.into_iter();
        let filter = if rest.len() == 2 { parts.next() } else { None };
        let Some(body) = parts.next() else {
            return self.wrong(id, "a comprehension needs a body".to_owned());
        };
        let predicate = matches!(kind, EachKind::All | EachKind::Exists | EachKind::ExistsOne);
        let checked = filter.iter().chain(predicate.then_some(&body));
        if checked.clone().any(|part| !part.ty.fits(&Type::Bool)) {
            return self.wrong(id, "expected type 'bool' for a predicate".to_owned());
        }
        let ty = match kind {
            EachKind::All | EachKind::Exists | EachKind::ExistsOne => Type::Bool,
            EachKind::TransformList => Type::List(Arc::new(body.ty.clone()), rounds),
            EachKind::TransformMap => Type::Map(Arc::new(key_type), Arc::new(body.ty.clone()), rounds),
            EachKind::TransformMapEntry => match &body.ty {
                Type::Map(key, value, _) => Type::Map(Arc::clone(key), Arc::clone(value), rounds),
                _ => Type::Map(Arc::new(Type::Dyn), Arc::new(Type::Dyn), rounds),
            },
        };
        Part {
            ty,
            cost: add(range.cost, rounds.saturating_mul(cost)),
            node: Node::Each(Box::new(Each {
                kind,
                range: range.node,
                key: slot,
                filter: filter.map(|part| part.node),
                body: body.node,
            })),
        }
    }
}

fn constant(literal: &LiteralValue) -> Part {
    let (value, ty) = match literal {
        LiteralValue::Boolean(flag) => (Val::Bool(*flag.inner()), Type::Bool),
        LiteralValue::Bytes(bytes) => {
            let bytes = bytes.inner();
            (Val::Bytes(bytes.into()), Type::Bytes(bytes.len() as u64))
        }
        LiteralValue::Double(number) => (Val::Double(*number.inner()), Type::Double),
        LiteralValue::Int(number) => (Val::Int(*number.inner()), Type::Int),
        LiteralValue::Null => (Val::Null, Type::Null),
        LiteralValue::String(text) => {
            let text = text.inner();
            (
                Val::text(text.to_owned()),
                Type::String(text.chars().count() as u64),
            )
        }
        LiteralValue::UInt(number) => (Val::Uint(*number.inner()), Type::Uint),
    };
    Part {
        node: Node::Constant(value),
        ty,
        cost: 0,
    }
}

/// `a.b` of names alone.
fn dotted(tree: &IdedExpr) -> Option<String> {
    match &tree.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            Some(format!("{}.{}", dotted(&select.operand)?, select.field))
        }
        _ => None,
    }
}

fn add(a: u64, b: u64) -> u64 {
    if a == UNBOUNDED || b == UNBOUNDED {
        return UNBOUNDED;
    }
    a.saturating_add(b)
}
