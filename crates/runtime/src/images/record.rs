//! What is known of an image, and what its configuration says.

use serde::{Deserialize, Serialize};

use super::{Digest, ImageError};

/// One image. Its id is the digest of its configuration, whatever names and manifests lead to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    pub id: Digest,
    pub manifest: Digest,
    /// The layers as they came, bottom first.
    pub blobs: Vec<Digest>,
    /// The unpacked layers, bottom first, by chain id.
    pub chain: Vec<Digest>,
    /// Names with tags, in normal form.
    pub tags: Vec<String>,
    /// Names with manifest digests.
    pub digests: Vec<String>,
    pub size: u64,
    /// The image's `USER`, as written.
    #[serde(default)]
    pub user: String,
}

/// The part of an image's configuration that a container takes its defaults from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageConfig {
    #[serde(default)]
    pub user: String,
    #[serde(default, deserialize_with = "nullable")]
    pub env: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    #[serde(default)]
    pub working_dir: String,
    #[serde(default)]
    pub stop_signal: String,
}

/// A whole image configuration, as far as it is used.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) config: Option<ImageConfig>,
    pub(crate) rootfs: RootFs,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    #[serde(default = "two")]
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Descriptor>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
}

impl Descriptor {
    pub(crate) fn is_index(&self) -> bool {
        self.media_type.ends_with("image.index.v1+json") || self.media_type.ends_with("manifest.list.v2+json")
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations
            .as_ref()
            .and_then(|all| all.get(name))
            .map(String::as_str)
    }
}

impl Platform {
    pub(crate) fn is_ours(&self) -> bool {
        self.os == "linux" && self.architecture == architecture()
    }
}

/// This machine's name in image manifests.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Index {
    /// The manifest for this machine: by platform, or the only one there is.
    pub(crate) fn choose(&self) -> Option<&Descriptor> {
        let ours = |m: &&Descriptor| m.platform.as_ref().is_some_and(Platform::is_ours);
        self.manifests
            .iter()
            .find(ours)
            .or_else(|| match self.manifests.as_slice() {
                [only] if only.platform.is_none() => Some(only),
                _ => None,
            })
    }
}

impl ConfigFile {
    pub(crate) fn parse(data: &[u8]) -> Result<ConfigFile, ImageError> {
        let config: ConfigFile = serde_json::from_slice(data)
            .map_err(|error| ImageError::Malformed(format!("image configuration: {error}")))?;
        let foreign = !config.architecture.is_empty() && config.architecture != architecture();
        if foreign || !matches!(config.os.as_str(), "" | "linux") {
            return Err(ImageError::Malformed(format!(
                "no match for platform in manifest: the image is for {}/{}, this machine is linux/{}",
                config.os,
                config.architecture,
                architecture()
            )));
        }
        Ok(config)
    }

    /// The names of the unpacked layers: each depends on all below it.
    pub(crate) fn chain(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.rootfs.diff_ids.len());
        for diff_id in &self.rootfs.diff_ids {
            chain.push(match chain.last() {
                None => diff_id.clone(),
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            });
        }
        chain
    }
}

pub(crate) fn parse<T: for<'de> Deserialize<'de>>(what: &str, data: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(data).map_err(|error| ImageError::Malformed(format!("{what}: {error}")))
}

fn two() -> u32 {
    2
}

/// Docker writes `null` for an empty list.
fn nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(deserializer).map(Option::unwrap_or_default)
}
