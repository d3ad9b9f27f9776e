//! Names: variables, types, fields, and messages with a type's name.

use super::{Lowering, Node, Part, add, dotted};
use crate::functions;
use crate::types::{ObjectType, Type};
use crate::value::Val;
use cel::common::ast::{EntryExpr, Expr, IdedExpr, StructExpr};
use compact_str::CompactString;
use std::sync::Arc;

/// The operations of a JSON patch.
const PATCH: &str = "JSONPatch";
/// What a policy wants an object to be like, and, with the names of fields behind it, its parts.
const OBJECT: &str = "Object";

impl Lowering<'_> {
    pub(super) fn wrong(&mut self, id: u64, message: String) -> Part {
        let offset = self.source.offset_for(id).map_or(0, |(start, _)| start as usize);
        let (mut line_number, mut line_start) = (1, 0);
        for (at, c) in self
            .source
            .source
            .char_indices()
            .take_while(|(at, _)| *at < offset)
        {
            if c == '\n' {
                line_number += 1;
                line_start = at + 1;
            }
        }
        let column = offset.saturating_sub(line_start);
        let mut text = format!("ERROR: <input>:{line_number}:{}: {message}", column + 1);
        if let Some(line) = self.source.snippet(line_number - 1) {
            text.push_str(&format!("\n | {line}\n | {}^", ".".repeat(column)));
        }
        self.findings.push(text);
        Part {
            node: Node::Constant(Val::Null),
            ty: Type::Dyn,
            cost: 1,
        }
    }

    pub(super) fn name(&mut self, id: u64, name: &str) -> Part {
        let bare = name.trim_start_matches('.');
        if let Some(slot) = self.scope.iter().rposition(|(known, _)| known == bare) {
            if let Some(used) = self.used.get_mut(slot) {
                *used = true;
            }
            return Part {
                node: Node::Slot(slot),
                ty: self.scope[slot].1.clone(),
                cost: 1,
            };
        }
        if functions::TYPE_NAMES.contains(&bare) {
            return Part {
                node: Node::Constant(Val::Type(bare.into())),
                ty: Type::Type,
                cost: 1,
            };
        }
        self.wrong(id, format!("undeclared reference to '{name}' (in container '')"))
    }

    pub(super) fn select(&mut self, id: u64, operand: &IdedExpr, field: &str, test: bool) -> Part {
        // A type of another package is spelt like a selection.
        if let Some(path) = dotted(operand)
            && functions::TYPE_NAMES.contains(&format!("{path}.{field}").as_str())
        {
            return Part {
                node: Node::Constant(Val::Type(format!("{path}.{field}").into())),
                ty: Type::Type,
                cost: 1,
            };
        }
        if let Some(part) = self.qualified(id, operand, field, test) {
            return part;
        }
        let of = self.expression(operand);
        let inner = match &of.ty {
            Type::Optional(inner) => Type::clone(inner),
            ty => ty.clone(),
        };
        let (name, ty) = match &inner {
            Type::Object(object) => match object.field(field) {
                Some((json, ty)) => (json.clone(), ty.clone()),
                None if object.is_open() => (field.into(), Type::Dyn),
                None => return self.wrong(id, format!("undefined field '{field}'")),
            },
            Type::Map(_, value, _) => (field.into(), Type::clone(value)),
            Type::Dyn => (field.into(), Type::Dyn),
            other => {
                let message = format!("type '{other}' does not support field selection");
                return self.wrong(id, message);
            }
        };
        let ty = match (&of.ty, test) {
            (_, true) => Type::Bool,
            (Type::Optional(_), false) => Type::Optional(Arc::new(ty)),
            _ => ty,
        };
        Part {
            node: Node::Select {
                of: Box::new(of.node),
                field: name,
                test,
            },
            ty,
            cost: add(of.cost, 1),
        }
    }

    /// A variable whose name has a dot, or an expression with a name.
    fn qualified(&mut self, id: u64, operand: &IdedExpr, field: &str, test: bool) -> Option<Part> {
        let Expr::Ident(first) = &operand.expr else {
            return None;
        };
        let full = format!("{first}.{field}");
        if !test && self.scope.iter().any(|(known, _)| *known == full) {
            return Some(self.name(id, &full));
        }
        let definitions = self.environment.definitions.as_ref()?;
        if definitions.name != *first || self.scope.iter().any(|(known, _)| known == first) {
            return None;
        }
        let found = definitions.list.iter().rposition(|(known, _)| known == field);
        let Some(at) = found else {
            return Some(self.wrong(id, format!("undefined field '{field}'")));
        };
        if test {
            return Some(Part {
                node: Node::Constant(Val::Bool(true)),
                ty: Type::Bool,
                cost: 1,
            });
        }
        let definition = Arc::clone(&definitions.list[at].1);
        let (ty, cost) = match &definition.program {
            Ok(program) => (program.result().clone(), program.estimated_cost()),
            Err(_) => (Type::Dyn, 0),
        };
        Some(Part {
            node: Node::Definition(at, definition),
            ty,
            cost: add(cost, 1),
        })
    }

    /// `Object{...}` and `JSONPatch{...}`: maps with a type's name.
    pub(super) fn message(&mut self, id: u64, message: &StructExpr) -> Part {
        let name = message.type_name.as_str();
        let is_object = name == OBJECT || name.starts_with("Object.");
        if !self.environment.patches || !(is_object || name == PATCH) {
            return self.wrong(id, format!("undeclared reference to '{name}' (in container '')"));
        }
        let mut entries = Vec::with_capacity(message.entries.len());
        let (mut cost, mut misnamed) = (40, None);
        for entry in &message.entries {
            let EntryExpr::StructField(field) = &entry.expr else {
                continue;
            };
            let value = self.expression(&field.value);
            cost = add(cost, value.cost);
            let ty = match (&value.ty, field.optional) {
                (Type::Optional(inner), true) => Type::clone(inner),
                (ty, _) => ty.clone(),
            };
            let field_name = field.field.as_str();
            if is_object {
                let expected = format!("{name}.{field_name}");
                misnamed = misnamed.or_else(|| other_name(&ty, &expected).map(|found| (found, expected)));
            } else if !["op", "path", "from", "value"].contains(&field_name) {
                self.wrong(entry.id, format!("undefined field '{field_name}'"));
            } else if field_name != "value" && !ty.fits(&Type::string()) {
                let why =
                    format!("expected type of field '{field_name}' is 'string' but provided type is '{ty}'");
                self.wrong(entry.id, why);
            }
            let key = Node::Constant(Val::text(field.field.clone()));
            entries.push((key, value.node, field.optional));
        }
        let node = match misnamed {
            None => Node::Map(entries),
            Some((found, expected)) => Node::Fail(format!(
                "type mismatch: unexpected type name {found:?}, expected {expected:?}, which matches field name path from root Object type"
            )),
        };
        Part {
            node,
            ty: Type::object(ObjectType::open(name)),
            cost,
        }
    }
}

/// The name of an object within a value, if it is another than expected.
fn other_name(ty: &Type, expected: &str) -> Option<CompactString> {
    match ty {
        Type::Object(object) => (object.name != expected).then(|| object.name.clone()),
        Type::List(item, _) => other_name(item, expected),
        Type::Map(_, value, _) => other_name(value, expected),
        _ => None,
    }
}
