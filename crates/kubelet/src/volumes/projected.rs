//! `projected` volumes: secrets, config maps, the pod's own fields and service-account tokens in one directory.
//!
//! Cluster trust bundles and pod certificates are not projected yet; a volume that asks for one is refused
//! unless it is optional.

use async_trait::async_trait;
use client::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection, Volume};

use super::atomic::{File, Payload};
use super::payload::{self, DEFAULT_MODE, Shape, bits};
use super::{Mounted, References, Request, VolumePlugin, manager};
use crate::error::{Error, Result};
use crate::pod::PodExt;

pub struct ProjectedPlugin;

/// Tokens that belong to one user or group are nobody else's to read.
const PRIVATE: u32 = 0o600;

#[async_trait]
impl VolumePlugin for ProjectedPlugin {
    fn name(&self) -> &'static str {
        "kubernetes.io/projected"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.projected.is_some()
    }

    fn references(&self, pod: &Pod, volume: &Volume, into: &mut References) {
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        for source in sources {
            let key = |name: &String| ObjectKey::new(pod.namespace(), name);
            into.config_maps
                .extend(source.config_map.iter().map(|s| key(&s.name)));
            into.secrets.extend(source.secret.iter().map(|s| key(&s.name)));
        }
    }

    fn is_live(&self) -> bool {
        true
    }

    async fn set_up(&self, request: &Request<'_>) -> Result<Mounted> {
        let Some(projected) = &request.volume.projected else {
            return Ok(Mounted::default());
        };
        let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
        let mut payload = Payload::new();
        let mut refresh_at: Option<Timestamp> = None;
        let namespace = request.pod().namespace();
        for source in projected.sources.iter().flatten() {
            if let Some(source) = &source.secret {
                let optional = source.optional == Some(true);
                let shape = Shape {
                    items: source.items.as_deref(),
                    default_mode: mode,
                    optional,
                };
                payload.extend(
                    match request
                        .node
                        .secrets
                        .get(&ObjectKey::new(namespace, &source.name))
                        .await?
                    {
                        Some(secret) => payload::secret(&secret, &shape)?,
                        None if optional => Payload::new(),
                        None => return Err(Error::Pod(format!("secret {:?} not found", source.name))),
                    },
                );
            } else if let Some(source) = &source.config_map {
                let optional = source.optional == Some(true);
                let shape = Shape {
                    items: source.items.as_deref(),
                    default_mode: mode,
                    optional,
                };
                payload.extend(
                    match request
                        .node
                        .config_maps
                        .get(&ObjectKey::new(namespace, &source.name))
                        .await?
                    {
                        Some(map) => payload::config_map(&map, &shape)?,
                        None if optional => Payload::new(),
                        None => return Err(Error::Pod(format!("configmap {:?} not found", source.name))),
                    },
                );
            } else if let Some(source) = &source.downward_api {
                let items = source.items.as_deref().unwrap_or_default();
                payload.extend(payload::downward_api(request.facts, items, mode)?);
            } else if let Some(source) = &source.service_account_token {
                let due = token(request, source, mode, &mut payload).await?;
                refresh_at = Some(refresh_at.map_or(due, |at| at.min(due)));
            } else if let Some(source) = &source.cluster_trust_bundle
                && source.optional != Some(true)
            {
                return Err(Error::Pod(
                    "ClusterTrustBundle projection is not supported".to_owned(),
                ));
            } else if source.pod_certificate.is_some() {
                return Err(Error::Pod(
                    "PodCertificate projection is not supported".to_owned(),
                ));
            }
        }
        manager::write_payload(request, payload, manager::Backing::Memory, refresh_at)
    }
}

async fn token(
    request: &Request<'_>,
    source: &ServiceAccountTokenProjection,
    mode: i32,
    payload: &mut Payload,
) -> Result<Timestamp> {
    let audience = source.audience.as_deref().unwrap_or_default();
    let token = request
        .node
        .tokens
        .get(request.pod(), audience, source.expiration_seconds)
        .await?;
    let owner = common_user(request.pod());
    let mode = if owner.is_some() || request.fs_group().is_some() {
        PRIVATE
    } else {
        bits(mode)
    };
    payload.insert(
        source.path.clone(),
        File {
            data: token.value.into_bytes(),
            mode,
            owner,
        },
    );
    Ok(token.refresh_at)
}

/// The user that all containers run as, if they all say the same.
fn common_user(pod: &Pod) -> Option<u32> {
    let mut user = None;
    for (_, container) in pod.all_containers() {
        let own = crate::runtime::security::effective(pod, &container).run_as_user?;
        if user.is_some_and(|u| u != own) {
            return None;
        }
        user = Some(own);
    }
    user.and_then(|u| u32::try_from(u).ok())
}
