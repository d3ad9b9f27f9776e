//! CRI's image service.

use std::sync::Arc;

use cri::v1::image_service_server::ImageService;
use cri::v1::*;
use tonic::{Request, Response, Status};

use super::{BoxStream, in_pieces};
use crate::images::{Credentials, ImageError, ImageRecord, PullFailure, Reference};
use crate::pods::Engine;

pub(super) struct ImageApi {
    pub(super) engine: Arc<Engine>,
}

impl ImageApi {
    fn list(&self, filter: Option<ImageFilter>) -> Vec<Image> {
        let wanted = filter
            .and_then(|filter| filter.image)
            .map(|image| image.image)
            .filter(|name| !name.is_empty());
        let records = match wanted {
            Some(name) => self.engine.images.find(&name).into_iter().collect(),
            None => self.engine.images.list(),
        };
        records.into_iter().map(image).collect()
    }
}

#[tonic::async_trait]
impl ImageService for ImageApi {
    type StreamImagesStream = BoxStream<StreamImagesResponse>;

    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        Ok(Response::new(ListImagesResponse {
            images: self.list(request.into_inner().filter),
        }))
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let images = self.list(request.into_inner().filter);
        Ok(Response::new(in_pieces(images, |images| StreamImagesResponse {
            images,
        })))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let found = self.engine.images.find(&name);
        if found.is_none() && !name.is_empty() && Reference::parse(&name).is_err() && !is_id(&name) {
            return Err(Status::invalid_argument(format!(
                "failed to parse image reference {name:?}: invalid reference format"
            )));
        }
        Ok(Response::new(ImageStatusResponse {
            image: found.map(image),
            info: Default::default(),
        }))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = request.image.unwrap_or_default().image;
        let credentials = credentials(request.auth)?;
        tracing::info!(image = %name, "pulling image");
        let shown = name.clone();
        let progress = Arc::new(move |line: String| tracing::info!(image = %shown, "{line}"));
        let record = self
            .engine
            .images
            .pull(&name, credentials, progress)
            .await
            .map_err(|error| {
                tracing::warn!(image = %name, error = %crate::images::describe(&error), "image not pulled");
                pull_status(&name, &error)
            })?;
        tracing::info!(image = %name, id = %record.id, "image pulled");
        Ok(Response::new(PullImageResponse {
            image_ref: record.id.to_string(),
        }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        self.engine
            .images
            .remove(&name)
            .await
            .map_err(|error| image_status(&error))?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        let info = self.engine.images.fs_info();
        let usage = FilesystemUsage {
            timestamp: i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
            fs_id: Some(FilesystemIdentifier {
                mountpoint: info.path.display().to_string(),
            }),
            used_bytes: Some(UInt64Value { value: info.bytes }),
            inodes_used: Some(UInt64Value { value: info.inodes }),
        };
        Ok(Response::new(ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        }))
    }
}

fn is_id(name: &str) -> bool {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

pub(super) fn image(record: ImageRecord) -> Image {
    let user = record.user.split(':').next().unwrap_or_default();
    let uid = match user {
        "" => Some(Int64Value { value: 0 }),
        user => user.parse().ok().map(|value| Int64Value { value }),
    };
    Image {
        id: record.id.to_string(),
        username: if uid.is_some() {
            String::new()
        } else {
            user.to_owned()
        },
        uid,
        repo_tags: record.tags,
        repo_digests: record.digests,
        size: record.size,
        spec: None,
        pinned: false,
    }
}

fn credentials(auth: Option<AuthConfig>) -> Result<Credentials, Status> {
    let Some(auth) = auth else {
        return Ok(Credentials::Anonymous);
    };
    if !auth.username.is_empty() {
        return Ok(Credentials::Basic {
            username: auth.username,
            password: auth.password,
        });
    }
    if !auth.auth.is_empty() {
        // The docker configuration's form: base64 of `user:password`.
        let invalid = || Status::invalid_argument("invalid auth in image pull request");
        let decoded = decode_base64(&auth.auth).ok_or_else(invalid)?;
        let (username, password) = decoded.split_once(':').ok_or_else(invalid)?;
        let password = password.trim_end_matches('\0').to_owned();
        return Ok(Credentials::Basic {
            username: username.to_owned(),
            password,
        });
    }
    if !auth.registry_token.is_empty() {
        return Ok(Credentials::Token(auth.registry_token));
    }
    Ok(Credentials::Anonymous)
}

fn decode_base64(text: &str) -> Option<String> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    String::from_utf8(bytes).ok()
}

fn pull_status(name: &str, error: &ImageError) -> Status {
    match error {
        ImageError::Pull {
            kind: PullFailure::NotFound,
            ..
        } => Status::not_found(crate::images::describe(error)),
        ImageError::Pull { .. } => Status::unknown(crate::images::describe(error)),
        ImageError::InvalidReference(_) => Status::invalid_argument(format!(
            "failed to parse image reference {name:?}: {}",
            crate::images::describe(error)
        )),
        // Something was wrong with what came, or with our disk.
        _ => Status::unknown(format!(
            "failed to pull and unpack image {name:?}: {}",
            crate::images::describe(error)
        )),
    }
}

pub(super) fn image_status(error: &ImageError) -> Status {
    let message = crate::images::describe(error);
    match error {
        ImageError::NotFound(_) => Status::not_found(message),
        ImageError::InvalidReference(_)
        | ImageError::NotAnArchive(_)
        | ImageError::Malformed(_)
        | ImageError::Digest { .. }
        | ImageError::Hosts { .. } => Status::invalid_argument(message),
        ImageError::Pull { .. } | ImageError::Io { .. } => Status::unknown(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_in_several_forms() {
        let basic = |username: &str, password: &str| Credentials::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        };
        let check = |auth: AuthConfig| credentials(Some(auth)).unwrap();
        assert_eq!(credentials(None).unwrap(), Credentials::Anonymous);
        let named = AuthConfig {
            username: "u".into(),
            password: "p".into(),
            ..Default::default()
        };
        assert_eq!(check(named), basic("u", "p"));
        assert_eq!(
            check(AuthConfig {
                auth: "dTpwOnE=".into(),
                ..Default::default()
            }),
            basic("u", "p:q")
        );
        let token = AuthConfig {
            registry_token: "t".into(),
            ..Default::default()
        };
        assert_eq!(check(token), Credentials::Token("t".into()));
        assert!(
            credentials(Some(AuthConfig {
                auth: "%%%".into(),
                ..Default::default()
            }))
            .is_err()
        );
    }

    #[test]
    fn a_missing_image_is_reported_in_containerds_words() {
        let error = ImageError::Pull {
            image: "docker.io/library/nope:1".into(),
            reason: "failed to resolve reference \"docker.io/library/nope:1\": docker.io/library/nope:1: not found".into(),
            kind: PullFailure::NotFound,
        };
        let status = pull_status("nope:1", &error);
        assert_eq!(status.code(), tonic::Code::NotFound);
        assert_eq!(
            status.message(),
            "failed to pull and unpack image \"docker.io/library/nope:1\": failed to resolve reference \
             \"docker.io/library/nope:1\": docker.io/library/nope:1: not found"
        );
    }
}
