//! Encryption at rest: a store in front of the store, by upstream's EncryptionConfiguration.
//!
//! ```text
//! registry, watch cache ──plain──► Sealed ──k8s:enc:…──► store
//!                                    │ by key prefix
//!                                    └─► providers of a resource, in order ──► KMS plugin (unix socket)
//! ```
//!
//! Values are upstream's, prefix and bytes, so an etcd filled by one server is served by the other. The first
//! provider of a resource writes; every provider reads. The key a value stands at is authenticated with it, so a
//! value cannot be moved to another key.
//!
//! **Invariant:** operations on keys no rule is for are handed to the store as they are.
//! **Invariant:** a value that cannot be read is delivered as a text that says why ([`unreadable`]), never as
//! somebody else's bytes; a plugin that does not answer is an error of the operation, so that nobody takes the
//! object for lost.

mod cipher;
mod config;
mod kms;
mod providers;
mod sealed;

pub use config::{ConfigError, Configuration};
pub use sealed::{Sealed, StoredResource};

/// Every encrypted value begins so.
pub const PREFIX: &[u8] = b"k8s:enc:";

/// What stands in place of a value that cannot be read.
const UNREADABLE: &[u8] = b"k8s:enc:unreadable:";

/// Why a delivered value cannot be read; `None` for a readable one.
pub fn unreadable(value: &[u8]) -> Option<std::borrow::Cow<'_, str>> {
    if !value.starts_with(PREFIX) {
        return None;
    }
    Some(match value.strip_prefix(UNREADABLE) {
        Some(why) => String::from_utf8_lossy(why),
        None => "it is encrypted, and no key is configured for its resource".into(),
    })
}

/// Package `v2`: the KMS plugin interface.
#[allow(clippy::all, unreachable_pub)]
pub mod plugin {
    tonic::include_proto!("v2");
}

#[allow(clippy::all, unreachable_pub)]
mod envelope {
    tonic::include_proto!("envelope");
}
