//! What the cluster shows of its Service addresses: the `kubernetes` ServiceCIDR and an IPAddress for every address
//! a Service holds.
//!
//! ```text
//! Services ──────┐
//!                ├─► owner and object of each address ─► decide ─► create, remove
//! IPAddresses ───┘
//! ```
//!
//! Addresses are given by [`crate::registry::ServiceAllocator`], in memory and before a Service is stored; the objects
//! follow afterwards, so that making a Service waits for one write only.
//!
//! **Invariant:** only objects whose `managed-by` label is the allocator's are removed, or those that stand where a
//! Service's own belongs.
//!
//! Deliberately not here: ranges that further ServiceCIDRs add, and addresses that foreign IPAddresses would keep from
//! Services.

mod decide;
mod publisher;
mod service_cidr;

use crate::server::Core;
use ipnet::IpNet;
use std::sync::Arc;
use std::time::Duration;

/// After the first failure; twice as long after each further one, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Keeps the objects right until the server ends. `ranges`: the default family's first.
pub(crate) async fn run(core: Arc<Core>, ranges: Vec<IpNet>) {
    tokio::select! {
        biased;
        () = core.shutdown.cancelled() => {}
        () = keep(&core, &ranges) => {}
    }
}

async fn keep(core: &Core, ranges: &[IpNet]) {
    let mut wait = FIRST_WAIT;
    while let Err(error) = service_cidr::ensure(core, ranges).await {
        tracing::warn!(error = %error.message, "making the default ServiceCIDR");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    publisher::run(core).await;
}
