//! The controllers: whatever a user declares becomes so, and stays so.
//!
//! Each controller is one file or folder and one line in [`ALL`]. It has a pure function from what is to what
//! should be done, and a thin shell that watches, asks it, and does it. Each acts under its own identity,
//! `system:serviceaccount:kube-system:<name>`, as upstream's.
//!
//! **Invariant:** reconcilers are level-triggered: an event only says which object to look at.
//! **Invariant:** controllers read through informers and write through the client; they never import each other.

mod attach_detach;
mod bootstrap_signer;
mod certificate_request;
mod certificate_request_approving;
mod certificate_request_cleaner;
mod certificate_request_signing;
mod cluster_role_aggregation;
mod context;
mod cron_job;
mod daemon_set;
mod deployment;
mod device_taint_eviction;
mod disruption;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod endpoints;
mod ephemeral_volume;
mod garbage_collector;
mod history;
mod horizontal_pod_autoscaler;
mod int_or_percent;
mod job;
mod legacy_service_account_token_cleaner;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod owner;
mod persistent_volume_binder;
mod persistent_volume_claim_protection;
mod persistent_volume_expander;
mod persistent_volume_protection;
mod pod_gc;
mod pods;
mod registry;
mod replicaset;
mod replication;
mod resource_claim;
mod resource_quota;
mod root_ca_publisher;
mod service_account;
mod service_cidr;
mod service_pods;
mod stateful_set;
mod taint_eviction;
mod template_hash;
mod token_cleaner;
mod ttl;
mod ttl_after_finished;
mod volume_attributes_class_protection;

pub use context::{ClientFor, Context, Options};
pub use registry::{ALL, Controller, UnknownController, check_names, run};
