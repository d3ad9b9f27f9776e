//! etcd as the store: how several servers share one state.
//!
//! Each call is one call of etcd's v3 API, each watch one stream. What the trait promises, etcd promises; two
//! things cost an extra call: a range or compaction that is refused asks for the revisions that the
//! error names, which etcd does not say.
//!
//! The client is made of the few messages in `proto/`: the crate `etcd-client` needs `protoc` to build.
//!
//! Progress needs etcd 3.4.25 or 3.5.8; before those, etcd could tell of progress before an event it covers.

mod convert;
mod pb;
mod watch;

use crate::{
    Error, FIRST_REVISION, GetResponse, KeyRange, Lease, LeaseId, RangeRequest, RangeResponse, Result,
    Status, Store, Txn, TxnResponse, Watch, WatchRequest,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// etcd's default limit of a request, for the error that names it.
const REQUEST_LIMIT: usize = 1536 << 10;

/// As etcd's own client: a connection that says nothing for so long is asked, and then given up.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What TLS to etcd goes by, in PEM.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// Who vouches for etcd.
    pub authority: Option<String>,
    /// The certificate shown to etcd, and its key.
    pub identity: Option<(String, String)>,
}

impl EtcdTls {
    fn config(&self) -> ClientTlsConfig {
        let mut config = ClientTlsConfig::new();
        if let Some(authority) = &self.authority {
            config = config.ca_certificate(Certificate::from_pem(authority));
        }
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        config
    }
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EtcdTls")
    }
}

/// A client of an etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    channel: Channel,
    closed: tokio::sync::watch::Sender<bool>,
}

impl Etcd {
    /// Connects to any of the members, given as `http://host:port`.
    pub fn connect(endpoints: &[String]) -> Result<Self> {
        Self::connect_with(endpoints, &EtcdTls::default())
    }

    /// Connects to any of the members, those given as `https://host:port` over TLS.
    pub fn connect_with(endpoints: &[String], tls: &EtcdTls) -> Result<Self> {
        let endpoints = endpoints
            .iter()
            .map(|endpoint| {
                let endpoint = Self::tuned(Endpoint::from_shared(endpoint.clone())?);
                match endpoint.uri().scheme_str() {
                    Some("https") => endpoint.tls_config(tls.config()),
                    _ => Ok(endpoint),
                }
            })
            .collect::<Result<Vec<_>, tonic::transport::Error>>()
            .map_err(|error| unavailable("an etcd endpoint is not a URL", error))?;
        if endpoints.is_empty() {
            return Err(Error::Invalid("no etcd endpoint"));
        }
        Ok(Self::over(Channel::balance_list(endpoints.into_iter())))
    }

    /// Over a channel that somebody else has set up, with TLS for instance.
    pub fn over(channel: Channel) -> Self {
        let (closed, _) = tokio::sync::watch::channel(false);
        Self { channel, closed }
    }

    /// What every connection to etcd should have.
    pub fn tuned(endpoint: Endpoint) -> Endpoint {
        endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .tcp_nodelay(true)
    }

    fn kv(&self) -> Result<KvClient<Channel>> {
        // A list is as long as it is; etcd sets no limit on answers either.
        Ok(KvClient::new(self.channel()?).max_decoding_message_size(usize::MAX))
    }

    fn channel(&self) -> Result<Channel> {
        if *self.closed.borrow() {
            Err(Error::Closed)
        } else {
            Ok(self.channel.clone())
        }
    }

    /// The oldest revision that can be read, 0 if all can. Only the refusal of a watch tells.
    async fn compact_revision(&self) -> Result<i64> {
        let nothing = KeyRange::key("\0");
        let first = RangeRequest::new(nothing.clone())
            .at(FIRST_REVISION)
            .select(crate::Select::CountOnly);
        match self.kv()?.range(convert::range(&first)).await {
            Ok(_) => return Ok(0),
            Err(status) if matches!(convert::refusal(&status), convert::Refusal::Compacted) => {}
            Err(status) => return Err(convert::error(status)),
        }
        let request = WatchRequest::new(nothing, FIRST_REVISION);
        let mut standing = watch::begin(self.channel()?, &request).await?;
        while let Some(response) = standing.responses.message().await.map_err(convert::error)? {
            if response.compact_revision > 0 {
                return Ok(response.compact_revision);
            }
        }
        Err(unavailable(
            "etcd",
            tonic::Status::unavailable("it does not tell the compacted revision"),
        ))
    }

    /// The error for a status, with what etcd leaves out. `requested` is the revision that was asked for.
    async fn error(&self, status: tonic::Status, requested: i64, size: usize) -> Error {
        match convert::refusal(&status) {
            convert::Refusal::Compacted => match self.compact_revision().await {
                Ok(compact_revision) => Error::Compacted {
                    requested,
                    compact_revision,
                },
                Err(error) => error,
            },
            convert::Refusal::Future => match self.current_revision().await {
                Ok(current) => Error::FutureRevision { requested, current },
                Err(error) => error,
            },
            convert::Refusal::TooLarge => Error::TooLarge {
                size,
                limit: REQUEST_LIMIT,
            },
            convert::Refusal::Other(error) => error,
        }
    }
}

