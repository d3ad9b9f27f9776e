//! Services: what comes to a Service's addresses goes to one of its endpoints.
//!
//! ```text
//! Service, EndpointSlice informers ──► changed names ──► plan (pure) ──► State ──► one nf_tables batch
//! ```
//!
//! Behaviour follows upstream's nftables mode; the rules in [`table`] are our own.
//!
//! **Invariant:** the cost of a change is that of the Services it touches, not of all.
//! **Invariant:** the table is complete from the first batch on: nothing is written before both informers
//! have their first list, and that batch replaces what an earlier run left at once.

mod elements;
pub mod endpoints;
mod health;
mod places;
pub mod plan;
mod run;
pub mod service;
pub mod stale;
pub mod state;
pub mod table;

pub use run::{ProxyHandle, ProxyOptions, Sources, start, start_from};

#[cfg(test)]
mod tests;
