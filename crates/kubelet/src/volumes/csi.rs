//! `csi` volumes of a pod itself: a driver makes them for the pod, and they end with it.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{SecretReference, Volume};

use super::{Mounted, Request, VolumePlugin};
use crate::csi::mount::{self, Source, ephemeral_handle};
use crate::csi::records;
use crate::error::Result;
use crate::pod::PodExt;

pub struct CsiPlugin;

#[async_trait]
impl VolumePlugin for CsiPlugin {
    fn name(&self) -> &'static str {
        records::PLUGIN
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.csi.is_some()
    }

    fn is_live(&self) -> bool {
        true
    }

    async fn set_up(&self, request: &Request<'_>) -> Result<Mounted> {
        let Some(source) = &request.volume.csi else {
            return Ok(Mounted::default());
        };
        if let Some(before) = request.before.filter(|_| mount::stands(request)) {
            return Ok(before.clone());
        }
        let pod = request.pod();
        let secret = source.node_publish_secret_ref.as_ref().map(|r| SecretReference {
            name: Some(r.name.clone()),
            namespace: Some(pod.namespace().to_owned()),
        });
        let wanted = Source {
            name: &request.volume.name,
            driver: &source.driver,
            handle: ephemeral_handle(pod.uid(), &request.volume.name),
            read_only: source.read_only.unwrap_or(false),
            fs_type: source.fs_type.as_deref().unwrap_or_default(),
            attributes: source
                .volume_attributes
                .clone()
                .unwrap_or_default()
                .into_iter()
                .collect(),
            publish_secret: secret,
            ..Source::default()
        };
        Ok(mount::mount(request, &wanted).await?.mounted)
    }
}
