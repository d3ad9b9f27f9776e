//! Leases in memory: time to live, and which keys hang on which lease. Shared by the engines of this
//! crate, which make leases durable themselves.
//!
//! Deadlines are on tokio's clock, so a paused runtime drives them. As in etcd a deadline is not
//! stored: a lease found at start-up lives its whole time again. One task sleeps until the
//! earliest deadline; with no lease there is no task.

use crate::{Error, Lease, LeaseId, Result};
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long an expired lease waits when its keys could not be deleted.
const RETRY: Duration = Duration::from_secs(1);

/// Revokes a lease; false if it must be tried again.
pub(crate) type Revoke = Arc<dyn Fn(LeaseId) -> BoxFuture<'static, bool> + Send + Sync>;

#[derive(Debug, Default, Clone)]
pub(crate) struct Lessor(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    leases: HashMap<LeaseId, Held>,
    running: bool,
    closed: bool,
}

#[derive(Debug)]
struct Held {
    ttl: Duration,
    deadline: Instant,
    keys: BTreeSet<Bytes>,
}

impl Lessor {
    /// Whole seconds, as etcd grants them.
    pub(crate) fn round(ttl: Duration) -> Duration {
        let up = u64::from(ttl.subsec_nanos() > 0);
        Duration::from_secs(ttl.as_secs().saturating_add(up).clamp(1, u64::from(u32::MAX)))
    }

    /// Starts a lease, and the task that ends it. Must be called inside a tokio runtime.
    pub(crate) fn grant(&self, id: LeaseId, ttl: Duration, revoke: &Revoke) {
        let mut state = self.0.state.lock();
        let deadline = Instant::now() + ttl;
        state.leases.insert(
            id,
            Held {
                ttl,
                deadline,
                keys: BTreeSet::new(),
            },
        );
        if !state.running && !state.closed {
            state.running = true;
            tokio::spawn(self.clone().run(revoke.clone()));
        }
        drop(state);
        self.0.changed.notify_one();
    }

    pub(crate) fn keep_alive(&self, id: LeaseId) -> Result<Lease> {
        let mut state = self.0.state.lock();
        let held = state.leases.get_mut(&id).ok_or(Error::LeaseNotFound(id))?;
        held.deadline = Instant::now() + held.ttl;
        Ok(Lease { id, ttl: held.ttl })
    }

    pub(crate) fn exists(&self, id: LeaseId) -> bool {
        self.0.state.lock().leases.contains_key(&id)
    }

    /// A key moved from one lease to another; 0 is none.
    pub(crate) fn attach(&self, key: &Bytes, old: LeaseId, new: LeaseId) {
        if old == new {
            return;
        }
        let mut state = self.0.state.lock();
        if let Some(held) = state.leases.get_mut(&old) {
            held.keys.remove(key);
        }
        if let Some(held) = state.leases.get_mut(&new) {
            held.keys.insert(key.clone());
        }
    }

    /// The keys that go when the lease goes.
    pub(crate) fn keys(&self, id: LeaseId) -> Result<Vec<Bytes>> {
        let state = self.0.state.lock();
        let held = state.leases.get(&id).ok_or(Error::LeaseNotFound(id))?;
        Ok(held.keys.iter().cloned().collect())
    }

    pub(crate) fn remove(&self, id: LeaseId) {
        self.0.state.lock().leases.remove(&id);
    }

    /// Ends the task.
    pub(crate) fn close(&self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_one();
    }

    async fn run(self, revoke: Revoke) {
        loop {
            let next = {
                let mut state = self.0.state.lock();
                let next = state.leases.values().map(|held| held.deadline).min();
                if next.is_none() || state.closed {
                    state.running = false;
                    return;
                }
                next
            };
            tokio::select! {
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)) => {}
                () = self.0.changed.notified() => continue,
            }
            for id in self.expired() {
                if !revoke(id).await {
                    self.delay(id);
                }
            }
        }
    }

    fn expired(&self) -> Vec<LeaseId> {
        let now = Instant::now();
        let state = self.0.state.lock();
        state
            .leases
            .iter()
            .filter(|(_, held)| held.deadline <= now)
            .map(|(id, _)| *id)
            .collect()
    }

    fn delay(&self, id: LeaseId) {
        if let Some(held) = self.0.state.lock().leases.get_mut(&id) {
            held.deadline = Instant::now() + RETRY;
        }
    }
}
