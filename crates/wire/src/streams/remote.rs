//! Exec and attach: named streams, terminal sizes, and the status at the end.

use std::io;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::spdy::{self, Connection};
use super::{BoxIo, Reader, Writer};

/// How long a client may take to open its streams, upstream's figure.
const OPENING: Duration = Duration::from_secs(30);

/// Which streams are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// A client at the other end of a process. Ends with [`Streams::finish`].
#[derive(Debug)]
pub struct Streams {
    pub stdin: Option<Reader>,
    pub stdout: Option<Writer>,
    pub stderr: Option<Writer>,
    /// The client's terminal, whenever it changes.
    pub resize: mpsc::Receiver<TerminalSize>,
    /// The way back of the stdin stream. Nothing is sent on it, but its end tells kubectl to stop sending.
    pub(super) stdin_back: Option<Writer>,
    pub(super) status: Writer,
    pub(super) form: StatusForm,
    /// Cancelled when the client has gone.
    pub closed: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// The process ended with another code than zero; with the command for the message.
    ExitCode {
        code: i32,
        command: Vec<String>,
    },
    /// It could not be run, or not be watched to its end.
    Failed(String),
}

/// How a protocol's version tells the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusForm {
    /// A `Status` object, always: version 4 and later.
    Object,
    /// The error's text, if there was one.
    Text,
}

impl StatusForm {
    pub(super) fn of(protocol: &str) -> StatusForm {
        match protocol.starts_with("v4.") || protocol.starts_with("v5.") {
            true => StatusForm::Object,
            false => StatusForm::Text,
        }
    }
}

impl Streams {
    /// Tells the client how it went and ends all streams.
    pub async fn finish(mut self, outcome: Outcome) -> io::Result<()> {
        for stream in [&mut self.stdin_back, &mut self.stdout, &mut self.stderr]
            .into_iter()
            .flatten()
        {
            stream.shutdown().await?;
        }
        let text = match self.form {
            StatusForm::Object => outcome.status().to_string(),
            StatusForm::Text => outcome.text(),
        };
        self.status.write_all(text.as_bytes()).await?;
        self.status.shutdown().await
    }
}

impl Outcome {
    /// Upstream's `Status`.
    fn status(&self) -> serde_json::Value {
        match self {
            Outcome::Success => json!({"metadata": {}, "status": "Success"}),
            Outcome::ExitCode { code, .. } => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.text(),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Outcome::Failed(message) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {message}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": message}]},
                "code": 500,
            }),
        }
    }

    fn text(&self) -> String {
        match self {
            Outcome::Success => String::new(),
            Outcome::ExitCode { code, command } => format!(
                "command terminated with non-zero exit code: error executing command [{}], exit code {code}",
                command.join(" ")
            ),
            Outcome::Failed(message) => message.clone(),
        }
    }
}

/// The SPDY form: the client opens a stream for each, named by the header `streamtype`.
pub(super) async fn over_spdy(io: BoxIo, protocol: &str, options: Options) -> io::Result<Streams> {
    let mut connection = Connection::server(io);
    let mut opened = Opened::default();
    // From version 3 on a terminal's size has a stream.
    let sized = options.tty && !matches!(protocol, "v2.channel.k8s.io" | "channel.k8s.io");
    let wanted = 1
        + usize::from(options.stdin)
        + usize::from(options.stdout)
        + usize::from(options.stderr)
        + usize::from(sized);
    let all = async {
        while opened.count < wanted {
            let Some(stream) = connection.accept().await else {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            };
            opened.take(stream);
        }
        Ok(())
    };
    tokio::time::timeout(OPENING, all).await.map_err(|_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            "timed out waiting for client to create streams",
        )
    })??;
    let (sizes, resize) = mpsc::channel(4);
    if let Some(stream) = opened.resize {
        tokio::spawn(read_sizes(stream, sizes));
    }
    let status = opened.error.ok_or(io::ErrorKind::InvalidData)?;
    let (stdin, stdin_back) = opened.stdin.map(|stream| (stream.reader, stream.writer)).unzip();
    Ok(Streams {
        stdin,
        stdin_back,
        stdout: opened.stdout.map(|stream| stream.writer),
        stderr: opened.stderr.map(|stream| stream.writer),
        resize,
        status: status.writer,
        form: StatusForm::of(protocol),
        closed: connection.closed(),
    })
}

#[derive(Default)]
struct Opened {
    count: usize,
    error: Option<spdy::Stream>,
    stdin: Option<spdy::Stream>,
    stdout: Option<spdy::Stream>,
    stderr: Option<spdy::Stream>,
    resize: Option<spdy::Stream>,
}

