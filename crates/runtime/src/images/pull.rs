//! Pulling by the distribution protocol.
//!
//! Layers come side by side, are checked against the manifest while they come, and are unpacked in order. Each
//! thing is asked of the registry's mirrors first ([`super::hosts`]) and of the registry last; one that could
//! not be reached is not asked again in the same pull.
//! Messages are containerd's, because people and the kubelet know them.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt, TryStreamExt};
use oci_client::Client;
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;

use super::content::check_digest;
use super::hosts::Endpoint;
use super::record::{ConfigFile, Descriptor, ImageRecord, Index, Manifest, parse};
use super::store::{Images, Inner, run_blocking};
use super::{Digest, ImageError, Progress, PullFailure, Reference};

/// As many layers at once as containerd takes.
const PARALLEL: usize = 3;

const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Anonymous,
    Basic { username: String, password: String },
    Token(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Credentials::Anonymous => f.write_str("Anonymous"),
            Credentials::Basic { username, .. } => f
                .debug_struct("Basic")
                .field("username", username)
                .finish_non_exhaustive(),
            Credentials::Token(_) => f.write_str("Token"),
        }
    }
}

/// One pull under way.
struct Pull {
    inner: Arc<Inner>,
    places: Vec<Place>,
    name: Reference,
    progress: Progress,
}

/// A place to ask, with a client of its own: it keeps credentials, and they are not everybody's.
struct Place {
    endpoint: Endpoint,
    client: Client,
    auth: RegistryAuth,
    unreachable: AtomicBool,
}

impl Images {
    /// Brings an image here, or makes sure that what is here is what the registry has.
    pub async fn pull(
        &self,
        name: &str,
        credentials: Credentials,
        progress: Progress,
    ) -> Result<ImageRecord, ImageError> {
        let reference = Reference::parse(name)?;
        let auth = match credentials {
            Credentials::Anonymous => RegistryAuth::Anonymous,
            Credentials::Basic { username, password } => RegistryAuth::Basic(username, password),
            Credentials::Token(token) => RegistryAuth::Bearer(token),
        };
        let (registries, wanted) = (self.inner.registries.clone(), reference.clone());
        let endpoints = run_blocking(move || registries.endpoints(&wanted)).await?;
        let place = |endpoint: Endpoint| Place {
            client: Client::new(endpoint.client_config()),
            auth: match endpoint.is_server {
                true => auth.clone(),
                false => RegistryAuth::Anonymous,
            },
            endpoint,
            unreachable: AtomicBool::new(false),
        };
        let pull = Pull {
            inner: self.inner.clone(),
            places: endpoints.into_iter().map(place).collect(),
            name: reference,
            progress,
        };
        let result = {
            let _lease = self.inner.lease.read().await;
            pull.run().await
        };
        self.collect().await?;
        result
    }
}

impl Place {
    /// Whether it may be asked: for what a tag stands for, or for what a digest names.
    fn answers(&self, by_digest: bool) -> bool {
        let able = match by_digest {
            true => self.endpoint.pulls,
            false => self.endpoint.resolves,
        };
        able && !self.unreachable.load(Ordering::Relaxed)
    }

    fn note(&self, error: &OciDistributionError) {
        if let OciDistributionError::RequestError(request) = error
            && (request.is_connect() || request.is_timeout())
            && !self.endpoint.is_server
        {
            self.unreachable.store(true, Ordering::Relaxed);
        }
        tracing::debug!(host = %self.endpoint.host, %error, "a place did not give an image");
    }
}

