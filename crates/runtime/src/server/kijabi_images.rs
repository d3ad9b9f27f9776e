//! `kijabi image import` and `kijabi image pull`: what CRI has no words for.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::images::images_server::Images as ImagesService;
use cri::images::{CheckRequest, ImportRequest, Progress as ProgressMessage, PullRequest};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::BoxStream;
use super::image_service::image_status;
use crate::images::{Credentials, ImageError, ImageRecord, Progress};
use crate::pods::Engine;

pub(super) struct KijabiImages {
    pub(super) engine: Arc<Engine>,
}

/// Where an archive is: somewhere on this machine, or in a file we have just been sent.
enum Archive {
    Path(PathBuf),
    Upload(tempfile::NamedTempFile),
}

impl Archive {
    fn path(&self) -> &Path {
        match self {
            Archive::Path(path) => path,
            Archive::Upload(file) => file.path(),
        }
    }
}

type Sender = mpsc::UnboundedSender<Result<ProgressMessage, Status>>;

#[tonic::async_trait]
impl ImagesService for KijabiImages {
    type ImportStream = BoxStream<ProgressMessage>;
    type PullStream = BoxStream<ProgressMessage>;
    type CheckStream = BoxStream<ProgressMessage>;

    async fn import(
        &self,
        request: Request<Streaming<ImportRequest>>,
    ) -> Result<Response<Self::ImportStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming
            .next()
            .await
            .ok_or_else(|| Status::invalid_argument("nothing to import"))??;
        let name = Some(first.name.clone()).filter(|name| !name.is_empty());
        let archive = match first.path.is_empty() {
            false => Archive::Path(PathBuf::from(first.path)),
            true => Archive::Upload(self.receive(&first.data, incoming).await?),
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        let engine = self.engine.clone();
        tokio::spawn(async move {
            let result = engine
                .images
                .import(archive.path(), name.as_deref(), progress(&sender))
                .await;
            finish(&sender, result);
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }

    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let request = request.into_inner();
        let credentials = match request.username.is_empty() {
            true => Credentials::Anonymous,
            false => Credentials::Basic {
                username: request.username,
                password: request.password,
            },
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        let engine = self.engine.clone();
        tokio::spawn(async move {
            let result = engine
                .images
                .pull(&request.image, credentials, progress(&sender))
                .await;
            finish(&sender, result.map(|record| vec![record]));
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }

    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<Self::CheckStream>, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let engine = self.engine.clone();
        tokio::spawn(async move {
            let result = engine.images.check(progress(&sender)).await;
            let collected = engine.images.collect().await;
            let message = collected
                .and(result)
                .map(|findings| ProgressMessage {
                    findings: findings.iter().map(ToString::to_string).collect(),
                    ..Default::default()
                })
                .map_err(|error| image_status(&error));
            // Nobody may be listening any more.
            sender.send(message).ok();
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}

impl KijabiImages {
    async fn receive(
        &self,
        first: &[u8],
        mut incoming: Streaming<ImportRequest>,
    ) -> Result<tempfile::NamedTempFile, Status> {
        let mut file = self
            .engine
            .images
            .upload()
            .map_err(|error| image_status(&error))?;
        let failed = |error: std::io::Error| Status::unknown(format!("write the archive: {error}"));
        file.write_all(first).map_err(failed)?;
        while let Some(message) = incoming.next().await {
            file.write_all(&message?.data).map_err(failed)?;
        }
        Ok(file)
    }
}

fn progress(sender: &Sender) -> Progress {
    let sender = sender.clone();
    Arc::new(move |line| {
        // Work goes on when nobody watches any more.
        sender
            .send(Ok(ProgressMessage {
                line,
                ..Default::default()
            }))
            .ok();
    })
}

fn finish(sender: &Sender, result: Result<Vec<ImageRecord>, ImageError>) {
    let name = |record: ImageRecord| {
        record
            .tags
            .first()
            .cloned()
            .unwrap_or_else(|| record.id.to_string())
    };
    let message = result
        .map(|records| ProgressMessage {
            images: records.into_iter().map(name).collect(),
            ..Default::default()
        })
        .map_err(|error| image_status(&error));
    // As above.
    sender.send(message).ok();
}
