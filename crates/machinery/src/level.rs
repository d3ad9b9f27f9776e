//! A number that many wait for.
//!
//! Waiters wake in the order in which they began to wait, unlike those of tokio's `watch`, which wakes in an order drawn
//! by chance: a simulation could not be repeated.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// The number, and who waits for it.
#[derive(Debug, Default)]
pub struct Level {
    at: AtomicU64,
    moved: Notify,
}

impl Level {
    pub fn get(&self) -> u64 {
        self.at.load(Ordering::Acquire)
    }

    /// Whoever waits for this much goes on.
    pub fn set(&self, at: u64) {
        self.at.store(at, Ordering::Release);
        self.moved.notify_waiters();
    }

    /// Waits until the number is at least this.
    pub async fn reaches(&self, at: u64) {
        while self.get() < at {
            let mut moved = pin!(self.moved.notified());
            // Listening before looking: a move in between is heard.
            moved.as_mut().enable();
            if self.get() >= at {
                return;
            }
            moved.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;

    #[tokio::test]
    async fn waiters_wake_in_order_when_it_is_reached() {
        let level = Arc::new(Level::default());
        let woken = Arc::new(Mutex::new(Vec::new()));
        let waits: Vec<_> = (0..20)
            .map(|number| {
                let (level, woken) = (Arc::clone(&level), Arc::clone(&woken));
                tokio::spawn(async move {
                    level.reaches(5).await;
                    woken.lock().push(number);
                })
            })
            .collect();
        for at in [3, 5] {
            tokio::task::yield_now().await;
            assert!(woken.lock().is_empty());
            level.set(at);
        }
        futures(waits).await;
        assert_eq!(*woken.lock(), (0..20).collect::<Vec<_>>());
        level.reaches(4).await;
    }

    async fn futures(all: Vec<tokio::task::JoinHandle<()>>) {
        for one in all {
            one.await.expect("a waiter");
        }
    }
}
