//! A watch's answer: frames as they happen, as one body.
//!
//! Frames that are ready together travel together; a lone frame is sent as the shared bytes it is.

use super::event::{Change, Entry, Event};
use super::feed::Ended;
use super::{Filter, Reflector, WatchReceiver};
use crate::object::{self, Form, StoredError};
use crate::registry::Resource;
use crate::request::Encoding;
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use machinery::codec::frame;
use machinery::status::ApiError;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use wire::body::BoxError;

/// How often a watcher that wants bookmarks gets one, if there is news.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// The last bookmark comes this long before the end.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// Frames are gathered up to about this many bytes.
const CHUNK: usize = 64 * 1024;
/// Events taken from the feed at once.
const TAKE: usize = 256;

/// The body of a watch.
pub struct WatchStream {
    pub resource: Arc<Resource>,
    pub reflector: Arc<Reflector>,
    pub filter: Filter,
    pub form: Form,
    receiver: Option<WatchReceiver>,
    initial: VecDeque<Arc<Entry>>,
    backlog: VecDeque<Arc<Event>>,
    /// Events up to this revision are in what was sent already.
    seen: u64,
    /// Send the bookmark that ends the initial events, with this revision.
    end_initial: Option<u64>,
    bookmarks: Option<Bookmarks>,
    end: Pin<Box<Sleep>>,
    taken: Vec<Arc<Event>>,
    done: bool,
}

struct Bookmarks {
    next: Pin<Box<Sleep>>,
    /// The end of the watch is announced once.
    last_sent: bool,
    sent: u64,
}

/// What a new stream starts with.
pub struct Start {
    pub(crate) receiver: WatchReceiver,
    pub initial: Vec<Arc<Entry>>,
    pub backlog: Vec<Arc<Event>>,
    /// The revision the watch starts after.
    pub after: u64,
    pub end_initial: Option<u64>,
    pub bookmarks: bool,
    pub timeout: Duration,
}

impl WatchStream {
    pub(crate) fn new(
        resource: Arc<Resource>,
        reflector: Arc<Reflector>,
        filter: Filter,
        form: Form,
        start: Start,
    ) -> Self {
        let now = Instant::now();
        let bookmarks = start.bookmarks.then(|| Bookmarks {
            next: Box::pin(tokio::time::sleep(
                BOOKMARK_EVERY.min(start.timeout.saturating_sub(LAST_BOOKMARK)),
            )),
            last_sent: false,
            sent: start.after,
        });
        Self {
            resource,
            reflector,
            filter,
            form,
            receiver: Some(start.receiver),
            initial: start.initial.into(),
            backlog: start.backlog.into(),
            seen: start.after,
            end_initial: start.end_initial,
            bookmarks,
            end: Box::pin(tokio::time::sleep_until(now + start.timeout)),
            taken: Vec::new(),
            done: false,
        }
    }

    /// What an event is to this watcher.
    fn change(&self, event: &Event) -> Result<Option<Change>, StoredError> {
        let matches = |entry: &Entry| self.filter.matches_converted(&self.resource, entry);
        let now = event.change != Change::Deleted && matches(&event.entry)?;
        let before = match event.previous.as_deref() {
            Some(previous) => matches(previous)?,
            None => false,
        };
        Ok(match (before, now) {
            (false, false) => None,
            (false, true) => Some(Change::Added),
            (true, true) => Some(Change::Modified),
            (true, false) => Some(Change::Deleted),
        })
    }

    fn event_frame(&mut self, event: &Event) -> Option<Bytes> {
        if event.revision() <= self.seen {
            return None;
        }
        let change = self.change(event).transpose()?;
        match change.and_then(|change| event.frame(&self.resource, change, self.form)) {
            Ok(frame) => Some(frame),
            // Whoever missed an event must list again, and is told there what is wrong.
            Err(StoredError::Conversion(why)) => {
                tracing::warn!(error = %why, "a watch ends with an event that cannot be converted");
                self.done = true;
                None
            }
            Err(error) => {
                tracing::error!(%error, "an event cannot be encoded");
                None
            }
        }
    }

