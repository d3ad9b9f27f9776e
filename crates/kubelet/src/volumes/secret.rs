//! `secret` volumes, in memory only.

use async_trait::async_trait;
use client::ObjectKey;
use k8s_openapi::api::core::v1::{Pod, Volume};

use super::payload::{self, DEFAULT_MODE, Shape};
use super::{Mounted, References, Request, VolumePlugin, manager};
use crate::error::{Error, Result};
use crate::pod::PodExt;

pub struct SecretPlugin;

#[async_trait]
impl VolumePlugin for SecretPlugin {
    fn name(&self) -> &'static str {
        "kubernetes.io/secret"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.secret.is_some()
    }

    fn references(&self, pod: &Pod, volume: &Volume, into: &mut References) {
        let name = volume.secret.as_ref().and_then(|s| s.secret_name.as_deref());
        into.secrets
            .extend(name.map(|n| ObjectKey::new(pod.namespace(), n)));
    }

    fn is_live(&self) -> bool {
        true
    }

    async fn set_up(&self, request: &Request<'_>) -> Result<Mounted> {
        let Some(source) = &request.volume.secret else {
            return Ok(Mounted::default());
        };
        let name = source.secret_name.as_deref().unwrap_or_default();
        let optional = source.optional == Some(true);
        let shape = Shape {
            items: source.items.as_deref(),
            default_mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            optional,
        };
        let key = ObjectKey::new(request.pod().namespace(), name);
        let payload = match request.node.secrets.get(&key).await? {
            Some(secret) => payload::secret(&secret, &shape)?,
            None if optional => payload::secret(&Default::default(), &shape)?,
            None => return Err(Error::Pod(format!("secret {name:?} not found"))),
        };
        manager::write_payload(request, payload, manager::Backing::Memory, None)
    }
}
