//! Images: names, who may pull, when to pull, and what to throw away.

pub mod credentials;
pub mod gc;
pub mod manager;
pub mod name;
pub mod providers;
