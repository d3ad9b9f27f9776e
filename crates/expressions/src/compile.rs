//! From a text to a program.

use crate::eval::{Budget, EvalError, Run};
use crate::lower::{Lowered, lower};
use crate::types::Type;
use crate::value::Val;
use cel::parser::Parser;
use compact_str::CompactString;

/// The variables an expression may use.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    pub(crate) variables: Vec<(CompactString, Type)>,
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

    /// Parses and checks an expression.
    pub fn compile(&self, text: &str) -> Result<Program, CompileError> {
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
        if variables.len() != self.variables {
            return Err(EvalError::Failed(format!(
                "{} variables are declared, {} given",
                self.variables,
                variables.len()
            )));
        }
        let mut run = Run {
            slots: variables.to_vec(),
            budget,
        };
        run.node(&self.lowered.node)
    }
}
