//! What a request asks for, read from its method, path and query; nothing here looks at objects.

pub mod info;
pub mod negotiate;
pub mod query;

pub use info::{RequestInfo, Verb};
pub use negotiate::{Encoding, Output, Shape};
pub use query::Query;
