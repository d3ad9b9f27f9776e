//! One driver, as the kubelet speaks to it.

use std::sync::Arc;
use std::time::Duration;

use plugins::csi;
use plugins::csi::node_client::NodeClient;
use plugins::csi::node_service_capability::{Type, rpc};
use plugins::csi::volume_capability::access_mode::Mode;
use tokio::sync::OnceCell;
use tonic::transport::Channel;

use crate::error::{Error, Result};

/// How long a driver may take for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// A registered driver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Driver {
    pub name: String,
    pub endpoint: String,
    channel: Channel,
    capabilities: Arc<OnceCell<Capabilities>>,
}

/// What a driver's node service can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub stage: bool,
    pub stats: bool,
    pub expand: bool,
    pub condition: bool,
    pub single_node_multi_writer: bool,
    pub mount_group: bool,
}

impl Driver {
    pub async fn connect(name: &str, endpoint: &str) -> Result<Self> {
        let channel = plugins::connect(endpoint)
            .await
            .map_err(|error| Error::Pod(error.to_string()))?;
        Ok(Self {
            name: name.to_owned(),
            endpoint: endpoint.to_owned(),
            channel,
            capabilities: Arc::default(),
        })
    }

    fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    /// Asked once.
    pub async fn capabilities(&self) -> Result<Capabilities> {
        let ask = async {
            let mut client = self.node();
            let answer = within(client.node_get_capabilities(csi::NodeGetCapabilitiesRequest {})).await?;
            let mut found = Capabilities::default();
            for capability in answer.capabilities {
                let Some(Type::Rpc(rpc)) = capability.r#type else {
                    continue;
                };
                match rpc.r#type() {
                    rpc::Type::StageUnstageVolume => found.stage = true,
                    rpc::Type::GetVolumeStats => found.stats = true,
                    rpc::Type::ExpandVolume => found.expand = true,
                    rpc::Type::VolumeCondition => found.condition = true,
                    rpc::Type::SingleNodeMultiWriter => found.single_node_multi_writer = true,
                    rpc::Type::VolumeMountGroup => found.mount_group = true,
                    rpc::Type::Unknown => {}
                }
            }
            Ok(found)
        };
        self.capabilities.get_or_try_init(|| ask).await.copied()
    }

    pub async fn info(&self) -> Result<csi::NodeGetInfoResponse> {
        within(self.node().node_get_info(csi::NodeGetInfoRequest {})).await
    }

    pub async fn stage(&self, request: csi::NodeStageVolumeRequest) -> Result<()> {
        within(self.node().node_stage_volume(request)).await.map(drop)
    }

    pub async fn unstage(&self, volume_id: &str, staging: &str) -> Result<()> {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: volume_id.to_owned(),
            staging_target_path: staging.to_owned(),
        };
        within(self.node().node_unstage_volume(request)).await.map(drop)
    }

    pub async fn publish(&self, request: csi::NodePublishVolumeRequest) -> Result<()> {
        within(self.node().node_publish_volume(request)).await.map(drop)
    }

    pub async fn unpublish(&self, volume_id: &str, target: &str) -> Result<()> {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: volume_id.to_owned(),
            target_path: target.to_owned(),
        };
        within(self.node().node_unpublish_volume(request)).await.map(drop)
    }

    pub async fn expand(&self, request: csi::NodeExpandVolumeRequest) -> Result<i64> {
        within(self.node().node_expand_volume(request))
            .await
            .map(|answer| answer.capacity_bytes)
    }

    pub async fn stats(
        &self,
        volume_id: &str,
        path: &str,
        staging: &str,
    ) -> Result<csi::NodeGetVolumeStatsResponse> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: volume_id.to_owned(),
            volume_path: path.to_owned(),
            staging_target_path: staging.to_owned(),
        };
        within(self.node().node_get_volume_stats(request)).await
    }
}

async fn within<T>(
    call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Error::Pod(format!(
            "rpc error: code = {:?} desc = {}",
            status.code(),
            status.message()
        ))),
        Err(_) => Err(Error::Pod(
            "rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned(),
        )),
    }
}

/// CSI's word for the first of a volume's access modes.
pub fn access_mode(modes: &[String], capabilities: Capabilities) -> Mode {
    let finer = capabilities.single_node_multi_writer;
    match modes.first().map_or("ReadWriteOnce", String::as_str) {
        "ReadOnlyMany" => Mode::MultiNodeReaderOnly,
        "ReadWriteMany" => Mode::MultiNodeMultiWriter,
        "ReadWriteOncePod" if finer => Mode::SingleNodeSingleWriter,
        "ReadWriteOnce" if finer => Mode::SingleNodeMultiWriter,
        _ => Mode::SingleNodeWriter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_modes() {
        let finer = Capabilities {
            single_node_multi_writer: true,
            ..Capabilities::default()
        };
        let plain = Capabilities::default();
        for (mode, capabilities, expected) in [
            ("ReadWriteOnce", plain, Mode::SingleNodeWriter),
            ("ReadWriteOncePod", plain, Mode::SingleNodeWriter),
            ("ReadWriteOnce", finer, Mode::SingleNodeMultiWriter),
            ("ReadWriteOncePod", finer, Mode::SingleNodeSingleWriter),
            ("ReadOnlyMany", finer, Mode::MultiNodeReaderOnly),
            ("ReadWriteMany", plain, Mode::MultiNodeMultiWriter),
        ] {
            assert_eq!(access_mode(&[mode.to_owned()], capabilities), expected, "{mode}");
        }
    }
}
