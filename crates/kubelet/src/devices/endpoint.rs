//! One device plugin, as the kubelet speaks to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use plugins::device as api;
use plugins::device::device_plugin_client::DevicePluginClient;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;

use super::state::Choice;

const PATIENCE: Duration = Duration::from_secs(10);
const PRE_START: Duration = Duration::from_secs(30);

/// Cheap to clone; the stream of its devices ends with the last.
#[derive(Clone)]
pub(super) struct Endpoint {
    client: DevicePluginClient<Channel>,
    options: api::DevicePluginOptions,
    _stop: Arc<DropGuard>,
    until: CancellationToken,
}

impl Endpoint {
    pub(super) async fn connect(
        socket: &str,
        options: Option<api::DevicePluginOptions>,
    ) -> Result<Self, String> {
        let channel = plugins::connect(socket)
            .await
            .map_err(|e| format!("failed to dial device plugin: {e}"))?;
        let mut client = DevicePluginClient::new(channel);
        let options = match options {
            Some(options) => options,
            None => within(PATIENCE, client.get_device_plugin_options(api::Empty {})).await?,
        };
        let until = CancellationToken::new();
        Ok(Self {
            client,
            options,
            _stop: Arc::new(until.clone().drop_guard()),
            until,
        })
    }

    /// Tells of every list of devices, and once of the end: then `None`.
    pub(super) fn follow(&self, tell: impl Fn(Option<Vec<api::Device>>) + Send + Sync + 'static) {
        let (mut client, until) = (self.client.clone(), self.until.clone());
        tokio::spawn(async move {
            let lists = async {
                let mut stream = match client.list_and_watch(api::Empty {}).await {
                    Ok(stream) => stream.into_inner(),
                    Err(status) => return status.message().to_owned(),
                };
                loop {
                    match stream.message().await {
                        Ok(Some(list)) => tell(Some(list.devices)),
                        Ok(None) => return "the plugin ended it".to_owned(),
                        Err(status) => return status.message().to_owned(),
                    }
                }
            };
            tokio::select! {
                // Another plugin of the resource took its place, or it was struck off.
                () = until.cancelled() => {}
                why = lists => {
                    tracing::warn!(why, "a device plugin's list ended");
                    tell(None);
                }
            }
        });
    }

    /// Which devices the plugin would choose, if it has a wish.
    pub(super) async fn preferred(&self, choice: &Choice) -> Option<BTreeSet<String>> {
        if !self.options.get_preferred_allocation_available || choice.available.len() <= choice.count {
            return None;
        }
        let request = api::PreferredAllocationRequest {
            container_requests: vec![api::ContainerPreferredAllocationRequest {
                available_device_i_ds: choice.available.iter().cloned().collect(),
                must_include_device_i_ds: choice.must_include.iter().cloned().collect(),
                allocation_size: i32::try_from(choice.count).unwrap_or(i32::MAX),
            }],
        };
        match within(PATIENCE, self.client.clone().get_preferred_allocation(request)).await {
            Ok(answer) => answer
                .container_responses
                .into_iter()
                .next()
                .map(|r| r.device_i_ds.into_iter().collect()),
            Err(problem) => {
                tracing::warn!(problem, "a device plugin does not say which devices it prefers");
                None
            }
        }
    }

    pub(super) async fn allocate(
        &self,
        devices: &BTreeSet<String>,
    ) -> Result<api::ContainerAllocateResponse, String> {
        let request = api::AllocateRequest {
            container_requests: vec![api::ContainerAllocateRequest {
                devices_ids: devices.iter().cloned().collect(),
            }],
        };
        let answer = within(PATIENCE, self.client.clone().allocate(request)).await?;
        let first = answer.container_responses.into_iter().next();
        first.ok_or_else(|| "no containers in response to the allocation".to_owned())
    }

    pub(super) async fn before_start(&self, devices: &BTreeSet<String>) -> Result<(), String> {
        if !self.options.pre_start_required {
            return Ok(());
        }
        let request = api::PreStartContainerRequest {
            devices_ids: devices.iter().cloned().collect(),
        };
        within(PRE_START, self.client.clone().pre_start_container(request))
            .await
            .map(drop)
            .map_err(|e| format!("device plugin PreStartContainer rpc failed with err: {e}"))
    }
}

async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, String> {
    match tokio::time::timeout(patience, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(format!(
            "rpc error: code = {:?} desc = {}",
            status.code(),
            status.message()
        )),
        Err(_) => Err("rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned()),
    }
}
