//! A store whose watches break off every so often.

use async_trait::async_trait;
use futures::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use store::{
    Error, GetResponse, Lease, LeaseId, RangeRequest, RangeResponse, Result, Status, Store, Txn, TxnResponse,
    Watch, WatchRequest,
};

/// Breaks each watch after so many batches.
#[derive(Debug)]
pub(crate) struct Breaking {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) after: usize,
}

#[async_trait]
impl Store for Breaking {
    async fn get(&self, key: &[u8]) -> Result<GetResponse> {
        self.store.get(key).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        self.store.range(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        self.store.txn(txn).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch> {
        let watch = self.store.watch(request).await?;
        let progress = watch.progress_handle();
        let broken = futures::stream::once(async {
            Err(Error::Unavailable {
                reason: "the watch broke off".to_owned(),
                source: None,
            })
        });
        Ok(Watch::new(watch.take(self.after).chain(broken).boxed(), progress))
    }

    async fn compact(&self, revision: i64) -> Result<()> {
        self.store.compact(revision).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        self.store.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease> {
        self.store.lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.store.lease_revoke(id).await
    }

    async fn current_revision(&self) -> Result<i64> {
        self.store.current_revision().await
    }

    async fn status(&self) -> Result<Status> {
        self.store.status().await
    }

    async fn close(&self) -> Result<()> {
        self.store.close().await
    }
}
