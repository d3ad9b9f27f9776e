//! The socket: made for root alone, replacing one that nobody answers on.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use cri::MAX_MESSAGE_SIZE;
use cri::images::images_server::ImagesServer;
use cri::v1::image_service_server::ImageServiceServer;
use cri::v1::runtime_service_server::RuntimeServiceServer;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;

use super::Streaming;
use super::image_service::ImageApi;
use super::kijabi_images::KijabiImages;
use super::runtime_service::RuntimeApi;
use crate::RuntimeError;
use crate::pods::Engine;

/// Serves until `stop` turns true. Listening has begun when this returns.
pub(crate) fn listen(
    engine: Arc<Engine>,
    streaming: Streaming,
    mut stop: watch::Receiver<bool>,
) -> Result<tokio::task::JoinHandle<()>, RuntimeError> {
    let path = engine.config.socket.clone();
    let failed = |operation| {
        let path = path.clone();
        move |source| RuntimeError::Io {
            operation,
            path,
            source,
        }
    };
    if StdUnixStream::connect(&path).is_ok() {
        let taken = std::io::Error::new(std::io::ErrorKind::AddrInUse, "another runtime serves there");
        return Err(failed("listen on")(taken));
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed("create the directory of"))?;
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("remove")(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed("listen on"))?;
    let for_root = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, for_root).map_err(failed("set the mode of"))?;
    let runtime = RuntimeServiceServer::new(RuntimeApi {
        engine: engine.clone(),
        streaming,
    })
    .max_decoding_message_size(MAX_MESSAGE_SIZE)
    .max_encoding_message_size(MAX_MESSAGE_SIZE);
    let images = ImageServiceServer::new(ImageApi {
        engine: engine.clone(),
    })
    .max_decoding_message_size(MAX_MESSAGE_SIZE)
    .max_encoding_message_size(MAX_MESSAGE_SIZE);
    let kijabi = ImagesServer::new(KijabiImages { engine });
    let server = tonic::transport::Server::builder()
        .add_service(runtime)
        .add_service(images)
        .add_service(kijabi)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            // The sender gone is as good as a word.
            stop.wait_for(|stop| *stop).await.ok();
        });
    Ok(tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the CRI server ended");
        }
        // It may be gone with the whole data directory.
        std::fs::remove_file(path).ok();
    }))
}
