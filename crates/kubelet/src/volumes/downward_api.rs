//! `downwardAPI` volumes.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::payload::{self, DEFAULT_MODE};
use super::{Mounted, Request, VolumePlugin, manager};
use crate::error::Result;

pub struct DownwardApiPlugin;

#[async_trait]
impl VolumePlugin for DownwardApiPlugin {
    fn name(&self) -> &'static str {
        "kubernetes.io/downward-api"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.downward_api.is_some()
    }

    fn is_live(&self) -> bool {
        true
    }

    async fn set_up(&self, request: &Request<'_>) -> Result<Mounted> {
        let Some(source) = &request.volume.downward_api else {
            return Ok(Mounted::default());
        };
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let payload =
            payload::downward_api(request.facts, source.items.as_deref().unwrap_or_default(), mode)?;
        manager::write_payload(request, payload, manager::Backing::Memory, None)
    }
}