#[async_trait]
impl Store for Etcd {
    async fn get(&self, key: &[u8]) -> Result<GetResponse> {
        let request = RangeRequest::new(KeyRange::key(Bytes::copy_from_slice(key)));
        let response = self.range(request).await?;
        Ok(GetResponse {
            kv: response.kvs.into_iter().next(),
            revision: response.revision,
        })
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        match self.kv()?.range(convert::range(&request)).await {
            Ok(response) => Ok(convert::range_response(response.into_inner())),
            Err(status) => Err(self.error(status, request.revision, 0).await),
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        let size = txn.size();
        let past: Vec<i64> = txn
            .then
            .iter()
            .chain(&txn.otherwise)
            .filter_map(|op| match op {
                crate::Op::Range(request) => Some(request.revision),
                _ => None,
            })
            .collect();
        let put = txn.then.iter().chain(&txn.otherwise).find_map(|op| match op {
            crate::Op::Put { key, lease, .. } => Some((key.clone(), *lease)),
            _ => None,
        });
        match self.kv()?.txn(convert::txn(txn)).await {
            Ok(response) => Ok(convert::txn_response(response.into_inner())),
            Err(status) => Err(match self.error(status, 0, size).await {
                // The first range that it can have been.
                Error::Compacted { compact_revision, .. } => {
                    let requested = past.into_iter().find(|past| (1..compact_revision).contains(past));
                    Error::Compacted {
                        requested: requested.unwrap_or(0),
                        compact_revision,
                    }
                }
                Error::FutureRevision { current, .. } => {
                    let requested = past.into_iter().find(|past| *past > current);
                    Error::FutureRevision {
                        requested: requested.unwrap_or(0),
                        current,
                    }
                }
                Error::LeaseNotFound(_) => Error::LeaseNotFound(put.map_or(0, |(_, lease)| lease)),
                Error::DuplicateKey { .. } => Error::DuplicateKey {
                    key: put.map_or_else(Bytes::new, |(key, _)| key),
                },
                error => error,
            }),
        }
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch> {
        watch::watch(self.channel()?, request, self.closed.subscribe()).await
    }

    async fn compact(&self, revision: i64) -> Result<()> {
        match self.kv()?.compact(pb::CompactionRequest { revision }).await {
            Ok(_) => Ok(()),
            Err(status) => Err(self.error(status, revision, 0).await),
        }
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        let ttl = crate::lease::Lessor::round(ttl).as_secs();
        let request = pb::LeaseGrantRequest {
            ttl: i64::try_from(ttl).unwrap_or(i64::MAX),
        };
        let granted = LeaseClient::new(self.channel()?)
            .lease_grant(request)
            .await
            .map_err(convert::error)?;
        Ok(convert::lease(granted.get_ref().id, granted.get_ref().ttl))
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease> {
        let request = stream::iter([pb::LeaseKeepAliveRequest { id }]);
        let answers = LeaseClient::new(self.channel()?).lease_keep_alive(request).await;
        let answer = answers
            .map_err(convert::error)?
            .into_inner()
            .message()
            .await
            .map_err(convert::error)?;
        match answer {
            Some(answer) if answer.ttl > 0 => Ok(convert::lease(answer.id, answer.ttl)),
            _ => Err(Error::LeaseNotFound(id)),
        }
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        let revoked = LeaseClient::new(self.channel()?)
            .lease_revoke(pb::LeaseRevokeRequest { id })
            .await;
        revoked.map(drop).map_err(|status| match convert::error(status) {
            Error::LeaseNotFound(_) => Error::LeaseNotFound(id),
            error => error,
        })
    }

    async fn current_revision(&self) -> Result<i64> {
        let nothing = RangeRequest::new(KeyRange::key("\0")).select(crate::Select::CountOnly);
        let response = self
            .kv()?
            .range(convert::range(&nothing))
            .await
            .map_err(convert::error)?;
        Ok(convert::revision(response.get_ref().header.as_ref()))
    }

    async fn status(&self) -> Result<Status> {
        let status = MaintenanceClient::new(self.channel()?)
            .status(pb::StatusRequest {})
            .await;
        let status = status.map_err(convert::error)?.into_inner();
        let all = RangeRequest::new(KeyRange::all()).select(crate::Select::CountOnly);
        let all = self.range(all).await?;
        Ok(Status {
            revision: all.revision,
            compact_revision: self.compact_revision().await?,
            size: status.db_size.unsigned_abs(),
            size_in_use: status.db_size_in_use.unsigned_abs(),
            keys: all.count.unsigned_abs(),
        })
    }

    async fn close(&self) -> Result<()> {
        self.closed.send_replace(true);
        Ok(())
    }
}

fn unavailable(reason: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Unavailable {
        reason: reason.to_owned(),
        source: Some(Arc::new(source)),
    }
}
