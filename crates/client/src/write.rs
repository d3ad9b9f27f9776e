//! Writing helpers that every component needs: retry on conflict, patches, server-side apply.

use crate::error::ApiErrorExt as _;
use kube::api::{Api, Patch, PatchParams};
use rand::RngExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

/// Calls `attempt` until it ends otherwise than with a conflict, five times at most (upstream's
/// `retry.DefaultRetry`). `attempt` must read the object anew.
pub async fn retry_on_conflict<T, F, R>(mut attempt: F) -> Result<T, kube::Error>
where
    F: FnMut() -> R,
    R: Future<Output = Result<T, kube::Error>>,
{
    const STEPS: u32 = 5;
    for _ in 1..STEPS {
        match attempt().await {
            Err(error) if error.is_conflict() => {
                let millis = machinery::chance::rng().random_range(10..=11);
                tokio::time::sleep(Duration::from_millis(millis)).await;
            }
            other => return other,
        }
    }
    attempt().await
}

/// Server-side apply of `object` by `manager`, taking over what others own.
pub async fn apply<K, P>(api: &Api<K>, manager: &str, name: &str, object: &P) -> Result<K, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
    P: Serialize + Debug,
{
    api.patch(name, &PatchParams::apply(manager).force(), &Patch::Apply(object))
        .await
}

/// A JSON merge patch of an object.
pub async fn merge<K, P>(api: &Api<K>, name: &str, patch: &P) -> Result<K, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
    P: Serialize + Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
}

/// A strategic merge patch of an object.
pub async fn strategic<K, P>(api: &Api<K>, name: &str, patch: &P) -> Result<K, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
    P: Serialize + Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
}

/// A strategic merge patch of an object's status.
pub async fn strategic_status<K, P>(api: &Api<K>, name: &str, patch: &P) -> Result<K, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
    P: Serialize + Debug,
{
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
}
