//! The reading end of a watch, the same for every engine.

use crate::{Batch, Result};
use futures::Stream;
use futures::stream::BoxStream;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A stream of [`Batch`]es. It ends after the first error, and when the store closes. Dropping it
/// ends the watch.
pub struct Watch {
    batches: BoxStream<'static, Result<Batch>>,
    progress: ProgressHandle,
}

impl Watch {
    /// For engines: a watch from its stream and what to do when progress is asked for.
    pub fn new(batches: BoxStream<'static, Result<Batch>>, progress: ProgressHandle) -> Self {
        Self { batches, progress }
    }

    /// Can be kept and used while another task reads the stream.
    pub fn progress_handle(&self) -> ProgressHandle {
        self.progress.clone()
    }
}

impl Stream for Watch {
    type Item = Result<Batch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// Asks one watch how far it has got.
#[derive(Clone)]
pub struct ProgressHandle(Arc<dyn Fn() + Send + Sync>);

impl ProgressHandle {
    pub fn new(ask: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// The watch answers in its stream: after what is still to be delivered comes a batch, empty if
    /// need be, whose revision is at least what the store's revision was when this was called. Several
    /// requests may share an answer. Without [`WatchRequest::progress`](crate::WatchRequest) nothing happens.
    pub fn request(&self) {
        (self.0)();
    }
}

impl fmt::Debug for ProgressHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgressHandle").finish_non_exhaustive()
    }
}
