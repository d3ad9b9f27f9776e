//! Leader election by Lease: of several processes with one name, one does the work.
//!
//! ```text
//!   Waiting ── lease free or its holder silent ──► Leading ── not renewed in time ──► lost
//! ```
//!
//! Follows upstream's `leaderelection`: other holders' silence is measured by our own clock from when we saw the
//! record change, so clocks need not agree. **Invariant:** a leader that cannot renew stops leading
//! (`renew_deadline`) before another may start (`lease_duration`).

use crate::error::ApiErrorExt as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use machinery::clock::Clock;
use rand::RngExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One candidate.
#[derive(Clone)]
pub struct Candidate {
    pub client: kube::Client,
    pub namespace: String,
    pub name: String,
    /// Unique among the candidates.
    pub identity: String,
    pub clock: Arc<dyn Clock>,
    pub lease_duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

/// What a look at the lease says to do.
#[derive(Debug, PartialEq)]
enum Decision {
    /// Write this.
    Take(Box<Lease>),
    /// Somebody else leads.
    Wait,
}

impl Candidate {
    /// A candidate with upstream's times: 15 s, 10 s, 2 s.
    pub fn new(client: kube::Client, name: &str, identity: &str, clock: Arc<dyn Clock>) -> Self {
        Self {
            client,
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            clock,
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    /// Waits until this candidate leads. The token is cancelled when it no longer does; cancelling `stop`
    /// gives the lease up.
    pub async fn lead(self, stop: CancellationToken) -> CancellationToken {
        let mut observed = Observed::default();
        loop {
            if self.attempt(&mut observed).await {
                break;
            }
            let pause = self
                .retry_period
                .mul_f64(machinery::chance::rng().random_range(1.0..2.2));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {
                    let over = CancellationToken::new();
                    over.cancel();
                    return over;
                }
            }
        }
        tracing::info!(lease = self.name, identity = self.identity, "leading");
        let leading = stop.child_token();
        let ended = leading.clone();
        tokio::spawn(async move {
            self.hold(observed, &stop).await;
            ended.cancel();
        });
        leading
    }

    /// Does `work` whenever this candidate leads, until `stop`. The work has to end when its token is cancelled.
    pub async fn run<F, R>(self, stop: CancellationToken, work: F)
    where
        F: Fn(CancellationToken) -> R,
        R: Future<Output = ()>,
    {
        while !stop.is_cancelled() {
            let leading = self.clone().lead(stop.clone()).await;
            if !leading.is_cancelled() {
                work(leading).await;
            }
        }
    }

    async fn hold(self, mut observed: Observed, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.retry_period) => {}
                () = stop.cancelled() => return self.release(&observed).await,
            }
            let left = self.renew_deadline.saturating_sub(renewed.elapsed());
            if let Ok(true) = tokio::time::timeout(left, self.attempt(&mut observed)).await {
                renewed = Instant::now();
            }
            if renewed.elapsed() >= self.renew_deadline || !observed.held_by(&self.identity) {
                tracing::error!(lease = self.name, "leadership lost");
                return;
            }
        }
    }

    /// One try to take or renew.
    async fn attempt(&self, observed: &mut Observed) -> bool {
        let api = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        let current = match api.get_opt(&self.name).await {
            Ok(current) => current,
            Err(error) => {
                tracing::debug!(lease = self.name, %error, "lease not read");
                return false;
            }
        };
        observed.look(current);
        let Decision::Take(lease) = self.decide(observed) else {
            return false;
        };
        let written = if lease.metadata.resource_version.is_some() {
            api.replace(&self.name, &PostParams::default(), &lease).await
        } else {
            api.create(&PostParams::default(), &lease).await
        };
        match written {
            Ok(lease) => {
                observed.look(Some(lease));
                true
            }
            Err(error) => {
                if !error.is_conflict() && !error.is_already_exists() {
                    tracing::debug!(lease = self.name, %error, "lease not written");
                }
                false
            }
        }
    }

    fn decide(&self, observed: &Observed) -> Decision {
        let now = MicroTime(self.clock.now());
        let seconds = i32::try_from(self.lease_duration.as_secs()).unwrap_or(i32::MAX);
        let Some(current) = &observed.lease else {
            return Decision::Take(Box::new(Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    namespace: Some(self.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(self.identity.clone()),
                    lease_duration_seconds: Some(seconds),
                    acquire_time: Some(now.clone()),
                    renew_time: Some(now),
                    lease_transitions: Some(0),
                    ..LeaseSpec::default()
                }),
            }));
        };
        let spec = current.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or("");
        let ours = holder == self.identity;
        if !ours && !holder.is_empty() && observed.since.elapsed() < self.lease_duration {
            return Decision::Wait;
        }
        let mut lease = current.clone();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: if ours {
                spec.acquire_time
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            ..spec
        });
        Decision::Take(Box::new(lease))
    }

    /// Lets the next one lead at once.
    async fn release(&self, observed: &Observed) {
        let Some(mut lease) = observed
            .lease
            .clone()
            .filter(|_| observed.held_by(&self.identity))
        else {
            return;
        };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(self.clock.now()));
        }
        let api = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        if let Err(error) = api.replace(&self.name, &PostParams::default(), &lease).await {
            tracing::debug!(lease = self.name, %error, "lease not released");
        }
    }
}

/// The lease as last seen, and when we first saw it so.
struct Observed {
    lease: Option<Lease>,
    since: Instant,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            lease: None,
            since: Instant::now(),
        }
    }
}

impl Observed {
    fn look(&mut self, lease: Option<Lease>) {
        let changed = lease.as_ref().map(|l| &l.spec) != self.lease.as_ref().map(|l| &l.spec);
        if changed {
            self.since = Instant::now();
        }
        self.lease = lease;
    }

    fn held_by(&self, identity: &str) -> bool {
        self.lease
            .as_ref()
            .and_then(|l| l.spec.as_ref())
            .is_some_and(|s| s.holder_identity.as_deref() == Some(identity))
    }
}
