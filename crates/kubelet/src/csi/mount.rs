//! A volume of a driver for a pod: attached, staged once a node, published once a pod, given to the pod's group.
//!
//! Follows upstream's `csi_attacher.go` and `csi_mounter.go` in order, contexts and messages.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret, SecretReference};
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::Api;
use plugins::csi;
use plugins::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::attach;
use super::client::{Capabilities, Driver, access_mode};
use super::records::{self, EPHEMERAL, PERSISTENT, Record};
use crate::backoff::plus;
use crate::error::{Error, Result};
use crate::node::context::NodeContext;
use crate::pod::PodExt;
use crate::pods::orphans::blocking;
use crate::volumes::{Mounted, Request, ownership};

/// How often a driver that asks for it publishes again, and a volume is looked at for growth.
const AGAIN: Duration = Duration::from_secs(60);

/// What is mounted: of a pod's `csi` volume, or of a persistent volume.
#[derive(Clone, Debug, Default)]
pub struct Source<'a> {
    /// The name of the volume in the pod, or of the persistent volume.
    pub name: &'a str,
    pub driver: &'a str,
    pub handle: String,
    pub persistent: bool,
    pub block: bool,
    pub read_only: bool,
    pub fs_type: &'a str,
    pub attributes: HashMap<String, String>,
    pub access_modes: &'a [String],
    pub mount_options: &'a [String],
    pub publish_secret: Option<SecretReference>,
    pub stage_secret: Option<SecretReference>,
    pub expand_secret: Option<SecretReference>,
}

impl Source<'_> {
    pub fn id(&self) -> (String, String) {
        (self.driver.to_owned(), self.handle.clone())
    }

    pub fn capability(&self, able: Capabilities, group: Option<u32>) -> csi::VolumeCapability {
        let access_type = match self.block {
            true => AccessType::Block(BlockVolume {}),
            false => AccessType::Mount(MountVolume {
                fs_type: self.fs_type.to_owned(),
                mount_flags: self.mount_options.to_vec(),
                volume_mount_group: group
                    .filter(|_| able.mount_group)
                    .map_or_else(String::new, |g| g.to_string()),
            }),
        };
        csi::VolumeCapability {
            access_mode: Some(AccessMode {
                mode: access_mode(self.access_modes, able) as i32,
            }),
            access_type: Some(access_type),
        }
    }
}

/// What mounting a volume gave, and what growing it needs.
pub struct Done {
    pub mounted: Mounted,
    pub driver: Driver,
    /// Empty where the driver does not stage.
    pub staging: String,
}

/// The handle of a volume that lives as long as its pod.
pub fn ephemeral_handle(uid: &str, volume: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(uid.as_bytes());
    hash.update(volume.as_bytes());
    format!("csi-{}", hex::encode(hash.finalize()))
}

/// Whether a volume that was set up before may stay as it is.
pub fn stands(request: &Request<'_>) -> bool {
    let now = request.node.clock.now();
    let due = |m: &Mounted| m.refresh_at.is_some_and(|at| now >= at);
    request.before.is_some_and(|m| !due(m))
}

/// Mounts a volume, or brings it up to date.
pub async fn mount(request: &Request<'_>, source: &Source<'_>) -> Result<Done> {
    let node = request.node;
    let driver = node.csi.get(source.driver)?;
    let object = attach::object(node, source.driver).await?;
    check_lifecycle(object.as_ref(), source)?;
    let able = driver.capabilities().await?;
    let uid = request.pod().uid();
    let dir = node.paths.volume(uid, records::PLUGIN, source.name);
    let target = dir.join("mount");
    let id = source.id();
    let mut publish_context = HashMap::new();
    let mut staging = PathBuf::new();
    if source.persistent {
        if node.csi.use_volume(&id) {
            node.report.notify_one();
        }
        publish_context = attach::context(node, object.as_ref(), &id).await?;
        let _alone = node.csi.lock(&id).await;
        // From here on the volume is this pod's: nobody unstages it.
        record(node, source, PERSISTENT).save(&dir)?;
        if able.stage {
            staging = records::staging(&node.paths, &id);
            stage(request, source, &driver, able, &staging, &publish_context).await?;
        }
    } else {
        record(node, source, EPHEMERAL).save(&dir)?;
    }
    publish(
        request,
        source,
        &driver,
        able,
        Places {
            target: &target,
            staging: &staging,
        },
        publish_context,
        object.as_ref(),
    )
    .await?;
    if let Some(group) = request.fs_group()
        && !able.mount_group
        && takes_group(object.as_ref(), source)
    {
        give(request.pod(), target.clone(), group).await?;
    }
    let republish = object
        .as_ref()
        .is_some_and(|o| o.spec.requires_republish == Some(true));
    let grows = source.persistent && able.expand;
    let refresh_at: Option<Timestamp> = (republish || grows).then(|| plus(node.clock.now(), AGAIN));
    Ok(Done {
        mounted: Mounted {
            path: target,
            read_only: source.read_only,
            refresh_at,
            digest: None,
        },
        driver,
        staging: staging.to_string_lossy().into_owned(),
    })
}