impl Pull {
    async fn run(&self) -> Result<ImageRecord, ImageError> {
        (self.progress)(format!("resolving {}", self.name));
        let (mut bytes, top) = self
            .manifest(&self.name)
            .await
            .map_err(|error| self.resolve_failed(&error))?;
        let mut digest = top.clone();
        if let Some(expected) = &self.name.digest {
            check_digest("manifest", expected, &digest)?;
        }
        if let Ok(index) = serde_json::from_slice::<Index>(&bytes) {
            let ours = index.choose().ok_or_else(|| {
                self.failed(
                    PullFailure::NotFound,
                    "no match for platform in manifest: not found".to_owned(),
                )
            })?;
            let by_digest = Reference {
                digest: Some(ours.digest.clone()),
                ..self.name.clone()
            };
            (bytes, digest) = self
                .manifest(&by_digest)
                .await
                .map_err(|error| self.copy_failed(&error))?;
            check_digest("manifest", &ours.digest, &digest)?;
        }
        let manifest: Manifest = parse("manifest", &bytes)?;
        self.blob(&manifest.config, "configuration").await?;
        let config = ConfigFile::parse(&self.inner.content.read(&manifest.config.digest)?)?;
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            let why = format!("the manifest has {layers} layers where the configuration names {diff_ids}");
            return Err(ImageError::Malformed(why));
        }
        self.layers(&manifest, &config).await?;
        self.keep(&bytes, top, digest, manifest, config).await
    }

    /// The manifest from the first place that has it; the last place's error when none has.
    async fn manifest(&self, name: &Reference) -> Result<(Vec<u8>, Digest), OciDistributionError> {
        let mut last = None;
        for place in self
            .places
            .iter()
            .filter(|place| place.answers(name.digest.is_some()))
        {
            let remote = place.endpoint.reference(name);
            match place
                .client
                .pull_manifest_raw(&remote, &place.auth, &MANIFESTS)
                .await
            {
                Ok((bytes, _)) => {
                    let digest = Digest::of(&bytes);
                    let wanted = name.digest.as_ref().is_none_or(|wanted| *wanted == digest);
                    // Of a mirror that has something else the next place is better; of the registry it is an error.
                    if wanted || place.endpoint.is_server {
                        return Ok((bytes.to_vec(), digest));
                    }
                }
                Err(error) => {
                    place.note(&error);
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(nobody))
    }

    async fn layers(&self, manifest: &Manifest, config: &ConfigFile) -> Result<(), ImageError> {
        let total = manifest.layers.len();
        let chain = config.chain();
        let arrivals = futures::stream::iter(manifest.layers.clone().into_iter().enumerate())
            .map(|(at, layer)| async move {
                self.blob(&layer, &format!("layer {}/{total}", at + 1)).await?;
                Ok::<_, ImageError>(at)
            })
            .buffered(PARALLEL);
        futures::pin_mut!(arrivals);
        // In order: a layer is unpacked in sight of those below it, while later ones still come.
        while let Some(at) = arrivals.try_next().await? {
            let inner = self.inner.clone();
            let (blob, diff_id) = (
                manifest.layers[at].digest.clone(),
                config.rootfs.diff_ids[at].clone(),
            );
            let chain = chain[..=at].to_vec();
            run_blocking(move || inner.layers.unpack_blob(&inner.content, &blob, &diff_id, &chain)).await?;
        }
        Ok(())
    }

    async fn blob(&self, descriptor: &Descriptor, what: &str) -> Result<(), ImageError> {
        if self.inner.content.size(&descriptor.digest) == Some(descriptor.size) {
            return Ok(());
        }
        (self.progress)(format!(
            "{what}: {} ({} bytes)",
            descriptor.digest, descriptor.size
        ));
        let text = descriptor.digest.to_string();
        let wanted = oci_client::manifest::OciDescriptor {
            digest: text,
            size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
            ..Default::default()
        };
        let mut last = None;
        for place in self.places.iter().filter(|place| place.answers(true)) {
            let remote = place.endpoint.reference(&self.name);
            // A blob may be the first thing a place is asked for.
            let registry = remote.resolve_registry();
            place.client.store_auth_if_needed(registry, &place.auth).await;
            let stream = match place.client.pull_blob_stream(&remote, &wanted).await {
                Ok(stream) => stream,
                Err(error) => {
                    place.note(&error);
                    last = Some(self.copy_failed(&error));
                    continue;
                }
            };
            match self.copy(stream.stream, descriptor, what).await {
                // What a mirror spoils the next place may still have whole.
                Err(error) if !place.endpoint.is_server => last = Some(error),
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| self.copy_failed(&nobody())))
    }

    async fn copy<Chunk: AsRef<[u8]>>(
        &self,
        mut stream: impl futures::Stream<Item = std::io::Result<Chunk>> + Unpin,
        descriptor: &Descriptor,
        what: &str,
    ) -> Result<(), ImageError> {
        let mut ingest = self.inner.content.ingest()?;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| {
                self.failed(
                    PullFailure::Other,
                    format!("failed to copy: {}", super::describe(&error)),
                )
            })?;
            ingest
                .write_all(chunk.as_ref())
                .map_err(|error| super::io_error("write", std::path::Path::new(what), error))?;
        }
        ingest.commit(what, &descriptor.digest, Some(descriptor.size))
    }

    async fn keep(
        &self,
        bytes: &[u8],
        top: Digest,
        digest: Digest,
        manifest: Manifest,
        config: ConfigFile,
    ) -> Result<ImageRecord, ImageError> {
        self.inner.content.put(bytes)?;
        let size =
            bytes.len() as u64 + manifest.config.size + manifest.layers.iter().map(|l| l.size).sum::<u64>();
        let record = ImageRecord {
            id: manifest.config.digest,
            manifest: digest,
            blobs: manifest.layers.into_iter().map(|layer| layer.digest).collect(),
            chain: config.chain(),
            tags: self
                .name
                .tag
                .as_ref()
                .map(|tag| format!("{}:{tag}", self.name.repository()))
                .into_iter()
                .collect(),
            digests: vec![format!("{}@{top}", self.name.repository())],
            size,
            user: config.config.map(|config| config.user).unwrap_or_default(),
        };
        let (inner, kept) = (self.inner.clone(), record.clone());
        run_blocking(move || inner.record(kept)).await?;
        Ok(record)
    }

    /// The name leads nowhere, or we may not follow it.
    fn resolve_failed(&self, error: &OciDistributionError) -> ImageError {
        let name = &self.name;
        let (kind, why) = match classify(error) {
            PullFailure::NotFound => (PullFailure::NotFound, format!("{name}: not found")),
            PullFailure::Denied => (
                PullFailure::Denied,
                format!(
                    "pull access denied, repository does not exist or may require authorization: authorization failed: {}",
                    super::describe(error)
                ),
            ),
            PullFailure::Other => (
                PullFailure::Other,
                format!("failed to do request: {}", request_failed(error)),
            ),
        };
        self.failed(kind, format!("failed to resolve reference \"{name}\": {why}"))
    }

    fn copy_failed(&self, error: &OciDistributionError) -> ImageError {
        self.failed(
            classify(error),
            format!("failed to copy: {}", super::describe(error)),
        )
    }

    fn failed(&self, kind: PullFailure, reason: String) -> ImageError {
        ImageError::Pull {
            image: self.name.to_string(),
            reason,
            kind,
        }
    }
}

