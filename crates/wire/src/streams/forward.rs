//! Port-forward: for each connection a client takes, a stream of data and a stream for what went wrong.

use std::collections::HashMap;
use std::io;

use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::spdy::{self, Connection};
use super::{BoxIo, Reader, Writer};

/// As many half-opened pairs as a client may leave waiting.
const HALF_OPEN: usize = 256;

/// The connections a client asks for, as they come.
#[derive(Debug)]
pub struct Forwards {
    incoming: mpsc::Receiver<Forward>,
    /// Cancelled when the client has gone.
    pub closed: CancellationToken,
}

/// One connection to a port of the pod.
#[derive(Debug)]
pub struct Forward {
    pub port: u16,
    pub reader: Reader,
    pub writer: Writer,
    pub(super) error: Writer,
}

impl Forwards {
    pub(super) fn new(incoming: mpsc::Receiver<Forward>, closed: CancellationToken) -> Forwards {
        Forwards { incoming, closed }
    }

    /// The next connection; `None` when the client has gone.
    pub async fn next(&mut self) -> Option<Forward> {
        self.incoming.recv().await
    }
}

impl Forward {
    /// Ends the connection with a word on why.
    pub async fn fail(mut self, message: &str) -> io::Result<()> {
        self.error.write_all(message.as_bytes()).await?;
        self.error.shutdown().await?;
        self.writer.shutdown().await
    }
}

/// The SPDY form: pairs of streams, told apart by the headers `requestid`, `port` and `streamtype`.
pub(super) fn over_spdy(io: BoxIo) -> Forwards {
    let mut connection = Connection::server(io);
    let closed = connection.closed();
    let (sender, incoming) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut halves: HashMap<String, Half> = HashMap::new();
        while let Some(stream) = connection.accept().await {
            // Streams without a name or port, or too many of them, are closed by being dropped.
            let Some((id, port)) = name(&stream) else { continue };
            if halves.len() >= HALF_OPEN && !halves.contains_key(&id) {
                continue;
            }
            let half = halves.entry(id.clone()).or_default();
            match stream.header("streamtype") {
                Some("data") => half.data = Some(stream),
                Some("error") => half.error = Some(stream),
                _ => continue,
            }
            if half.data.is_none() || half.error.is_none() {
                continue;
            }
            if let Some(Half {
                data: Some(data),
                error: Some(error),
            }) = halves.remove(&id)
            {
                let forward = Forward {
                    port,
                    reader: data.reader,
                    writer: data.writer,
                    error: error.writer,
                };
                if sender.send(forward).await.is_err() {
                    return;
                }
            }
        }
    });
    Forwards::new(incoming, closed)
}

#[derive(Default)]
struct Half {
    data: Option<spdy::Stream>,
    error: Option<spdy::Stream>,
}

/// Old clients name no request: the port and the stream's place among the pairs do.
fn name(stream: &spdy::Stream) -> Option<(String, u16)> {
    let port: u16 = stream.header("port")?.parse().ok().filter(|port| *port > 0)?;
    let id = match stream.header("requestid") {
        Some(id) => id.to_owned(),
        // The error stream comes first, the data stream has the next odd number.
        None => match stream.header("streamtype") {
            Some("error") => format!("stream-{}", stream.id()),
            _ => format!("stream-{}", stream.id().checked_sub(2)?),
        },
    };
    Some((id, port))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn connections_come_in_pairs_of_streams() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let client = async {
            let mut connection = Connection::client(Box::new(theirs));
            let headers = |kind, id| [("streamtype", kind), ("port", "8080"), ("requestid", id)];
            let mut first_error = connection.open(&headers("error", "0")).await.unwrap();
            let mut second_error = connection.open(&headers("error", "1")).await.unwrap();
            let mut first = connection.open(&headers("data", "0")).await.unwrap();
            let _second = connection.open(&headers("data", "1")).await.unwrap();
            first.writer.write_all(b"ping").await.unwrap();
            first.writer.shutdown().await.unwrap();
            let mut text = String::new();
            first.reader.read_to_string(&mut text).await.unwrap();
            let mut why = String::new();
            second_error.reader.read_to_string(&mut why).await.unwrap();
            let mut nothing = String::new();
            first_error.reader.read_to_string(&mut nothing).await.unwrap();
            (text, why, nothing)
        };
        let server = async {
            let mut forwards = over_spdy(Box::new(ours));
            let mut first = forwards.next().await.unwrap();
            assert_eq!(first.port, 8080);
            let mut text = String::new();
            first.reader.read_to_string(&mut text).await.unwrap();
            first
                .writer
                .write_all(text.to_uppercase().as_bytes())
                .await
                .unwrap();
            drop(first);
            forwards.next().await.unwrap().fail("refused").await.unwrap();
            forwards.closed.cancelled().await;
            assert!(forwards.next().await.is_none());
        };
        let ((text, why, nothing), ()) = tokio::join!(client, server);
        assert_eq!(
            (text.as_str(), why.as_str(), nothing.as_str()),
            ("PING", "refused", "")
        );
    }
}
