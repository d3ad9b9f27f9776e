//! From a text to a program.

use crate::depth;
use crate::eval::{Budget, EvalError, Run};
use crate::lower::{Lowered, lower};
use crate::types::Type;
use crate::value::Val;
use cel::parser::Parser;
use compact_str::CompactString;
use std::sync::Arc;

/// The variables an expression may use.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    pub(crate) variables: Vec<(CompactString, Type)>,
    pub(crate) definitions: Option<Definitions>,
    /// `Object{...}` and `JSONPatch{...}` can be made.
    pub(crate) patches: bool,
}

/// Expressions others may use by name, as fields of one thing: `variables.replicas`.
#[derive(Debug, Clone)]
pub(crate) struct Definitions {
    pub name: CompactString,
    pub list: Vec<(CompactString, Arc<Definition>)>,
}

#[derive(Debug)]
pub(crate) struct Definition {
    pub name: CompactString,
    /// What is no program fails when it is used.
    pub program: Result<Program, String>,
}

/// Why a text is no program: all findings, in cel-go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

/// A checked expression.
#[derive(Debug)]
pub struct Program {
    lowered: Lowered,
    variables: usize,
}

/// What the definitions some programs share came to: each is evaluated once, when it is first met.
#[derive(Debug, Default)]
pub struct Memo<'a>(pub(crate) Vec<Option<Result<Val<'a>, EvalError>>>);

impl Environment {
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a variable. Programs are given values in the order of declaration.
    #[must_use]
    pub fn with(mut self, name: impl Into<CompactString>, ty: Type) -> Self {
        self.variables.push((name.into(), ty));
        self
    }

    /// Lets expressions make objects and JSON patches.
    #[must_use]
    pub fn with_patches(mut self) -> Self {
        self.patches = true;
        self
    }

    /// Expressions can be given names from now on, behind this one.
    #[must_use]
    pub fn with_definitions(mut self, name: impl Into<CompactString>) -> Self {
        self.definitions = Some(Definitions {
            name: name.into(),
            list: Vec::new(),
        });
        self
    }

    /// Gives an expression a name, for those that are compiled after it.
    pub fn define(&mut self, name: impl Into<CompactString>, program: Result<Program, String>) {
        let name = name.into();
        if let Some(definitions) = &mut self.definitions {
            let definition = Definition {
                name: name.clone(),
                program,
            };
            definitions.list.push((name, Arc::new(definition)));
        }
    }

    /// Takes over the names another environment gave. What they are evaluated with must be the same variables.
    pub fn share_definitions(&mut self, of: &Self) {
        self.definitions.clone_from(&of.definitions);
    }

    /// Parses and checks an expression.
    pub fn compile(&self, text: &str) -> Result<Program, CompileError> {
        if let Some(why) = depth::refusal(text) {
            return Err(CompileError(why));
        }
        let parsed = Parser::new()
            .enable_optional_syntax(true)
            .enable_ident_escape_syntax(true)
            .parse_with_source_info(text);
        let (tree, source) = parsed.map_err(|errors| CompileError(errors.to_string()))?;
        let lowered = lower(self, &tree, &source).map_err(CompileError)?;
        Ok(Program {
            lowered,
            variables: self.variables.len(),
        })
    }
}

impl Program {
    /// The type of what it evaluates to.
    pub fn result(&self) -> &Type {
        &self.lowered.ty
    }

    /// The most it can cost, as far as sizes are known.
    pub fn estimated_cost(&self) -> u64 {
        self.lowered.cost
    }

    /// Whether it uses a variable.
    pub fn uses(&self, variable: usize) -> bool {
        self.lowered.used.get(variable).copied().unwrap_or(false)
    }

    /// Evaluates with a value for each declared variable, in their order.
    pub fn evaluate<'a>(&'a self, variables: &[Val<'a>], budget: &mut Budget) -> Result<Val<'a>, EvalError> {
        self.evaluate_with(variables, &mut Memo::default(), budget)
    }

    /// Evaluates with what definitions came to in other programs of the same environment. There may be more values
    /// than this program's environment declares: definitions may know more variables.
    pub fn evaluate_with<'a>(
        &'a self,
        variables: &[Val<'a>],
        memo: &mut Memo<'a>,
        budget: &mut Budget,
    ) -> Result<Val<'a>, EvalError> {
        let Some(own) = variables.get(..self.variables) else {
            return Err(EvalError::Failed(format!(
                "{} variables are declared, {} given",
                self.variables,
                variables.len()
            )));
        };
        let mut run = Run {
            slots: own.to_vec(),
            given: variables,
            memo,
            budget,
        };
        run.node(&self.lowered.node)
    }
}
