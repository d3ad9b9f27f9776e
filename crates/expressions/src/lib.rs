//! CEL as Kubernetes speaks it: expressions over objects, checked before they run and never running for long.
//!
//! ```text
//! text ─cel─► syntax tree ─lower─► typed program, estimated cost ─eval─► value, cost spent
//!                                        ▲                           ▲
//!                                 declared variables         machinery's values, borrowed
//! ```
//!
//! Parsing is the `cel` crate's. Types, cost and evaluation are here: upstream refuses an expression whose types do
//! not fit, estimates its cost from what the schema says about sizes, and counts what is spent; and objects are read
//! where they are, without being turned into other values first.
//!
//! **Invariant:** evaluation spends from a [`Budget`] with every step, so that no expression outlasts it.

pub mod admission;
mod compile;
mod depth;
pub mod device;
mod eval;
mod functions;
mod lower;
mod types;
mod value;

pub use compile::{CompileError, Environment, Memo, Program};
pub use eval::{Budget, EvalError};
pub use functions::authorizer::{Answer, Question, Questions, Resource, What};
pub use types::{ObjectType, Type, UNBOUNDED, escape};
pub use value::{Opaque, Val};