impl Opened {
    fn take(&mut self, stream: spdy::Stream) {
        let place = match stream.header("streamtype") {
            Some("error") => &mut self.error,
            Some("stdin") => &mut self.stdin,
            Some("stdout") => &mut self.stdout,
            Some("stderr") => &mut self.stderr,
            Some("resize") => &mut self.resize,
            // Unknown streams are closed by being dropped.
            _ => return,
        };
        if place.replace(stream).is_none() {
            self.count += 1;
        }
    }
}

/// The resize stream is one JSON object after the other, cut anywhere.
async fn read_sizes(mut stream: spdy::Stream, sizes: mpsc::Sender<TerminalSize>) {
    let mut buffer = Vec::new();
    let mut chunk = [0; 512];
    loop {
        match stream.reader.read(&mut chunk).await {
            Ok(got) if got > 0 => buffer.extend_from_slice(&chunk[..got]),
            _ => return,
        }
        while let Some(end) = buffer.iter().position(|b| *b == b'}') {
            let object: Vec<u8> = buffer.drain(..=end).collect();
            if let Some(size) = parse_size(&object)
                && sizes.send(size).await.is_err()
            {
                return;
            }
        }
        if buffer.len() > 4096 {
            return;
        }
    }
}

pub(super) fn parse_size(object: &[u8]) -> Option<TerminalSize> {
    let value: serde_json::Value = serde_json::from_slice(object).ok()?;
    let side = |name: &str| {
        value
            .get(name)
            .and_then(|v| v.as_u64())
            .and_then(|v| u16::try_from(v).ok())
    };
    // Go matches names without regard to case; clients write them both ways.
    let width = side("Width").or_else(|| side("width"))?;
    let height = side("Height").or_else(|| side("height"))?;
    Some(TerminalSize { width, height })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_upstreams_form() {
        let exit = Outcome::ExitCode {
            code: 3,
            command: vec!["sh".into(), "-c".into(), "exit 3".into()],
        };
        assert_eq!(
            exit.status(),
            json!({
                "metadata": {},
                "status": "Failure",
                "message": "command terminated with non-zero exit code: error executing command [sh -c exit 3], exit code 3",
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
            })
        );
        assert_eq!(
            Outcome::Success.status(),
            json!({"metadata": {}, "status": "Success"})
        );
        assert_eq!(Outcome::Success.text(), "");
    }

    #[test]
    fn sizes_are_read() {
        let size = TerminalSize {
            width: 80,
            height: 24,
        };
        assert_eq!(parse_size(br#"{"Width":80,"Height":24}"#), Some(size));
        assert_eq!(parse_size(br#"{"width":80,"height":24}"#), Some(size));
        assert_eq!(parse_size(b"{}"), None);
    }

    #[tokio::test]
    async fn a_command_over_spdy() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let client = async {
            let mut connection = Connection::client(Box::new(theirs));
            let mut open = async |name: &str| connection.open(&[("streamtype", name)]).await.unwrap();
            let mut error = open("error").await;
            let stdin = open("stdin").await;
            let mut stdout = open("stdout").await;
            let mut resize = open("resize").await;
            let (mut stdin_back, mut stdin) = (stdin.reader, stdin.writer);
            // As kubectl does: the server's end of this stream stops the sending.
            let mut stopped = tokio::spawn(async move { stdin_back.read_to_end(&mut Vec::new()).await });
            resize
                .writer
                .write_all(br#"{"Width":1,"Height":2}{"Width":3,"#)
                .await
                .unwrap();
            resize.writer.write_all(br#""Height":4}"#).await.unwrap();
            stdin.write_all(&b"typed".repeat(50_000)).await.unwrap();
            assert!(tokio::time::timeout(Duration::ZERO, &mut stopped).await.is_err());
            stdin.shutdown().await.unwrap();
            let (mut out, mut status) = (Vec::new(), String::new());
            stdout.reader.read_to_end(&mut out).await.unwrap();
            error.reader.read_to_string(&mut status).await.unwrap();
            (out.len(), status)
        };
        let server = async {
            let options = Options {
                stdin: true,
                stdout: true,
                stderr: false,
                tty: true,
            };
            let mut streams = over_spdy(Box::new(ours), "v4.channel.k8s.io", options)
                .await
                .unwrap();
            assert_eq!(
                streams.resize.recv().await,
                Some(TerminalSize { width: 1, height: 2 })
            );
            assert_eq!(
                streams.resize.recv().await,
                Some(TerminalSize { width: 3, height: 4 })
            );
            let (mut stdin, mut stdout) = (streams.stdin.take().unwrap(), streams.stdout.take().unwrap());
            tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
            streams.stdout = Some(stdout);
            streams
                .finish(Outcome::ExitCode {
                    code: 2,
                    command: vec!["x".into()],
                })
                .await
                .unwrap();
        };
        let ((len, status), ()) = tokio::join!(client, server);
        assert_eq!(len, 250_000);
        assert!(status.contains(r#""reason":"NonZeroExitCode""#), "{status}");
    }
}
