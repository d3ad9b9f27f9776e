//! The socket on which device plugins register.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use plugins::device as api;
use plugins::device::registration_server::{Registration, RegistrationServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::Devices;

const SOCKET: &str = "kubelet.sock";

struct Service(Arc<Devices>);

/// Listens in `dir` for ever. Sockets that are there belong to plugins of an earlier kubelet: they go, and plugins
/// register anew when they see this one.
pub async fn serve(devices: Arc<Devices>) {
    let dir = devices.dir.clone();
    let listener = match listen(&dir) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "no device plugin can register");
            return;
        }
    };
    let served = tonic::transport::Server::builder()
        .add_service(RegistrationServer::new(Service(devices)))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await;
    if let Err(error) = served {
        tracing::warn!(%error, "device plugins can register no more");
    }
}

fn listen(dir: &Path) -> std::io::Result<UnixListener> {
    std::fs::create_dir_all(dir)?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            std::fs::remove_file(entry.path())?;
        }
    }
    UnixListener::bind(dir.join(SOCKET))
}

#[tonic::async_trait]
impl Registration for Service {
    async fn register(&self, request: Request<api::RegisterRequest>) -> Result<Response<api::Empty>, Status> {
        let asked = request.into_inner();
        if asked.endpoint.contains('/') || asked.endpoint.is_empty() {
            return Err(Status::invalid_argument("invalid name of device plugin socket"));
        }
        let socket = self.0.dir.join(&asked.endpoint);
        let taken = self
            .0
            .register(
                &asked.resource_name,
                &socket.to_string_lossy(),
                &[asked.version],
                asked.options,
            )
            .await;
        match taken {
            Ok(()) => Ok(Response::new(api::Empty {})),
            Err(problem) => Err(Status::unknown(problem)),
        }
    }
}
