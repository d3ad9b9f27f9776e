//! The one body type of requests and answers.
//!
//! Whole bodies are kept as shared bytes, so that answering from a cache copies nothing; a list is a sequence
//! of shared chunks with its length known; everything else is a boxed stream.
//!
//! **Invariant:** [`Body::limited`] is the only way this crate offers to gather a body of unknown length.

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

/// How much of a body that is too large is still read, so that the refusal arrives.
const DISCARDED: usize = 4 << 20;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's or answer's body.
pub struct Body(Inner);

enum Inner {
    Whole(Option<Bytes>),
    Chunks {
        chunks: VecDeque<Bytes>,
        left: u64,
    },
    /// The lock is never contended: it only lets a body be shared with those who do not read it.
    Stream(Mutex<UnsyncBoxBody<Bytes, BoxError>>),
}

/// Why a body could not be gathered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("reading the body")]
    Io(#[source] BoxError),
}

impl Body {
    pub fn empty() -> Self {
        Self(Inner::Whole(None))
    }

    /// A body sent piece by piece, whose length is the sum of the pieces.
    pub fn chunks(chunks: impl IntoIterator<Item = Bytes>) -> Self {
        let chunks: VecDeque<Bytes> = chunks.into_iter().filter(|c| !c.is_empty()).collect();
        let left = chunks.iter().map(|c| c.len() as u64).sum();
        Self(Inner::Chunks { chunks, left })
    }

    /// A body of unknown length.
    pub fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Inner::Stream(Mutex::new(body.map_err(Into::into).boxed_unsync())))
    }

    /// The bytes, if this body is held whole in memory.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.0 {
            Inner::Whole(Some(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Gathers the body, refusing more than `limit` bytes.
    pub async fn limited(mut self, limit: usize) -> Result<Bytes, ReadError> {
        if let Inner::Whole(bytes) = &mut self.0 {
            let bytes = bytes.take().unwrap_or_else(Bytes::new);
            return if bytes.len() > limit {
                Err(ReadError::TooLarge { limit })
            } else {
                Ok(bytes)
            };
        }
        if self.size_hint().lower() > limit as u64 {
            self.discard(DISCARDED).await;
            return Err(ReadError::TooLarge { limit });
        }
        // A body in one frame, which most are, is not copied.
        let mut first = Bytes::new();
        let mut all: Vec<u8> = Vec::new();
        while let Some(frame) = self.frame().await {
            let Ok(data) = frame.map_err(ReadError::Io)?.into_data() else {
                continue;
            };
            if first.len() + all.len() + data.len() > limit {
                drop((first, all));
                self.discard(DISCARDED).await;
                return Err(ReadError::TooLarge { limit });
            }
            if all.is_empty() && first.is_empty() {
                first = data;
                continue;
            }
            if all.is_empty() {
                // The hint was checked against the limit above.
                let announced = self.size_hint().lower() as usize;
                all.reserve(first.len() + data.len().max(announced));
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
        Ok(if all.is_empty() { first } else { Bytes::from(all) })
    }

    /// Reads on and throws away: a client of HTTP/1.1 that writes first and reads then would otherwise see a
    /// broken pipe instead of the refusal.
    async fn discard(&mut self, mut left: usize) {
        while let Some(Ok(frame)) = self.frame().await {
            let read = frame.data_ref().map_or(0, Bytes::len);
            left = match left.checked_sub(read) {
                Some(left) => left,
                None => return,
            };
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Inner::Whole(bytes) => write!(f, "Body({} bytes)", bytes.as_ref().map_or(0, Bytes::len)),
            Inner::Chunks { left, .. } => write!(f, "Body({left} bytes in chunks)"),
            Inner::Stream(_) => f.write_str("Body(stream)"),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Inner::Whole((!bytes.is_empty()).then_some(bytes)))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().0 {
            Inner::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Inner::Chunks { chunks, left } => Poll::Ready(chunks.pop_front().map(|b| {
                *left -= b.len() as u64;
                Ok(Frame::data(b))
            })),
            Inner::Stream(stream) => Pin::new(stream.get_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(bytes) => bytes.is_none(),
            Inner::Chunks { chunks, .. } => chunks.is_empty(),
            Inner::Stream(stream) => stream.lock().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Inner::Chunks { left, .. } => SizeHint::with_exact(*left),
            Inner::Stream(stream) => stream.lock().size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gathering_is_limited() {
        let chunks = || {
            Body::chunks([
                Bytes::from_static(b"ab"),
                Bytes::new(),
                Bytes::from_static(b"cd"),
                Bytes::from_static(b"e"),
            ])
        };
        assert_eq!(chunks().size_hint().exact(), Some(5));
        assert_eq!(chunks().limited(5).await.expect("fits"), "abcde");
        assert!(matches!(
            chunks().limited(4).await,
            Err(ReadError::TooLarge { limit: 4 })
        ));
        let stream = |limit| Body::stream(chunks()).limited(limit);
        assert_eq!(stream(5).await.expect("fits"), "abcde");
        assert!(stream(4).await.is_err());
        assert_eq!(Body::from("x").limited(1).await.expect("fits"), "x");
        assert!(Body::from("xy").limited(1).await.is_err());
        assert!(Body::empty().limited(0).await.expect("nothing").is_empty());
    }
}
