//! The API server: one engine for every kind.
//!
//! ```text
//! request ─► filters (who, may they, how long) ─► handlers (one a verb) ─► registry (rules) ─► store
//!                                                      │                        ▲
//!                                                      └──────► cache ──────────┘ one watch
//! ```
//!
//! **Invariant:** only this crate opens the store. Kinds differ in `resources`, plugins live in `access`; nothing
//! here names a kind except where upstream's API does (`pods/binding`, `serviceaccounts/token` …).

pub mod aggregation;
mod allocators;
mod audit;
mod boot;
pub mod cache;
pub mod connect;
mod custom;
mod discovery;
mod features;
mod filters;
mod handlers;
mod health;
mod impersonate;
mod metrics;
pub mod object;
mod openapi;
mod paths;
pub mod registry;
pub mod request;
mod respond;
pub mod routes;
pub mod server;

pub use features::{FeatureError, Features};
pub use registry::Hooks;
pub use server::{Advertise, Config, InProcess, MetricsSource, Server, StartError};
