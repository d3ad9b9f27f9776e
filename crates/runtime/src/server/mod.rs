//! The CRI server: the engine's deeds under CRI's names, on a unix socket.

mod image_service;
mod kijabi_images;
mod listen;
mod runtime_service;
mod sessions;
mod streaming;

pub(crate) use listen::listen;
pub(crate) use streaming::Streaming;

use tokio_stream::Stream;
use tonic::Status;

/// A stream of answers, however it is made.
pub(crate) type BoxStream<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A list in pieces, for the calls that stream one.
fn in_pieces<I: Send + 'static, T: Send + 'static>(items: Vec<I>, wrap: fn(Vec<I>) -> T) -> BoxStream<T> {
    const PIECE: usize = 128;
    let mut items = items.into_iter();
    let mut pieces = Vec::new();
    loop {
        let piece: Vec<I> = items.by_ref().take(PIECE).collect();
        if piece.is_empty() {
            break;
        }
        pieces.push(Ok(wrap(piece)));
    }
    Box::pin(tokio_stream::iter(pieces))
}
