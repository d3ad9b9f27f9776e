//! How every component reaches the API: a `kube::Client` over either transport, shared informers, work
//! queues, events, leases.
//!
//! ```text
//! reflector (one per type and selector) ─► store ─► subscribers ─► Queue ─► reconcile ─► kube::Client
//! ```
//!
//! **Invariant:** nothing here knows a kind; kinds come in as `k8s-openapi` types or as [`Resource`] paths.
//! **Invariant:** timers are tokio's and wall time comes from a [`machinery::clock::Clock`], so a paused
//! runtime drives everything.
//! There is no client-side rate limit: the server's fairness decides.

pub mod decode;
pub mod error;
pub mod events;
pub mod informer;
pub mod labels;
pub mod leader;
pub mod node_selector;
pub mod resource;
pub mod storage;
pub mod taints;
pub mod transport;
pub mod workqueue;
pub mod workqueue_metrics;
pub mod write;

pub use error::{Error, Result};
pub use events::{Recorder, Severity, Source};
pub use informer::{Event, Informer, Informers, ObjectKey, Selection};
pub use resource::Resource;
pub use transport::{
    ApiService, Body, BoxError, InProcessIdentity, api_service, in_process, in_process_as, remote, remote_url,
};
pub use workqueue::{Outcome, Queue};
pub use workqueue_metrics::WorkqueueMetrics;
