//! What is promised at every moment, whatever fails: one file a promise, judged at every revision of the store.
//!
//! A promise that needs to know what the components could know allows for what happened within
//! [`STALE`](super::window::STALE), and for nothing else.

mod completions;
mod concurrency;
mod daemons;
mod disruptions;
mod ordinals;
mod surge;
mod unavailable;

#[cfg(test)]
mod tests;

use super::world::{Change, World};

/// Looks at every change, after the world shows it.
pub(super) trait Promise: Send {
    /// How the change breaks the promise; nothing if it does not.
    fn judge(&mut self, change: &Change<'_>, world: &World) -> Option<String>;
}

/// Every promise.
pub(super) fn all() -> Vec<Box<dyn Promise>> {
    vec![
        Box::new(completions::Completions::default()),
        Box::new(concurrency::Concurrency),
        Box::new(daemons::Daemons::default()),
        Box::new(disruptions::Disruptions::default()),
        Box::new(ordinals::Ordinals::default()),
        Box::new(surge::Surge::default()),
        Box::new(unavailable::Unavailable::default()),
    ]
}

fn count<'a>(pods: impl Iterator<Item = &'a machinery::Value>) -> i64 {
    i64::try_from(pods.count()).unwrap_or(i64::MAX)
}
