//! One watch, one stream. etcd's flow control holds back what is not read, so a slow reader costs a window here
//! and etcd's own catching up there.

use super::pb::watch_client::WatchClient;
use super::pb::watch_request::RequestUnion;
use super::{convert, pb};
use crate::{Batch, Error, ProgressHandle, Result, Watch, WatchRequest};
use futures::StreamExt;
use futures::stream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// A watch that etcd has.
pub(super) struct Standing {
    pub(super) requests: mpsc::UnboundedSender<pb::WatchRequest>,
    pub(super) responses: Streaming<pb::WatchResponse>,
}

struct Feed {
    /// Held so that the stream stays open.
    _requests: mpsc::UnboundedSender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
    closed: watch::Receiver<bool>,
    requested: i64,
    ended: bool,
}

pub(super) async fn watch(
    channel: Channel,
    request: WatchRequest,
    closed: watch::Receiver<bool>,
) -> Result<Watch> {
    let requested = request.from_revision;
    let Standing { requests, responses } = begin(channel, &request).await?;
    let progress = ProgressHandle::new({
        let (requests, wanted) = (requests.clone(), request.progress);
        move || {
            if wanted {
                ask_progress(&requests);
            }
        }
    });
    progress.request();
    let feed = Feed {
        _requests: requests,
        responses,
        closed,
        requested,
        ended: false,
    };
    Ok(Watch::new(stream::unfold(feed, Feed::step).boxed(), progress))
}

/// Opens the stream and waits until etcd has the watch.
pub(super) async fn begin(channel: Channel, request: &WatchRequest) -> Result<Standing> {
    let (requests, queue) = mpsc::unbounded_channel();
    let (key, range_end) = convert::bounds(&request.range);
    let create = pb::WatchCreateRequest {
        key,
        range_end,
        start_revision: request.from_revision,
        prev_kv: request.prev_kv,
    };
    send(&requests, RequestUnion::CreateRequest(create));
    let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let responses = client.watch(UnboundedReceiverStream::new(queue)).await;
    let mut responses = responses.map_err(convert::error)?.into_inner();
    match responses.message().await.map_err(convert::error)? {
        Some(first) if first.created && !first.canceled => Ok(Standing { requests, responses }),
        Some(first) => Err(refused(first.cancel_reason)),
        None => Err(refused("the stream ended".to_owned())),
    }
}

impl Feed {
    async fn step(mut self) -> Option<(Result<Batch>, Self)> {
        if self.ended {
            return None;
        }
        let batch = self.next().await.transpose()?;
        self.ended = batch.is_err();
        Some((batch, self))
    }

    async fn next(&mut self) -> Result<Option<Batch>> {
        loop {
            let response = tokio::select! {
                // What has come is delivered before the end.
                biased;
                response = self.responses.message() => response.map_err(convert::error)?,
                _ = self.closed.wait_for(|closed| *closed) => return Ok(None),
            };
            let Some(response) = response else {
                return Err(refused("the stream ended".to_owned()));
            };
            if response.compact_revision > 0 {
                let (requested, compact_revision) = (self.requested, response.compact_revision);
                return Err(Error::Compacted {
                    requested,
                    compact_revision,
                });
            }
            if response.canceled {
                return Err(refused(response.cancel_reason));
            }
            if response.created {
                continue;
            }
            let events: Vec<_> = response.events.into_iter().map(convert::event).collect();
            // etcd's header may run ahead of what a lagging watch was sent.
            let told = events.last().map(|event| event.kv.mod_revision);
            let revision = told.unwrap_or_else(|| convert::revision(response.header.as_ref()));
            self.requested = self.requested.max(revision + 1);
            return Ok(Some(Batch { revision, events }));
        }
    }
}

fn ask_progress(requests: &mpsc::UnboundedSender<pb::WatchRequest>) {
    send(
        requests,
        RequestUnion::ProgressRequest(pb::WatchProgressRequest {}),
    );
}

fn send(requests: &mpsc::UnboundedSender<pb::WatchRequest>, union: RequestUnion) {
    // Nobody receives only if the stream has ended, and then its reader knows.
    drop(requests.send(pb::WatchRequest {
        request_union: Some(union),
    }));
}

fn refused(reason: String) -> Error {
    Error::Unavailable {
        reason: format!("etcd ended a watch: {reason}"),
        source: None,
    }
}
