//! Custom resources: kinds whose tables are read from CustomResourceDefinitions while the server runs.
//!
//! ```text
//! watch of definitions ─► follow ─► names, conditions (written back)
//!                            ├────► kind: one Resource a version, one cache for all ─► routes, discovery, OpenAPI
//!                            └────► clean: objects of a deleted definition go first
//! ```
//!
//! A custom kind takes the same way through handlers, registry and cache as a built-in one; it differs in that its
//! [`Resource`](crate::registry::Resource)s come and go, and in its strategy (`resources::apiextensions`).
//!
//! **Invariant:** routes hold a kind only while its definition is established; a definition whose specification
//! changes gets new resources and an empty cache, and every watch on the old ones ends, as upstream.

mod clean;
pub(crate) mod conversion;
mod follow;
mod kind;

pub(crate) use follow::start;

/// Where the definitions are.
const GROUP: &str = "apiextensions.k8s.io";
const RESOURCE: &str = "customresourcedefinitions";
