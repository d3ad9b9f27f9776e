//! Behaviour of the schema engine, as cases in data files (`tests/cases`).
//!
//! `UPDATE_CASES=1 cargo test -p machinery --test it` rewrites what the cases expect; read the diff before
//! committing it.

mod apply;
mod cases;
mod fuzz;
mod patch;
mod table;
