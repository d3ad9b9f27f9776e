//! A store seen through another prefix: several clusters can share one etcd.
//!
//! Whoever uses the store knows its keys below [`ROOT`]; the store beneath has them below a prefix of the operator's
//! choice. **Invariant:** nothing outside that prefix can be read, written or watched from here.

use crate::{
    Batch, Compare, Error, GetResponse, KeyRange, KeyValue, Lease, LeaseId, Op, OpResponse, RangeRequest,
    RangeResponse, Result, Status, Store, Txn, TxnResponse, Watch, WatchRequest,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;

/// The prefix that users of a store know.
const ROOT: &[u8] = b"/registry";

/// A store below another prefix than `/registry`.
#[derive(Debug)]
pub struct Elsewhere {
    inner: Arc<dyn Store>,
    prefix: Bytes,
}

impl Elsewhere {
    /// `prefix` as upstream's `--etcd-prefix`: with or without slashes around it.
    pub fn new(inner: Arc<dyn Store>, prefix: &str) -> Self {
        let parts = prefix.split('/').filter(|part| !part.is_empty());
        let prefix: String = parts.flat_map(|part| ["/", part]).collect();
        Self {
            inner,
            prefix: prefix.into(),
        }
    }

    fn there(&self, key: &[u8]) -> Result<Bytes> {
        match key.strip_prefix(ROOT) {
            Some(rest) => Ok([&self.prefix[..], rest].concat().into()),
            None => Err(Error::Invalid("the key is not below /registry")),
        }
    }

    fn range_there(&self, range: &KeyRange) -> Result<KeyRange> {
        Ok(KeyRange {
            start: self.there(&range.start)?,
            end: match &range.end {
                Some(end) => Some(self.there(end)?),
                None => return Err(Error::Invalid("the range has no end")),
            },
        })
    }

    fn op_there(&self, op: Op) -> Result<Op> {
        Ok(match op {
            Op::Put { key, value, lease } => Op::Put {
                key: self.there(&key)?,
                value,
                lease,
            },
            Op::Delete(range) => Op::Delete(self.range_there(&range)?),
            Op::Range(request) => Op::Range(self.request_there(request)?),
        })
    }

    fn request_there(&self, request: RangeRequest) -> Result<RangeRequest> {
        Ok(RangeRequest {
            range: self.range_there(&request.range)?,
            ..request
        })
    }

    fn range_here(&self, mut response: RangeResponse) -> RangeResponse {
        response.kvs.iter_mut().for_each(|kv| here(&self.prefix, kv));
        response
    }
}

/// The key as users know it.
fn here(prefix: &[u8], kv: &mut KeyValue) {
    if let Some(rest) = kv.key.strip_prefix(prefix) {
        kv.key = [ROOT, rest].concat().into();
    }
}

#[async_trait]
impl Store for Elsewhere {
    async fn get(&self, key: &[u8]) -> Result<GetResponse> {
        let mut response = self.inner.get(&self.there(key)?).await?;
        response.kv.iter_mut().for_each(|kv| here(&self.prefix, kv));
        Ok(response)
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        let response = self.inner.range(self.request_there(request)?).await?;
        Ok(self.range_here(response))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        let there = |ops: Vec<Op>| ops.into_iter().map(|op| self.op_there(op)).collect::<Result<_>>();
        let compare = txn.compare.into_iter().map(|compare| {
            Ok(Compare {
                key: self.there(&compare.key)?,
                ..compare
            })
        });
        let txn = Txn {
            compare: compare.collect::<Result<_>>()?,
            then: there(txn.then)?,
            otherwise: there(txn.otherwise)?,
        };
        let mut response = self.inner.txn(txn).await?;
        for answer in &mut response.responses {
            match answer {
                OpResponse::Put => {}
                OpResponse::Delete(deleted) => {
                    deleted.deleted.iter_mut().for_each(|kv| here(&self.prefix, kv));
                }
                OpResponse::Range(range) => *range = self.range_here(std::mem::take(range)),
            }
        }
        Ok(response)
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch> {
        let request = WatchRequest {
            range: self.range_there(&request.range)?,
            ..request
        };
        let watch = self.inner.watch(request).await?;
        let (progress, prefix) = (watch.progress_handle(), self.prefix.clone());
        let batches = watch.map(move |batch| {
            batch.map(|mut batch: Batch| {
                for event in &mut batch.events {
                    here(&prefix, &mut event.kv);
                    event.prev.iter_mut().for_each(|kv| here(&prefix, kv));
                }
                batch
            })
        });
        Ok(Watch::new(batches.boxed(), progress))
    }

    async fn compact(&self, revision: i64) -> Result<()> {
        self.inner.compact(revision).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        self.inner.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease> {
        self.inner.lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.inner.lease_revoke(id).await
    }

    async fn current_revision(&self) -> Result<i64> {
        self.inner.current_revision().await
    }

    async fn status(&self) -> Result<Status> {
        self.inner.status().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;

    #[tokio::test]
    async fn keys_are_below_the_prefix_there_and_below_registry_here() {
        let memory: Arc<dyn Store> = Arc::new(Memory::new());
        let store = Elsewhere::new(Arc::clone(&memory), "clusters//one/");
        let mut watch = store
            .watch(WatchRequest::new(KeyRange::prefix("/registry/"), 0))
            .await
            .unwrap();
        store.txn(Txn::create("/registry/pods/a", "v", 0)).await.unwrap();
        memory.txn(Txn::put("/registry/pods/b", "w")).await.unwrap();
        assert!(memory.get(b"/clusters/one/pods/a").await.unwrap().kv.is_some());
        let found = store.get(b"/registry/pods/a").await.unwrap().kv.unwrap();
        assert_eq!(found.key, "/registry/pods/a");
        let all = RangeRequest::new(KeyRange::prefix("/registry/"));
        assert_eq!(store.range(all).await.unwrap().kvs, [found]);
        let event = watch.next().await.unwrap().unwrap().events.remove(0);
        assert_eq!(event.kv.key, "/registry/pods/a");
        let refused = store.txn(Txn::create("/registry/pods/a", "x", 0)).await.unwrap();
        assert_eq!(refused.found().unwrap().key, "/registry/pods/a");
        assert!(store.get(b"/clusters/two/pods/a").await.is_err());
    }
}
