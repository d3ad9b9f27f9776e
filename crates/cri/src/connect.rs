//! Clients over a unix socket.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::images::images_client::ImagesClient;
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;

/// The largest message either side takes, the kubelet's figure: a list of all containers of a full node
/// passes gRPC's default of 4 MiB.
pub const MAX_MESSAGE_SIZE: usize = 16 << 20;

/// The services on one connection. Cloning is cheap and shares the connection; calls run side by side.
#[derive(Clone, Debug)]
pub struct Clients {
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
    /// Only the embedded runtime serves this one; others answer `Unimplemented`.
    pub kijabi: ImagesClient<Channel>,
}

#[derive(Debug, thiserror::Error)]
#[error("connect to the container runtime at unix://{}", path.display())]
pub struct ConnectError {
    path: PathBuf,
    source: tonic::transport::Error,
}

/// Connects to the CRI server listening on the unix socket `path`. A connection lost later is made again by
/// the next call.
pub async fn connect(path: impl AsRef<Path>) -> Result<Clients, ConnectError> {
    let path = path.as_ref().to_owned();
    let target = path.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let target = target.clone();
        async move { UnixStream::connect(target).await.map(TokioIo::new) }
    });
    // The authority is never looked at; the connector above decides where to go.
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError { path, source })?;
    Ok(Clients::new(channel))
}

impl Clients {
    /// Clients over any channel: an in-memory one in tests.
    pub fn new(channel: Channel) -> Clients {
        Clients {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_SIZE)
                .max_encoding_message_size(MAX_MESSAGE_SIZE),
            images: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_SIZE)
                .max_encoding_message_size(MAX_MESSAGE_SIZE),
            kijabi: ImagesClient::new(channel),
        }
    }
}
