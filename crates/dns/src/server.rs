//! The server: sockets, the outer form of answers, and who answers what.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use client::Informers;
use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use crate::answer::{Answer, Zone};
use crate::forward::{ForwardError, Forwarder};
use crate::index::{Index, InformerIndex};

/// How the server is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// UDP and TCP, each.
    pub listen: Vec<SocketAddr>,
    /// As in `cluster.local`.
    pub cluster_domain: String,
    /// Whose name servers are asked about names outside the cluster.
    pub resolv_conf: PathBuf,
    /// Where clients find the server: the cluster IP of `kube-dns`.
    pub cluster_dns: IpAddr,
}

/// A running server; it ends when this is dropped or stopped.
pub struct Server {
    server: hickory_server::Server<Handler>,
    addresses: Vec<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cluster DNS cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("{name:?} is no domain name")]
    BadDomain {
        name: String,
        #[source]
        source: ProtoError,
    },
}

/// Idle TCP connections end after this.
const TCP_IDLE: Duration = Duration::from_secs(10);
const TCP_ANSWERS: usize = 32;
/// No larger datagram crosses every network whole.
const LARGEST_UDP: u16 = 1232;
/// How many aliases of the cluster's own are followed.
const ALIASES: usize = 8;

impl Server {
    /// Answers from the process's informers.
    pub async fn start(informers: &Informers, options: Options) -> Result<Self, StartError> {
        let forward = Forwarder::from_resolv_conf(&options.resolv_conf);
        Self::start_from(Arc::new(InformerIndex::new(informers)), forward, options).await
    }

    /// Answers from any index, and asks others as told.
    pub async fn start_from(
        index: Arc<dyn Index>,
        mut forward: Forwarder,
        options: Options,
    ) -> Result<Self, StartError> {
        let Options {
            listen,
            cluster_domain,
            resolv_conf: _,
            cluster_dns,
        } = options;
        let zone = Zone::new(&cluster_domain, vec![cluster_dns]).map_err(|source| StartError::BadDomain {
            name: cluster_domain,
            source,
        })?;
        forward.never(listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_loopback()));
        forward.never([cluster_dns]);
        let mut server = hickory_server::Server::new(Handler {
            zone,
            index,
            forward,
            turn: AtomicUsize::new(0),
        });
        let mut addresses = Vec::new();
        for address in listen {
            let failed = |source| StartError::Listen { address, source };
            let socket = UdpSocket::bind(address).await.map_err(failed)?;
            // Port 0 is any, but the same for both.
            let bound = socket.local_addr().map_err(failed)?;
            let listener = TcpListener::bind(bound).await.map_err(failed)?;
            server.register_socket(socket);
            server.register_listener(listener, TCP_IDLE, TCP_ANSWERS);
            addresses.push(bound);
        }
        Ok(Server { server, addresses })
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
                    reply.answers.push(*record);
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
                // Without anybody to ask, the cluster's names are all there are; a resolver then goes on with its
                // search list, where a failure would make it give up.
                Ok(Reply::code(match error {
                    ForwardError::NoServer => ResponseCode::NXDomain,
                    ForwardError::NoAnswer => ResponseCode::ServFail,
                }))
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
