//! What plugins of a node are spoken to with: messages, client and server bindings of their gRPC services.
//!
//! | module | service | who serves it |
//! |---|---|---|
//! | [`registration`] | `pluginregistration` v1 | every plugin, in `plugins_registry/` |
//! | [`csi`] | CSI v1, its node and identity halves | storage drivers |
//! | [`device`] | device plugins v1beta1 | plugins; their registration, the kubelet |
//! | [`dra_v1`], [`dra_v1beta1`] | dynamic resource allocation | drivers |
//! | [`pod_resources`] | who holds what | the kubelet |
//!
//! **Invariant:** `proto/` states the interfaces' facts (names and numbers); a message of a newer peer decodes,
//! its unknown fields dropped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Package `csi.v1`.
#[allow(clippy::all, unreachable_pub)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// Package `v1beta1` of device plugins.
#[allow(clippy::all, unreachable_pub)]
pub mod device {
    tonic::include_proto!("v1beta1");
}

/// Package `k8s.io.kubelet.pkg.apis.dra.v1`.
#[allow(clippy::all, unreachable_pub)]
pub mod dra_v1 {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
}

/// Package `k8s.io.kubelet.pkg.apis.dra.v1beta1`.
#[allow(clippy::all, unreachable_pub)]
pub mod dra_v1beta1 {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1beta1");
}

/// Package `v1` of pod resources.
#[allow(clippy::all, unreachable_pub)]
pub mod pod_resources {
    tonic::include_proto!("v1");
}

/// Package `pluginregistration`.
#[allow(clippy::all, unreachable_pub)]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

#[derive(Debug, thiserror::Error)]
#[error("connect to the plugin at unix://{}", path.display())]
pub struct ConnectError {
    path: PathBuf,
    source: tonic::transport::Error,
}

/// How long a plugin may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to a plugin's socket; `path` may carry the scheme `unix:`. A connection lost later is made again by
/// the next call.
pub async fn connect(path: &str) -> Result<Channel, ConnectError> {
    let bare = path
        .strip_prefix("unix://")
        .or_else(|| path.strip_prefix("unix:"))
        .unwrap_or(path);
    let path = Path::new(bare).to_owned();
    let target = path.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let target = target.clone();
        async move { UnixStream::connect(target).await.map(TokioIo::new) }
    });
    // The authority is never looked at; the connector above decides where to go.
    Endpoint::from_static("http://localhost")
        .connect_timeout(PATIENCE)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError { path, source })
}

macro_rules! without_secrets {
    ($($message:ident),*) => {$(
        impl std::fmt::Debug for csi::$message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($message))
                    .field("volume_id", &self.volume_id)
                    .field("staging_target_path", &self.staging_target_path)
                    .finish_non_exhaustive()
            }
        }
    )*};
}

without_secrets!(
    NodeStageVolumeRequest,
    NodePublishVolumeRequest,
    NodeExpandVolumeRequest
);