    /// The next frames, at most about a chunk.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut chunk = Chunk::default();
        while let Some(entry) = self.initial.pop_front() {
            match entry.frame(&self.resource, Change::Added, self.form) {
                Ok(frame) => chunk.push(frame),
                Err(error) => tracing::error!(%error, "an object cannot be encoded"),
            }
            if chunk.is_full() {
                return Poll::Ready(chunk.take());
            }
        }
        if let Some(revision) = self.end_initial.take() {
            chunk.push(bookmark(&self.resource, self.form, revision, true));
        }
        while let Some(event) = self.backlog.pop_front() {
            if let Some(frame) = self.event_frame(&event) {
                chunk.push(frame);
                if chunk.is_full() {
                    return Poll::Ready(chunk.take());
                }
            }
            if self.done {
                break;
            }
        }
        while !self.done {
            // Read before the queue: once the queue is empty, everything up to here has been sent.
            let revision = self.reflector.revision();
            let Some(receiver) = &mut self.receiver else { break };
            match receiver.0.poll_take(cx, TAKE, &mut self.taken) {
                Poll::Ready(Ok(())) => {
                    let mut taken = std::mem::take(&mut self.taken);
                    for event in taken.drain(..) {
                        if let Some(frame) = self.event_frame(&event) {
                            chunk.push(frame);
                        }
                        if self.done {
                            break;
                        }
                    }
                    self.taken = taken;
                    if chunk.is_full() {
                        break;
                    }
                }
                Poll::Ready(Err(ended)) => {
                    // Too slow, or the cache starts over: the client comes again and finds out where it stands.
                    tracing::debug!(resource = %self.resource.info.resource, ?ended, "watch ended");
                    debug_assert!(matches!(ended, Ended::Lagged | Ended::Closed));
                    self.done = true;
                    break;
                }
                Poll::Pending => {
                    if let Some(frame) = self.due_bookmark(cx, revision) {
                        chunk.push(frame);
                        continue;
                    }
                    break;
                }
            }
        }
        match chunk.take() {
            Some(bytes) => Poll::Ready(Some(bytes)),
            None if self.done => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn due_bookmark(&mut self, cx: &mut Context<'_>, revision: u64) -> Option<Bytes> {
        let bookmarks = self.bookmarks.as_mut()?;
        if bookmarks.last_sent || bookmarks.next.as_mut().poll(cx).is_pending() {
            return None;
        }
        let now = Instant::now();
        let left = self.end.deadline().saturating_duration_since(now);
        bookmarks.last_sent = left <= LAST_BOOKMARK;
        let wait = BOOKMARK_EVERY.min(left.saturating_sub(LAST_BOOKMARK));
        bookmarks
            .next
            .as_mut()
            .reset(now + wait.max(Duration::from_millis(1)));
        if revision <= bookmarks.sent {
            // Registers the timer just set.
            return if bookmarks.next.as_mut().poll(cx).is_ready() {
                self.due_bookmark(cx, revision)
            } else {
                None
            };
        }
        bookmarks.sent = revision;
        Some(bookmark(&self.resource, self.form, revision, false))
    }
}

impl http_body::Body for WatchStream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        if let Poll::Ready(chunk) = this.poll_chunk(cx) {
            return Poll::Ready(chunk.map(|c| Ok(Frame::data(c))));
        }
        ready!(this.end.as_mut().poll(cx));
        this.done = true;
        this.receiver = None;
        Poll::Ready(None)
    }
}

/// Frames gathered for one write.
#[derive(Default)]
struct Chunk {
    first: Option<Bytes>,
    rest: BytesMut,
}

impl Chunk {
    fn push(&mut self, frame: Bytes) {
        match self.first.take() {
            None if self.rest.is_empty() => self.first = Some(frame),
            first => {
                if let Some(first) = first {
                    self.rest.reserve(first.len() + frame.len());
                    self.rest.extend_from_slice(&first);
                }
                self.rest.extend_from_slice(&frame);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.rest.len() >= CHUNK || self.first.as_ref().is_some_and(|f| f.len() >= CHUNK)
    }

    fn take(&mut self) -> Option<Bytes> {
        self.first
            .take()
            .or_else(|| (!self.rest.is_empty()).then(|| self.rest.split().freeze()))
    }
}

/// The frame that tells a watcher how far it has got.
pub(super) fn bookmark(resource: &Resource, form: Form, revision: u64, end_of_initial: bool) -> Bytes {
    let object = object::bookmark(resource, form, revision, end_of_initial);
    typed_frame("BOOKMARK", form, &object)
}

/// The frame of an error, after which the stream ends.
pub fn error_frame(form: Form, error: &ApiError) -> Bytes {
    typed_frame(
        "ERROR",
        form,
        &object::encode_status(&error.to_value(), form.encoding, false),
    )
}

fn typed_frame(kind: &str, form: Form, object: &[u8]) -> Bytes {
    let frame = match form.encoding {
        Encoding::Protobuf => frame::protobuf(kind, object),
        Encoding::Cbor => frame::cbor(kind, object),
        Encoding::Json | Encoding::Yaml => frame::json(kind, object),
    };
    frame.into()
}
