//! Calls to the container runtime, each with upstream's time limit.
//!
//! **Invariant:** removing or stopping what is not there succeeds, so every caller can repeat itself.

use std::path::Path;
use std::time::Duration;

use cri::{Clients, v1};
use tonic::{Response, Status};

use super::labels;
use super::status::{ContainerStatus, PodStatus, container_status};
use crate::error::{Error, Result};

/// How long a call may take that does no work of its own.
const CALL: Duration = Duration::from_secs(120);
/// Creating a sandbox may pull the network up; upstream gives it four minutes.
const SANDBOX: Duration = Duration::from_secs(240);

/// The runtime. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    clients: Clients,
    name: std::sync::Arc<str>,
    version: std::sync::Arc<str>,
}

/// What a command run in a container left.
#[derive(Clone, Debug, Default)]
pub struct ExecOutput {
    pub output: Vec<u8>,
    pub exit_code: i32,
}

/// Everything the runtime has, by its own lists.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    pub sandboxes: Vec<v1::PodSandbox>,
    pub containers: Vec<v1::Container>,
}

impl Runtime {
    /// Connects and asks who answers.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let clients = cri::connect(socket).await.map_err(|source| Error::Connect {
            path: socket.to_owned(),
            source,
        })?;
        Self::new(clients).await
    }

    pub async fn new(mut clients: Clients) -> Result<Self> {
        let version = call("ask the runtime's version", CALL, {
            clients.runtime.version(v1::VersionRequest {
                version: String::new(),
            })
        })
        .await?;
        Ok(Self {
            clients,
            name: version.runtime_name.into(),
            version: version.runtime_version.into(),
        })
    }

    /// The word before `://` in container ids.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    pub async fn status(&self) -> Result<v1::StatusResponse> {
        let request = v1::StatusRequest { verbose: false };
        call(
            "ask the runtime's status",
            CALL,
            self.clients.runtime.clone().status(request),
        )
        .await
    }

    pub async fn update_pod_cidr(&self, cidr: &str) -> Result<()> {
        let network_config = Some(v1::NetworkConfig {
            pod_cidr: cidr.to_owned(),
        });
        let request = v1::UpdateRuntimeConfigRequest {
            runtime_config: Some(v1::RuntimeConfig { network_config }),
        };
        call(
            "set the pod CIDR",
            CALL,
            self.clients.runtime.clone().update_runtime_config(request),
        )
        .await?;
        Ok(())
    }

    // === pods ===

    /// One pod's snapshot. Container messages are not completed yet.
    pub async fn pod_status(&self, uid: &str, name: &str, namespace: &str) -> Result<PodStatus> {
        let filter = v1::PodSandboxFilter {
            label_selector: labels::uid_selector(uid),
            ..Default::default()
        };
        let mut client = self.clients.runtime.clone();
        let list = client.list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) });
        let list = call("list sandboxes", CALL, list).await?;
        let mut sandboxes = Vec::new();
        let mut containers = Vec::new();
        // A runtime that stamps its answer tells the containers with it.
        let mut complete = true;
        for item in list.items {
            let request = v1::PodSandboxStatusRequest {
                pod_sandbox_id: item.id,
                verbose: false,
            };
            let answer = match call("read a sandbox", CALL, client.pod_sandbox_status(request)).await {
                Err(error) if error.is_not_found() => continue,
                answer => answer?,
            };
            let Some(status) = answer.status else { continue };
            complete &= answer.timestamp != 0;
            containers.extend(
                answer
                    .containers_statuses
                    .into_iter()
                    .map(|c| container_status(c, &status.id)),
            );
            sandboxes.push(status);
        }
        if !complete || sandboxes.is_empty() {
            containers = self.pod_containers(uid).await?;
        }
        Ok(PodStatus::new(uid, name, namespace).assemble(sandboxes, containers))
    }

    async fn pod_containers(&self, uid: &str) -> Result<Vec<ContainerStatus>> {
        let filter = v1::ContainerFilter {
            label_selector: labels::uid_selector(uid),
            ..Default::default()
        };
        let mut client = self.clients.runtime.clone();
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let list = call("list containers", CALL, client.list_containers(request)).await?;
        let mut found = Vec::new();
        for item in list.containers {
            match self.container_status(&item.id).await {
                Ok(status) => found.push(container_status(status, &item.pod_sandbox_id)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    pub async fn inventory(&self) -> Result<Inventory> {
        let mut client = self.clients.runtime.clone();
        let sandboxes = client.list_pod_sandbox(v1::ListPodSandboxRequest::default());
        let sandboxes = call("list sandboxes", CALL, sandboxes).await?.items;
        let containers = client.list_containers(v1::ListContainersRequest::default());
        let containers = call("list containers", CALL, containers).await?.containers;
        Ok(Inventory {
            sandboxes,
            containers,
        })
    }

    pub async fn events(&self) -> Result<tonic::Streaming<v1::ContainerEventResponse>> {
        let mut client = self.clients.runtime.clone();
        call(
            "follow the runtime's events",
            CALL,
            client.get_container_events(v1::GetEventsRequest {}),
        )
        .await
    }

    pub async fn run_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String> {
        let mut client = self.clients.runtime.clone();
        let request = v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_owned(),
        };
        Ok(call("run a sandbox", SANDBOX, client.run_pod_sandbox(request))
            .await?
            .pod_sandbox_id)
    }

    pub async fn sandbox_status(&self, id: &str) -> Result<Option<v1::PodSandboxStatus>> {
        let mut client = self.clients.runtime.clone();
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        Ok(call("read a sandbox", CALL, client.pod_sandbox_status(request))
            .await?
            .status)
    }

    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let mut client = self.clients.runtime.clone();
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        missing_is_fine(call("stop a sandbox", CALL, client.stop_pod_sandbox(request)).await)
    }

    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let mut client = self.clients.runtime.clone();
        let request = v1::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        missing_is_fine(call("remove a sandbox", CALL, client.remove_pod_sandbox(request)).await)
    }

    pub async fn port_forward(&self, sandbox: &str, ports: Vec<i32>) -> Result<String> {
        let mut client = self.clients.runtime.clone();
        let request = v1::PortForwardRequest {
            pod_sandbox_id: sandbox.to_owned(),
            port: ports,
        };
        Ok(call("forward a port", CALL, client.port_forward(request))
            .await?
            .url)
    }

    // === containers ===

    pub async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String> {
        let mut client = self.clients.runtime.clone();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(
            call("create a container", SANDBOX, client.create_container(request))
                .await?
                .container_id,
        )
    }

    pub async fn start_container(&self, id: &str) -> Result<()> {
        let mut client = self.clients.runtime.clone();
        let request = v1::StartContainerRequest {
            container_id: id.to_owned(),
        };
        call("start a container", CALL, client.start_container(request)).await?;
        Ok(())
    }

    pub async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<()> {
        let mut client = self.clients.runtime.clone();
        let request = v1::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace_seconds,
        };
        let limit = CALL + Duration::from_secs(grace_seconds.max(0).unsigned_abs());
        missing_is_fine(call("stop a container", limit, client.stop_container(request)).await)
    }

    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let mut client = self.clients.runtime.clone();
        let request = v1::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        missing_is_fine(call("remove a container", CALL, client.remove_container(request)).await)
    }

    pub async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus> {
        let mut client = self.clients.runtime.clone();
        let request = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = call("read a container", CALL, client.container_status(request)).await?;
        answer
            .status
            .ok_or_else(|| Error::Pod("container status is nil".to_owned()))
    }

    pub async fn update_resources(&self, id: &str, linux: v1::LinuxContainerResources) -> Result<()> {
        let mut client = self.clients.runtime.clone();
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        call(
            "change a container's resources",
            CALL,
            client.update_container_resources(request),
        )
        .await?;
        Ok(())
    }

    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let mut client = self.clients.runtime.clone();
        let request = v1::ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        call("reopen a log", CALL, client.reopen_container_log(request)).await?;
        Ok(())
    }

    /// Runs a command to its end; no limit when `timeout` is zero.
    pub async fn exec_sync(&self, id: &str, cmd: Vec<String>, timeout: Duration) -> Result<ExecOutput> {
        let mut client = self.clients.runtime.clone();
        let request = v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd,
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        };
        let limit = if timeout.is_zero() {
            Duration::from_secs(24 * 3600)
        } else {
            timeout + CALL
        };
        let answer = call("run a command in a container", limit, client.exec_sync(request)).await?;
        let mut output = answer.stdout.to_vec();
        output.extend_from_slice(&answer.stderr);
        Ok(ExecOutput {
            output,
            exit_code: answer.exit_code,
        })
    }

    pub async fn exec(&self, request: v1::ExecRequest) -> Result<String> {
        Ok(call(
            "open an exec stream",
            CALL,
            self.clients.runtime.clone().exec(request),
        )
        .await?
        .url)
    }

    pub async fn attach(&self, request: v1::AttachRequest) -> Result<String> {
        Ok(call(
            "open an attach stream",
            CALL,
            self.clients.runtime.clone().attach(request),
        )
        .await?
        .url)
    }

    /// Has a container written to a file; the runtime ends the attempt after `timeout` seconds, if there are any.
    pub async fn checkpoint_container(&self, id: &str, location: &str, timeout: i64) -> Result<()> {
        let mut client = self.clients.runtime.clone();
        let request = v1::CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: location.to_owned(),
            timeout,
        };
        let limit = match u64::try_from(timeout) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds) + CALL,
            _ => CALL,
        };
        call(
            "checkpoint a container",
            limit,
            client.checkpoint_container(request),
        )
        .await?;
        Ok(())
    }

    pub async fn sandbox_stats(&self) -> Result<Vec<v1::PodSandboxStats>> {
        let mut client = self.clients.runtime.clone();
        let request = v1::ListPodSandboxStatsRequest::default();
        Ok(
            call("read usage figures", CALL, client.list_pod_sandbox_stats(request))
                .await?
                .stats,
        )
    }

    // === images ===

    pub async fn image_status(&self, image: v1::ImageSpec) -> Result<Option<v1::Image>> {
        let mut client = self.clients.images.clone();
        let request = v1::ImageStatusRequest {
            image: Some(image),
            verbose: false,
        };
        Ok(call("look for an image", CALL, client.image_status(request))
            .await?
            .image)
    }

    /// No time limit: the runtime gives up when no bytes come.
    pub async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String> {
        let mut client = self.clients.images.clone();
        let request = v1::PullImageRequest {
            image: Some(image),
            auth,
            sandbox_config: Some(sandbox),
        };
        let answer = client.pull_image(request).await;
        let answer = answer.map_err(|status| Error::Runtime {
            operation: "pull an image",
            status: Box::new(status),
        })?;
        Ok(answer.into_inner().image_ref)
    }

    pub async fn images(&self) -> Result<Vec<v1::Image>> {
        let mut client = self.clients.images.clone();
        Ok(call(
            "list images",
            CALL,
            client.list_images(v1::ListImagesRequest::default()),
        )
        .await?
        .images)
    }

    pub async fn remove_image(&self, id: &str) -> Result<()> {
        let mut client = self.clients.images.clone();
        let image = Some(v1::ImageSpec {
            image: id.to_owned(),
            ..Default::default()
        });
        missing_is_fine(
            call(
                "remove an image",
                CALL,
                client.remove_image(v1::RemoveImageRequest { image }),
            )
            .await,
        )
    }

    pub async fn image_usage(&self) -> Result<v1::ImageFsInfoResponse> {
        let mut client = self.clients.images.clone();
        call(
            "read the image filesystem's use",
            CALL,
            client.image_fs_info(v1::ImageFsInfoRequest {}),
        )
        .await
    }
}

async fn call<T>(
    operation: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Error::Runtime {
            operation,
            status: Box::new(status),
        }),
        Err(_) => Err(Error::RuntimeSilent { operation }),
    }
}

fn missing_is_fine<T>(result: Result<T>) -> Result<()> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
