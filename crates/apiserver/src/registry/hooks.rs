//! Side effects around a write of one resource: allocating what the object needs, and giving it back.

use super::Write;
use crate::server::Core;
use async_trait::async_trait;
use machinery::Value;
use machinery::status::ApiError;
use std::sync::Arc;

/// What a resource does beside its object. Registered with the server, one a resource.
#[async_trait]
pub trait Hooks: Send + Sync + 'static {
    /// The server has started: the place for what goes on beside requests.
    fn start(&self, _core: &Arc<Core>) {}

    /// Before a new object is judged; may complete it. What was taken is given back by the undo if the object is
    /// not stored after all.
    async fn begin_create(&self, _write: &Write<'_>, _object: &mut Value) -> Result<Option<Undo>, ApiError> {
        Ok(None)
    }

    /// Before a changed object is judged; may complete it.
    async fn begin_update(
        &self,
        _write: &Write<'_>,
        _new: &mut Value,
        _old: &Value,
    ) -> Result<Option<Undo>, ApiError> {
        Ok(None)
    }

    /// After an object was stored anew or changed; `old` is what stood there.
    async fn after_write(&self, _write: &Write<'_>, _new: &Value, _old: Option<&Value>) {}

    /// After an object is gone.
    async fn after_delete(&self, _old: &Value) {}
}

/// Gives back what was taken, when the write fails. Runs when dropped, unless [`Undo::commit`]ted.
pub struct Undo(Option<Box<dyn FnOnce() + Send>>);

impl Undo {
    pub fn new(undo: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(undo)))
    }

    /// The write succeeded.
    pub fn commit(mut self) {
        self.0 = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            undo();
        }
    }
}