struct Places<'a> {
    target: &'a Path,
    /// Empty where nothing is staged.
    staging: &'a Path,
}

fn record(node: &NodeContext, source: &Source<'_>, lifecycle: &str) -> Record {
    let node_name = node.settings.node_name.clone();
    Record {
        driver_name: source.driver.to_owned(),
        handle: source.handle.clone(),
        spec_name: source.name.to_owned(),
        attachment: attach::name(&source.id(), &node_name),
        node_name,
        lifecycle: lifecycle.to_owned(),
    }
}

/// Without a word of its own a driver has persistent volumes only.
fn check_lifecycle(object: Option<&CSIDriver>, source: &Source<'_>) -> Result<()> {
    let mode = if source.persistent { PERSISTENT } else { EPHEMERAL };
    let refuse = |why: String| {
        let driver = source.driver;
        Err(Error::Pod(format!(
            "kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: volume mode {mode:?} not supported by driver {driver} ({why})"
        )))
    };
    match object {
        None if source.persistent => Ok(()),
        None => refuse("no CSIDriver object".to_owned()),
        Some(object) => {
            let modes = object.spec.volume_lifecycle_modes.as_deref().unwrap_or_default();
            let listed = modes.iter().any(|m| m == mode) || (modes.is_empty() && source.persistent);
            match listed {
                true => Ok(()),
                false => refuse(format!("only supports {modes:?}")),
            }
        }
    }
}

async fn stage(
    request: &Request<'_>,
    source: &Source<'_>,
    driver: &Driver,
    able: Capabilities,
    staging: &Path,
    publish_context: &HashMap<String, String>,
) -> Result<()> {
    let node = request.node;
    let id = source.id();
    if node.csi.staged.lock().contains(&id) {
        return Ok(());
    }
    let secrets = secrets(node, source.stage_secret.as_ref(), "NodeStageSecretRef").await?;
    if let Some(dir) = staging.parent() {
        let of_node = Record {
            driver_name: source.driver.to_owned(),
            handle: source.handle.clone(),
            ..Record::default()
        };
        of_node.save(dir)?;
    }
    std::fs::create_dir_all(staging).map_err(Error::file("create", staging))?;
    driver
        .stage(csi::NodeStageVolumeRequest {
            volume_id: source.handle.clone(),
            publish_context: publish_context.clone(),
            staging_target_path: staging.to_string_lossy().into_owned(),
            volume_capability: Some(source.capability(able, request.fs_group())),
            secrets,
            volume_context: source.attributes.clone(),
        })
        .await?;
    node.csi.staged.lock().insert(id);
    Ok(())
}

