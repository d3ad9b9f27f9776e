//! A KMS plugin for tests: it reverses what it is given, under a key id that can be changed.

use encryption::plugin::key_management_service_server::{KeyManagementService, KeyManagementServiceServer};
use encryption::plugin::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub(crate) struct Plugin(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) key_id: Mutex<String>,
    pub(crate) healthz: Mutex<String>,
    pub(crate) encrypted: AtomicUsize,
    pub(crate) decrypted: AtomicUsize,
}

impl Plugin {
    pub(crate) fn start(path: &Path, key_id: &str) -> (Self, tokio::task::JoinHandle<()>) {
        let plugin = Self(Arc::new(Inner {
            key_id: Mutex::new(key_id.to_owned()),
            healthz: Mutex::new("ok".to_owned()),
            encrypted: AtomicUsize::new(0),
            decrypted: AtomicUsize::new(0),
        }));
        let task = plugin.clone().serve(path.to_owned());
        (plugin, task)
    }

    pub(crate) fn serve(self, path: PathBuf) -> tokio::task::JoinHandle<()> {
        if path.exists() {
            std::fs::remove_file(&path).expect("old socket");
        }
        let listener = UnixListener::bind(&path).expect("socket");
        tokio::spawn(async move {
            let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_service(KeyManagementServiceServer::new(self))
                .serve_with_incoming(incoming)
                .await
                .expect("serves");
        })
    }

    pub(crate) fn set_key(&self, key_id: &str) {
        key_id.clone_into(&mut self.0.key_id.lock().expect("lock"));
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        (
            self.0.encrypted.load(Ordering::SeqCst),
            self.0.decrypted.load(Ordering::SeqCst),
        )
    }
}

fn reversed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().map(|byte| !byte).collect()
}

#[tonic::async_trait]
impl KeyManagementService for Plugin {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse {
            version: "v2".to_owned(),
            healthz: self.0.healthz.lock().expect("lock").clone(),
            key_id: self.0.key_id.lock().expect("lock").clone(),
        }))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        self.0.encrypted.fetch_add(1, Ordering::SeqCst);
        let annotations = [("version.encryption.remote.io".to_owned(), "1".into())];
        Ok(Response::new(EncryptResponse {
            ciphertext: reversed(&request.into_inner().plaintext).into(),
            key_id: self.0.key_id.lock().expect("lock").clone(),
            annotations: annotations.into(),
        }))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        self.0.decrypted.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        if request.annotations.len() != 1 {
            return Err(Status::invalid_argument("annotations are missing"));
        }
        Ok(Response::new(DecryptResponse {
            plaintext: reversed(&request.ciphertext).into(),
        }))
    }
}
