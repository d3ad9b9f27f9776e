//! The webhook: batches of events to a service, throttled, tried again while that may help.

use super::{Backend, Event};
use crate::remote::Remote;
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How events are gathered; the defaults are upstream's.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    pub buffer: usize,
    pub max_size: usize,
    pub max_wait: Duration,
    /// Batches a second and at once; `None` for as many as there are.
    pub throttle: Option<(f64, u32)>,
    /// Before the second try.
    pub initial_backoff: Duration,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            buffer: 10_000,
            max_size: 400,
            max_wait: Duration::from_secs(30),
            throttle: Some((10.0, 15)),
            initial_backoff: Duration::from_secs(10),
        }
    }
}

/// Tries of one batch, and how the wait between them grows.
const TRIES: u32 = 5;
const GROWTH: f64 = 1.5;

/// The webhook backend. When it is dropped, what was gathered is still sent.
pub struct Webhook {
    queue: mpsc::Sender<Box<RawValue>>,
}

impl Webhook {
    /// Must be called inside a tokio runtime.
    pub fn start(remote: Remote, options: BatchOptions) -> Self {
        let (queue, events) = mpsc::channel(options.buffer.max(1));
        tokio::spawn(run(remote, options, events));
        Self { queue }
    }
}

impl Backend for Webhook {
    fn take(&self, event: &Event) -> bool {
        match serde_json::value::to_raw_value(event) {
            Ok(event) => match self.queue.try_send(event) {
                Ok(()) => true,
                Err(_) => {
                    tracing::error!("audit buffer queue blocked; an event is lost");
                    false
                }
            },
            Err(error) => {
                tracing::error!(%error, "an audit event has no JSON form");
                false
            }
        }
    }
}

async fn run(remote: Remote, options: BatchOptions, mut events: mpsc::Receiver<Box<RawValue>>) {
    let mut tokens = Tokens::new(options.throttle);
    // Nothing runs between batches: the first event starts the wait.
    while let Some(first) = events.recv().await {
        let mut batch = vec![first];
        let deadline = Instant::now() + options.max_wait;
        while batch.len() < options.max_size {
            match tokio::time::timeout_at(deadline, events.recv()).await {
                Ok(Some(event)) => batch.push(event),
                Ok(None) | Err(_) => break,
            }
        }
        tokens.take().await;
        let (remote, backoff) = (remote.clone(), options.initial_backoff);
        // A slow service must not hold up what comes after.
        tokio::spawn(async move { send(&remote, &batch, backoff).await });
    }
}

async fn send(remote: &Remote, batch: &[Box<RawValue>], mut wait: Duration) {
    let mut body = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
    for (at, event) in batch.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(event.get().as_bytes());
    }
    body.extend_from_slice(b"]}");
    for attempt in 1..=TRIES {
        let why = match remote.post(body.clone()).await {
            Ok((200..=299, _)) => return,
            // What the service refuses it refuses again.
            Ok((code, _)) if code != 429 && code < 500 => {
                tracing::error!(code, events = batch.len(), "the audit webhook refuses events");
                return;
            }
            Ok((code, _)) => format!("answered {code}"),
            Err(error) => error.to_string(),
        };
        if attempt == TRIES {
            tracing::error!(
                why,
                events = batch.len(),
                "the audit webhook took no events; they are lost"
            );
            return;
        }
        tokio::time::sleep(wait).await;
        wait = wait.mul_f64(GROWTH);
    }
}

/// A bucket of tokens, filled at a rate.
struct Tokens {
    rate: Option<(f64, f64)>,
    left: f64,
    at: Instant,
}

impl Tokens {
    fn new(throttle: Option<(f64, u32)>) -> Self {
        let rate = throttle.map(|(rate, burst)| (rate, f64::from(burst)));
        Self {
            rate,
            left: rate.map_or(0.0, |(_, burst)| burst),
            at: Instant::now(),
        }
    }

    async fn take(&mut self) {
        let Some((rate, burst)) = self.rate else { return };
        let now = Instant::now();
        self.left = (self.left + (now - self.at).as_secs_f64() * rate).min(burst);
        self.at = now;
        self.left -= 1.0;
        if self.left < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.left / rate)).await;
        }
    }
}
