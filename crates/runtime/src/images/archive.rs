//! Images from archives: `docker save` tars and OCI layouts, packed or not, or as a directory.
//!
//! Everything an archive says is checked: each blob against the digest that names it, each layer against
//! the image's configuration.

use serde::Deserialize;

use super::record::{ConfigFile, Descriptor, Index, Manifest, parse};
use super::source::Source;
use super::{Digest, ImageError, Reference};

/// An image as an archive describes it, nothing of it taken in yet.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) tags: Vec<String>,
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) config: ConfigFile,
    /// As it stands in an OCI layout; a `docker save` archive has none, and one is made.
    pub(crate) manifest: Option<Vec<u8>>,
    pub(crate) layers: Vec<Part>,
}

/// A layer's place in the archive.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) member: String,
    pub(crate) digest: Option<Digest>,
    pub(crate) size: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The images in an archive.
pub(crate) fn read(source: &Source) -> Result<Vec<Candidate>, ImageError> {
    let candidates = if source.has("manifest.json") {
        docker(source)?
    } else if source.has("index.json") {
        layout(source)?
    } else {
        let neither = "it has neither manifest.json (docker save) nor index.json (OCI layout)";
        return Err(ImageError::NotAnArchive(neither.to_owned()));
    };
    match candidates.is_empty() {
        true => Err(ImageError::Malformed("the archive holds no image".to_owned())),
        false => Ok(candidates),
    }
}

fn docker(source: &Source) -> Result<Vec<Candidate>, ImageError> {
    let saved: Vec<Saved> = parse("manifest.json", &source.metadata("manifest.json")?)?;
    saved
        .into_iter()
        .map(|image| docker_image(source, image))
        .collect()
}

fn docker_image(source: &Source, image: Saved) -> Result<Candidate, ImageError> {
    let config_bytes = source.metadata(&image.config)?;
    let stem = image
        .config
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".json");
    if let Some(expected) = Digest::parse(&format!("sha256:{stem}")) {
        super::content::check_digest(&image.config, &expected, &Digest::of(&config_bytes))?;
    }
    let config = ConfigFile::parse(&config_bytes)?;
    let members = image.layers.unwrap_or_default();
    let layers = members
        .into_iter()
        .map(|member| Part {
            member,
            digest: None,
            size: None,
        })
        .collect();
    let tags = image.repo_tags.unwrap_or_default();
    let tags = tags
        .iter()
        .map(|tag| Ok(Reference::parse(tag)?.to_string()))
        .collect::<Result<_, ImageError>>()?;
    checked(Candidate {
        tags,
        config_bytes,
        config,
        manifest: None,
        layers,
    })
}

fn layout(source: &Source) -> Result<Vec<Candidate>, ImageError> {
    let index: Index = parse("index.json", &source.metadata("index.json")?)?;
    // Attestations and images for other machines stand beside ours.
    let wanted = |m: &&Descriptor| m.platform.as_ref().is_none_or(|p| p.is_ours() || p.os.is_empty());
    index
        .manifests
        .iter()
        .filter(wanted)
        .map(|descriptor| layout_image(source, descriptor))
        .collect()
}

fn layout_image(source: &Source, descriptor: &Descriptor) -> Result<Candidate, ImageError> {
    let tags = descriptor.annotation("io.containerd.image.name").or_else(|| {
        descriptor
            .annotation("org.opencontainers.image.ref.name")
            .filter(|name| name.contains(['/', ':']))
    });
    let tags = tags
        .map(|name| Reference::parse(name).map(|name| name.to_string()))
        .transpose()?;
    let mut bytes = blob(source, descriptor)?;
    let mut digest = descriptor.digest.clone();
    // An index may point at another index, which has one manifest for each kind of machine.
    for _ in 0..4 {
        let nested: Option<Index> = serde_json::from_slice(&bytes).ok();
        let Some(nested) = nested.filter(|_| descriptor.is_index() || !has_config(&bytes)) else {
            break;
        };
        let ours = nested
            .choose()
            .ok_or_else(|| ImageError::Malformed(format!("no match for platform in manifest {digest}")))?;
        digest = ours.digest.clone();
        bytes = blob(source, ours)?;
    }
    let manifest: Manifest = parse(&format!("manifest {digest}"), &bytes)?;
    let config_bytes = blob(source, &manifest.config)?;
    let config = ConfigFile::parse(&config_bytes)?;
    let layers = manifest.layers.iter().map(|layer| Part {
        member: member(&layer.digest),
        digest: Some(layer.digest.clone()),
        size: Some(layer.size),
    });
    let layers = layers.collect();
    checked(Candidate {
        tags: tags.into_iter().collect(),
        config_bytes,
        config,
        manifest: Some(bytes),
        layers,
    })
}

fn has_config(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Manifest>(bytes).is_ok()
}

fn member(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn blob(source: &Source, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let data = source.metadata(&member(&descriptor.digest))?;
    super::content::check_digest(
        &member(&descriptor.digest),
        &descriptor.digest,
        &Digest::of(&data),
    )?;
    Ok(data)
}

fn checked(candidate: Candidate) -> Result<Candidate, ImageError> {
    let (layers, diff_ids) = (candidate.layers.len(), candidate.config.rootfs.diff_ids.len());
    match layers == diff_ids {
        true => Ok(candidate),
        false => Err(ImageError::Malformed(format!(
            "the archive has {layers} layers where the image's configuration names {diff_ids}"
        ))),
    }
}
