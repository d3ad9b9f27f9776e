//! Names outside the cluster: asked of the name servers in the host's `resolv.conf`.
//!
//! Each query goes out on a fresh socket with a fresh id, and only an answer to that very question counts.
//! A truncated answer is asked for again over TCP.
//!
//! **Invariant:** the server never asks itself: its own addresses are struck from the list, however they
//! got there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

/// The name servers to ask, in order.
#[derive(Debug)]
pub struct Forwarder {
    source: Source,
    /// Addresses that lead back to this server.
    own: Vec<IpAddr>,
}

#[derive(Debug)]
enum Source {
    Fixed(Vec<SocketAddr>),
    File { path: PathBuf, read: Mutex<ReadFile> },
}

#[derive(Debug, Default)]
struct ReadFile {
    servers: Vec<SocketAddr>,
    modified: Option<SystemTime>,
    looked: Option<Instant>,
}

/// How long one server may take before the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the file is looked at for changes, when there is something to forward at all.
const LOOK: Duration = Duration::from_secs(5);
const LONGEST_UDP: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("no name server is configured for names outside the cluster")]
    NoServer,
    #[error("no name server answered")]
    NoAnswer,
}

impl Forwarder {
    pub fn to(servers: Vec<SocketAddr>) -> Self {
        Forwarder {
            source: Source::Fixed(servers),
            own: Vec::new(),
        }
    }

    /// To the name servers of a `resolv.conf`, which is read again when it changes.
    pub fn from_resolv_conf(path: impl Into<PathBuf>) -> Self {
        Forwarder {
            source: Source::File {
                path: path.into(),
                read: Mutex::default(),
            },
            own: Vec::new(),
        }
    }

    /// Never asks these.
    pub(crate) fn never(&mut self, own: impl IntoIterator<Item = IpAddr>) {
        self.own.extend(own);
    }

    /// The upstream's answer to a question.
    pub(crate) async fn ask(&self, question: &Query) -> Result<Message, ForwardError> {
        let servers = self.servers();
        if servers.is_empty() {
            return Err(ForwardError::NoServer);
        }
        for server in servers {
            match timeout(PATIENCE, exchange(server, question)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "name server failed"),
                Err(_) => tracing::debug!(%server, "name server silent"),
            }
        }
        Err(ForwardError::NoAnswer)
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let all = match &self.source {
            Source::Fixed(servers) => servers.clone(),
            Source::File { path, read } => {
                let mut read = read.lock();
                if read.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
                    read.looked = Some(Instant::now());
                    let modified = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
                    if modified.is_none() || modified != read.modified {
                        read.modified = modified;
                        read.servers = match std::fs::read_to_string(path) {
                            Ok(text) => name_servers(&text),
                            Err(error) => {
                                tracing::warn!(path = %path.display(), %error, "no name servers");
                                Vec::new()
                            }
                        };
                    }
                }
                read.servers.clone()
            }
        };
        all.into_iter()
            .filter(|server| !self.own.contains(&server.ip()))
            .collect()
    }
}

/// The `nameserver` lines of a `resolv.conf`.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words
                .next()
                .filter(|word| *word == "nameserver")
                .and_then(|_| words.next())?;
            // A scope (`fe80::1%eth0`) cannot be put into an address without asking the kernel.
            Some(SocketAddr::from((address.parse::<IpAddr>().ok()?, 53)))
        })
        .collect()
}

async fn exchange(server: SocketAddr, question: &Query) -> std::io::Result<Message> {
    let id: u16 = rand::random();
    let mut query = Message::new(id, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(question.clone());
    let mut edns = hickory_proto::op::Edns::new();
    edns.set_max_payload(1232);
    query.set_edns(edns);
    let bytes = query.to_vec().map_err(std::io::Error::other)?;

    let local: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; LONGEST_UDP];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answers(&answer, id, question) => {
                if answer.metadata.truncation {
                    return exchange_tcp(server, &bytes, id, question).await;
                }
                return Ok(answer);
            }
            // Somebody else's, late or forged.
            _ => continue,
        }
    }
}

async fn exchange_tcp(
    server: SocketAddr,
    query: &[u8],
    id: u16,
    question: &Query,
) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(std::io::Error::other)?;
    if answers(&answer, id, question) {
        return Ok(answer);
    }
    Err(std::io::Error::other("an answer to another question"))
}

fn answers(answer: &Message, id: u16, question: &Query) -> bool {
    answer.metadata.id == id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries.first().is_some_and(|asked| {
            asked.query_type() == question.query_type()
                && asked.name().to_lowercase() == question.name().to_lowercase()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_and_own_addresses_are_struck() {
        let text = "# comment\nsearch example.org\nnameserver 192.0.2.1\nnameserver  2001:db8::1 \n\
                    nameserver fe80::1%eth0\nnameserver 10.96.0.10\noptions ndots:5\n";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        std::fs::write(&path, text).unwrap();
        let mut forwarder = Forwarder::from_resolv_conf(&path);
        forwarder.never(["10.96.0.10".parse().unwrap()]);
        let found: Vec<String> = forwarder.servers().iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }

    #[tokio::test]
    async fn without_a_server_there_is_a_clear_error() {
        let question = Query::query(
            hickory_proto::rr::Name::from_ascii("example.org.").unwrap(),
            hickory_proto::rr::RecordType::A,
        );
        let error = Forwarder::to(Vec::new()).ask(&question).await.unwrap_err();
        assert!(matches!(error, ForwardError::NoServer));
    }
}
