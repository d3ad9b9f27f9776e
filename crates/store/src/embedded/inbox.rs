//! What waits for the writer. Callers add and go on to await their answer; the writer takes all there is.

use crate::{Error, LeaseId, Result, Txn, TxnResponse};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

#[derive(Debug)]
pub(crate) enum Request {
    Txn(Txn, Reply<TxnResponse>),
    Compact(i64, Reply<()>),
    /// Seconds to live.
    Grant(u64, Reply<LeaseId>),
    Revoke(LeaseId, Reply<()>),
}

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: Vec<Request>,
    closed: bool,
}

impl Inbox {
    /// Hands a request to the writer and waits for its answer.
    pub(crate) async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(Error::Closed);
            }
            waiting.requests.push(request(reply));
        }
        self.arrived.notify_one();
        // The writer answers everything it took; it drops a request only by dying.
        answer.await.unwrap_or(Err(Error::Closed))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.waiting.lock().closed
    }

    /// Takes no more requests.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Takes no more requests and answers none that wait.
    pub(crate) fn abandon(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.requests.clear();
    }

    /// Everything that waits, after waiting for something. Nothing once closed and empty.
    pub(crate) fn take(&self) -> Option<Vec<Request>> {
        let mut waiting = self.waiting.lock();
        while waiting.requests.is_empty() {
            if waiting.closed {
                return None;
            }
            self.arrived.wait(&mut waiting);
        }
        Some(std::mem::take(&mut waiting.requests))
    }
}