/// No place may be asked: every one lacks the capability or was out of reach.
fn nobody() -> OciDistributionError {
    OciDistributionError::GenericError(Some("no configured host may be asked for it".to_owned()))
}

/// Why a request came to nothing, in the words of Go's client where the cause is a common one.
fn request_failed(error: &OciDistributionError) -> String {
    let text = super::describe(error);
    let OciDistributionError::RequestError(request) = error else {
        return text;
    };
    let Some(url) = request.url() else { return text };
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let why = if text.contains("dns error") {
        format!("dial tcp: lookup {host}: no such host")
    } else if request.is_timeout() {
        format!("dial tcp {host}:{port}: i/o timeout")
    } else if text.contains("Connection refused") {
        format!("dial tcp {host}:{port}: connect: connection refused")
    } else {
        return text;
    };
    format!("Get \"{url}\": {why}")
}

fn classify(error: &OciDistributionError) -> PullFailure {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => PullFailure::NotFound,
        OciDistributionError::ServerError { code: 404, .. } => PullFailure::NotFound,
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::ServerError { code: 401 | 403, .. } => PullFailure::Denied,
        OciDistributionError::RegistryError { envelope, .. } => {
            let codes = envelope.errors.iter().map(|error| &error.code);
            codes
                .map(classify_code)
                .find(|kind| *kind != PullFailure::Other)
                .unwrap_or(PullFailure::Other)
        }
        _ => PullFailure::Other,
    }
}

fn classify_code(code: &OciErrorCode) -> PullFailure {
    match code {
        OciErrorCode::ManifestUnknown
        | OciErrorCode::NameUnknown
        | OciErrorCode::NotFound
        | OciErrorCode::BlobUnknown => PullFailure::NotFound,
        OciErrorCode::Unauthorized | OciErrorCode::Denied => PullFailure::Denied,
        _ => PullFailure::Other,
    }
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
