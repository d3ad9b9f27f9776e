//! The server: sockets, the outer form of answers, and who answers what.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo, Server};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use crate::answer::{Answer, Zone};
use crate::forward::Forwarder;
use crate::index::Index;

/// How the server is to be.
#[derive(Debug)]
pub struct DnsOptions {
    pub zone: Zone,
    /// UDP and TCP, each.
    pub listen: Vec<SocketAddr>,
    pub forward: Forwarder,
}

/// A running server; it ends when this is dropped or stopped.
pub struct DnsServer {
    server: Server<Handler>,
    addresses: Vec<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
#[error("cluster DNS cannot listen on {address}")]
pub struct StartError {
    pub address: SocketAddr,
    #[source]
    pub source: std::io::Error,
}

/// Idle TCP connections end after this.
const TCP_IDLE: Duration = Duration::from_secs(10);
const TCP_ANSWERS: usize = 32;
/// No larger datagram crosses every network whole.
const LARGEST_UDP: u16 = 1232;
/// How many aliases of the cluster's own are followed.
const ALIASES: usize = 8;

impl DnsServer {
    pub async fn start(options: DnsOptions, index: Arc<dyn Index>) -> Result<Self, StartError> {
        let DnsOptions {
            zone,
            listen,
            mut forward,
        } = options;
        forward.never(listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_loopback()));
        forward.never(zone.server.iter().copied());
        let mut server = Server::new(Handler {
            zone,
            index,
            forward,
            turn: AtomicUsize::new(0),
        });
        let mut addresses = Vec::new();
        for address in listen {
            let failed = |source| StartError { address, source };
            let socket = UdpSocket::bind(address).await.map_err(failed)?;
            // Port 0 is any, but the same for both.
            let bound = socket.local_addr().map_err(failed)?;
            let listener = TcpListener::bind(bound).await.map_err(failed)?;
            server.register_socket(socket);
            server.register_listener(listener, TCP_IDLE, TCP_ANSWERS);
            addresses.push(bound);
        }
        Ok(DnsServer { server, addresses })
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub async fn stop(mut self) {
        if let Err(error) = self.server.shutdown_gracefully().await {
            tracing::debug!(%error, "cluster DNS ended");
        }
    }
}

struct Handler {
    zone: Zone,
    index: Arc<dyn Index>,
    forward: Forwarder,
    /// Answers begin with another address each time.
    turn: AtomicUsize,
}

/// What goes into each part of the message.
#[derive(Default)]
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authority: Vec<Record>,
    additional: Vec<Record>,
}

impl Reply {
    fn code(code: ResponseCode) -> Self {
        Reply {
            code,
            ..Reply::default()
        }
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut respond: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, LARGEST_UDP));
            edns.set_version(0);
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let message = builder.build(
            metadata,
            &reply.answers,
            &reply.authority,
            std::iter::empty(),
            &reply.additional,
        );
        match respond.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "DNS answer not sent");
                let mut metadata = Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
                metadata.response_code = ResponseCode::ServFail;
                ResponseInfo::from(Header {
                    metadata,
                    counts: HeaderCounts::default(),
                })
            }
        }
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query {
            return Reply::code(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Reply::code(ResponseCode::BADVERS);
        }
        let Ok(info) = request.request_info() else {
            return Reply::code(ResponseCode::FormErr);
        };
        let question = info.query.original();
        if question.query_class() != DNSClass::IN {
            return Reply::code(ResponseCode::Refused);
        }
        let outcome = if self.zone.contains(question.name()) {
            self.of_the_cluster(question.name(), question.query_type()).await
        } else {
            self.of_others(question).await
        };
        outcome.unwrap_or_else(|error| {
            tracing::debug!(name = %question.name(), %error, "name cannot be answered");
            Reply::code(ResponseCode::ServFail)
        })
    }

    async fn of_the_cluster(&self, name: &Name, kind: RecordType) -> Result<Reply, ProtoError> {
        if !self.index.is_ready() {
            return Ok(Reply::code(ResponseCode::ServFail));
        }
        let mut reply = Reply {
            authoritative: true,
            ..Reply::default()
        };
        let mut name = name.clone();
        for _ in 0..ALIASES {
            match self.zone.answer(self.index.as_ref(), &name, kind)? {
                Answer::Records { answers, additional } => {
                    reply.answers.extend(self.turned(answers));
                    reply.additional = additional;
                    return Ok(reply);
                }
                Answer::NoData => {
                    reply.authority.push(self.zone.soa()?);
                    return Ok(reply);
                }
                Answer::NoName => {
                    reply.code = ResponseCode::NXDomain;
                    reply.authority.push(self.zone.soa()?);
                    return Ok(reply);
                }
                Answer::Alias(record, target) => {
                    reply.answers.push(record);
                    if self.zone.contains(&target) {
                        name = target;
                        continue;
                    }
                    // The alias itself is an answer, so a target that cannot be found out takes nothing away.
                    match self.forward.ask(&Query::query(target, kind)).await {
                        Ok(answer) => reply.answers.extend(answer.answers),
                        Err(error) => tracing::debug!(%error, "target of an external name"),
                    }
                    return Ok(reply);
                }
            }
        }
        Ok(reply)
    }

    async fn of_others(&self, question: &Query) -> Result<Reply, ProtoError> {
        if question.query_type() == RecordType::PTR
            && let Some(ip) = reversed(question.name())
            && self.index.is_ready()
            && let Some(Answer::Records { answers, additional }) =
                self.zone.reverse(self.index.as_ref(), question.name(), ip)?
        {
            return Ok(Reply {
                authoritative: true,
                answers,
                additional,
                ..Reply::default()
            });
        }
        match self.forward.ask(question).await {
            Ok(answer) => Ok(Reply {
                code: answer.metadata.response_code,
                authoritative: false,
                answers: answer.answers,
                authority: answer.authorities,
                additional: answer.additionals,
            }),
            Err(error) => {
                tracing::debug!(name = %question.name(), %error, "not forwarded");
                Ok(Reply::code(ResponseCode::ServFail))
            }
        }
    }

    /// The same records, beginning with another one each time.
    fn turned(&self, mut records: Vec<Record>) -> Vec<Record> {
        if records.len() > 1 {
            let by = self.turn.fetch_add(1, Ordering::Relaxed) % records.len();
            records.rotate_left(by);
        }
        records
    }
}

/// The address a name in `in-addr.arpa` or `ip6.arpa` stands for, if it stands for a single one.
fn reversed(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

#[cfg(test)]
mod tests;