async fn publish(
    request: &Request<'_>,
    source: &Source<'_>,
    driver: &Driver,
    able: Capabilities,
    places: Places<'_>,
    publish_context: HashMap<String, String>,
    object: Option<&CSIDriver>,
) -> Result<()> {
    let (node, pod) = (request.node, request.pod());
    let mut secrets = secrets(node, source.publish_secret.as_ref(), "NodePublishSecretRef").await?;
    let mut volume_context = source.attributes.clone();
    if object.is_some_and(|o| o.spec.pod_info_on_mount == Some(true)) {
        volume_context.extend(pod_info(pod, !source.persistent));
    }
    if let Some(object) = object
        && let Some(tokens) = tokens(node, pod, object).await?
    {
        let entry = ("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), tokens);
        match object.spec.service_account_token_in_secrets {
            Some(true) => secrets.extend([entry]),
            _ => volume_context.extend([entry]),
        }
    }
    driver
        .publish(csi::NodePublishVolumeRequest {
            volume_id: source.handle.clone(),
            publish_context,
            staging_target_path: places.staging.to_string_lossy().into_owned(),
            target_path: places.target.to_string_lossy().into_owned(),
            volume_capability: Some(source.capability(able, request.fs_group())),
            readonly: source.read_only,
            secrets,
            volume_context,
        })
        .await
}

fn pod_info(pod: &Pod, ephemeral: bool) -> [(String, String); 5] {
    let account = pod.spec().service_account_name.clone().unwrap_or_default();
    [
        ("pod.name", pod.name().to_owned()),
        ("pod.namespace", pod.namespace().to_owned()),
        ("pod.uid", pod.uid().to_owned()),
        ("serviceAccount.name", account),
        ("ephemeral", ephemeral.to_string()),
    ]
    .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
}

/// The tokens a driver asks for, by audience, as JSON.
async fn tokens(node: &NodeContext, pod: &Pod, object: &CSIDriver) -> Result<Option<String>> {
    let wanted = object.spec.token_requests.as_deref().unwrap_or_default();
    if wanted.is_empty() {
        return Ok(None);
    }
    let mut found = Map::new();
    for request in wanted {
        let token = node
            .tokens
            .get(pod, &request.audience, request.expiration_seconds)
            .await?;
        let value = json!({"token": token.value, "expirationTimestamp": token.expires.to_string()});
        found.insert(request.audience.clone(), value);
    }
    Ok(Some(Value::Object(found).to_string()))
}

/// A secret's values, for the driver.
pub(super) async fn secrets(
    node: &NodeContext,
    reference: Option<&SecretReference>,
    field: &str,
) -> Result<HashMap<String, String>> {
    let Some(reference) = reference else {
        return Ok(HashMap::new());
    };
    let name = reference.name.as_deref().unwrap_or_default();
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(node.client.clone(), namespace);
    let secret = api.get(name).await.map_err(|error| {
        Error::Pod(format!(
            "fetching {field} {namespace}/{name} failed: failed to find the secret {name} in the namespace {namespace} with error: {error}"
        ))
    })?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let data = secret.data.unwrap_or_default();
    Ok(data
        .into_iter()
        .map(|(key, value)| (key, text(value.0)))
        .collect())
}

/// Whether the kubelet gives the volume to the pod's group.
fn takes_group(object: Option<&CSIDriver>, source: &Source<'_>) -> bool {
    if source.read_only || source.block {
        return false;
    }
    let policy = object.and_then(|o| o.spec.fs_group_policy.as_deref());
    match policy.unwrap_or("ReadWriteOnceWithFSType") {
        "None" => false,
        "File" => true,
        _ if source.fs_type.is_empty() => false,
        _ if !source.persistent => true,
        _ => source
            .access_modes
            .iter()
            .any(|m| m == "ReadWriteOnce" || m == "ReadWriteOncePod"),
    }
}

/// Changes a volume's group as far as the pod's policy asks.
async fn give(pod: &Pod, path: PathBuf, group: u32) -> Result<()> {
    let context = pod.spec().security_context.as_ref();
    let only_root = context.and_then(|c| c.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
    blocking(move || {
        let matches = ownership::root_matches(&path, group, false).map_err(Error::file("look at", &path))?;
        if matches && only_root {
            return Ok(());
        }
        ownership::set(&path, group, false).map_err(Error::file("change the group of", &path))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(spec: Value) -> CSIDriver {
        serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": spec})).unwrap()
    }

    #[test]
    fn lifecycles() {
        let source = |persistent| Source {
            driver: "d",
            persistent,
            ..Source::default()
        };
        let both = driver(json!({"volumeLifecycleModes": ["Persistent", "Ephemeral"]}));
        let one = driver(json!({"volumeLifecycleModes": ["Persistent"]}));
        for (object, persistent, fine) in [
            (None, true, true),
            (None, false, false),
            (Some(&both), false, true),
            (Some(&one), true, true),
            (Some(&one), false, false),
        ] {
            let found = check_lifecycle(object, &source(persistent));
            assert_eq!(found.is_ok(), fine, "{object:?} {persistent}: {found:?}");
        }
    }

    #[test]
    fn who_changes_the_group() {
        let once = ["ReadWriteOnce".to_owned()];
        let many = ["ReadWriteMany".to_owned()];
        let source = |fs_type, modes| Source {
            persistent: true,
            fs_type,
            access_modes: modes,
            ..Source::default()
        };
        let policy = |p: &str| driver(json!({"fsGroupPolicy": p}));
        for (object, source, expected) in [
            (None, source("ext4", &once[..]), true),
            (None, source("", &once[..]), false),
            (None, source("ext4", &many[..]), false),
            (Some(policy("File")), source("", &many[..]), true),
            (Some(policy("None")), source("ext4", &once[..]), false),
        ] {
            assert_eq!(takes_group(object.as_ref(), &source), expected, "{source:?}");
        }
        let inline = Source {
            fs_type: "ext4",
            ..Source::default()
        };
        assert!(takes_group(None, &inline));
    }
}
