//! `configMap` volumes.

use async_trait::async_trait;
use client::ObjectKey;
use k8s_openapi::api::core::v1::{Pod, Volume};

use super::payload::{self, DEFAULT_MODE, Shape};
use super::{Mounted, References, Request, VolumePlugin, manager};
use crate::error::{Error, Result};
use crate::pod::PodExt;

pub struct ConfigMapPlugin;

#[async_trait]
impl VolumePlugin for ConfigMapPlugin {
    fn name(&self) -> &'static str {
        "kubernetes.io/configmap"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.config_map.is_some()
    }

    fn references(&self, pod: &Pod, volume: &Volume, into: &mut References) {
        let names = volume
            .config_map
            .iter()
            .map(|s| ObjectKey::new(pod.namespace(), &s.name));
        into.config_maps.extend(names);
    }

    fn is_live(&self) -> bool {
        true
    }

    async fn set_up(&self, request: &Request<'_>) -> Result<Mounted> {
        let Some(source) = &request.volume.config_map else {
            return Ok(Mounted::default());
        };
        let optional = source.optional == Some(true);
        let shape = Shape {
            items: source.items.as_deref(),
            default_mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            optional,
        };
        let key = ObjectKey::new(request.pod().namespace(), &source.name);
        let payload = match request.node.config_maps.get(&key).await? {
            Some(map) => payload::config_map(&map, &shape)?,
            None if optional => payload::config_map(&Default::default(), &shape)?,
            None => return Err(Error::Pod(format!("configmap {:?} not found", source.name))),
        };
        manager::write_payload(request, payload, manager::Backing::Disk, None)
    }
}
