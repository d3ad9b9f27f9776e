//! CRI's runtime service.

use std::sync::Arc;
use std::time::Duration;

use cri::v1::runtime_service_server::RuntimeService;
use cri::v1::*;
use futures::StreamExt;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::{BoxStream, Streaming, in_pieces};
use crate::pods::{Engine, container_item, internal, metric_descriptors, pod_item};

/// The version of the kubelet's own interface that upstream asks for.
const KUBE_RUNTIME_API: &str = "0.1.0";

pub(super) struct RuntimeApi {
    pub(super) engine: Arc<Engine>,
    pub(super) streaming: Streaming,
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(value: T) -> Answer<T> {
    Ok(Response::new(value))
}

impl RuntimeApi {
    fn pods(&self, filter: Option<PodSandboxFilter>) -> Vec<PodSandbox> {
        let mut filter = filter.unwrap_or_default();
        // A short id stands for the only pod it can mean; one that means none finds none.
        if let Ok(pod) = self.engine.pod(&filter.id) {
            filter.id = pod.id;
        }
        self.engine
            .pods()
            .iter()
            .map(pod_item)
            .filter(|pod| filter.matches(pod))
            .collect()
    }

    fn containers(&self, filter: Option<ContainerFilter>) -> Vec<Container> {
        let mut filter = filter.unwrap_or_default();
        if let Ok(container) = self.engine.container(&filter.id) {
            filter.id = container.id;
        }
        if let Ok(pod) = self.engine.pod(&filter.pod_sandbox_id) {
            filter.pod_sandbox_id = pod.id;
        }
        self.engine
            .containers()
            .iter()
            .map(container_item)
            .filter(|container| filter.matches(container))
            .collect()
    }

    async fn container_stats_list(
        &self,
        filter: Option<ContainerStatsFilter>,
    ) -> Result<Vec<ContainerStats>, Status> {
        let filter = filter.unwrap_or_default();
        let mut list = Vec::new();
        for container in self.engine.containers() {
            let labels = &container.config.labels;
            if container.is_running() && filter.matches(&container.id, &container.pod_id, labels) {
                list.push(self.engine.container_stats(&container).await?);
            }
        }
        Ok(list)
    }

    async fn pod_stats_list(
        &self,
        filter: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>, Status> {
        let filter = filter.unwrap_or_default();
        let mut list = Vec::new();
        for pod in self.engine.pods() {
            if pod.record.ready && filter.matches(&pod.id, &pod.config().labels) {
                list.push(self.engine.pod_stats(&pod).await?);
            }
        }
        Ok(list)
    }
}

#[tonic::async_trait]
impl RuntimeService for RuntimeApi {
    type StreamPodSandboxesStream = BoxStream<StreamPodSandboxesResponse>;
    type StreamContainersStream = BoxStream<StreamContainersResponse>;
    type StreamContainerStatsStream = BoxStream<StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = BoxStream<StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = BoxStream<StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = BoxStream<ContainerEventResponse>;

    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        answer(VersionResponse {
            version: KUBE_RUNTIME_API.to_owned(),
            runtime_name: "kijabi".to_owned(),
            runtime_version: self.engine.config.version.clone(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let engine = self.engine.clone();
        let pod_sandbox_id = to_the_end(async move { engine.run_pod(request.into_inner()).await }).await?;
        answer(RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let engine = self.engine.clone();
        to_the_end(async move { engine.stop_pod(&request.into_inner().pod_sandbox_id).await }).await?;
        answer(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let engine = self.engine.clone();
        to_the_end(async move { engine.remove_pod(&request.into_inner().pod_sandbox_id).await }).await?;
        answer(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let request = request.into_inner();
        let pod = self.engine.pod(&request.pod_sandbox_id)?;
        let mut info = std::collections::HashMap::new();
        if request.verbose {
            let pid = serde_json::json!({"pid": pod.record.shim_pid, "runtimeHandler": pod.request.runtime_handler});
            info.insert("info".to_owned(), pid.to_string());
        }
        let containers = self.engine.containers_of(&pod.id);
        answer(PodSandboxStatusResponse {
            status: Some(self.engine.pod_status(&pod)),
            info,
            containers_statuses: containers
                .iter()
                .map(|container| self.engine.container_status(container))
                .collect(),
            timestamp: i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        answer(ListPodSandboxResponse {
            items: self.pods(request.into_inner().filter),
        })
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let pods = self.pods(request.into_inner().filter);
        answer(in_pieces(pods, |pod_sandboxes| StreamPodSandboxesResponse {
            pod_sandboxes,
        }))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let engine = self.engine.clone();
        let container_id =
            to_the_end(async move { engine.create_container(request.into_inner()).await }).await?;
        answer(CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let engine = self.engine.clone();
        to_the_end(async move { engine.start_container(&request.into_inner().container_id).await }).await?;
        answer(StartContainerResponse {})
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        let patience = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        // Not to the end: a kubelet that asks again with less patience must not wait for the first call.
        self.engine
            .stop_container(&request.container_id, patience)
            .await?;
        answer(StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        let engine = self.engine.clone();
        to_the_end(async move { engine.remove_container(&request.into_inner().container_id).await }).await?;
        answer(RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        answer(ListContainersResponse {
            containers: self.containers(request.into_inner().filter),
        })
    }

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let containers = self.containers(request.into_inner().filter);
        answer(in_pieces(containers, |containers| StreamContainersResponse {
            containers,
        }))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.engine.container(&request.container_id)?;
        let mut info = std::collections::HashMap::new();
        if request.verbose {
            let pid = serde_json::json!({"sandboxID": container.pod_id, "pid": container.pid()});
            info.insert("info".to_owned(), pid.to_string());
        }
        answer(ContainerStatusResponse {
            status: Some(self.engine.container_status(&container)),
            info,
        })
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        self.engine
            .update_resources(&request.container_id, request.linux)
            .await?;
        answer(UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        self.engine.reopen_log(&request.into_inner().container_id).await?;
        answer(ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        answer(self.engine.exec_sync(request.into_inner()).await?)
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let request = request.into_inner();
        self.engine.running(&request.container_id)?;
        answer(ExecResponse {
            url: self.streaming.exec(request)?,
        })
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let request = request.into_inner();
        self.engine.running(&request.container_id)?;
        answer(AttachResponse {
            url: self.streaming.attach(request)?,
        })
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        let request = request.into_inner();
        let pod = self.engine.pod(&request.pod_sandbox_id)?;
        if !pod.record.ready {
            return Err(Status::failed_precondition(format!(
                "sandbox container {:?} is not running",
                pod.id
            )));
        }
        answer(PortForwardResponse {
            url: self.streaming.port_forward(request)?,
        })
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Answer<ContainerStatsResponse> {
        let container = self.engine.container(&request.into_inner().container_id)?;
        answer(ContainerStatsResponse {
            stats: Some(self.engine.container_stats(&container).await?),
        })
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        answer(ListContainerStatsResponse {
            stats: self.container_stats_list(request.into_inner().filter).await?,
        })
    }

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let stats = self.container_stats_list(request.into_inner().filter).await?;
        answer(in_pieces(stats, |container_stats| StreamContainerStatsResponse {
            container_stats,
        }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Answer<PodSandboxStatsResponse> {
        let pod = self.engine.pod(&request.into_inner().pod_sandbox_id)?;
        answer(PodSandboxStatsResponse {
            stats: Some(self.engine.pod_stats(&pod).await?),
        })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        answer(ListPodSandboxStatsResponse {
            stats: self.pod_stats_list(request.into_inner().filter).await?,
        })
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let stats = self.pod_stats_list(request.into_inner().filter).await?;
        answer(in_pieces(stats, |pod_sandbox_stats| {
            StreamPodSandboxStatsResponse { pod_sandbox_stats }
        }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let config = request
            .into_inner()
            .runtime_config
            .and_then(|config| config.network_config);
        if let Some(network) = config.filter(|network| !network.pod_cidr.is_empty()) {
            let set = self.engine.network.set_pod_cidr(&network.pod_cidr).await;
            set.map_err(|error| internal("failed to set the pod CIDR", &error))?;
        }
        answer(UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let condition = |kind: &str, problem: Option<(&str, String)>| RuntimeCondition {
            r#type: kind.to_owned(),
            status: problem.is_none(),
            reason: problem
                .as_ref()
                .map_or(String::new(), |(reason, _)| (*reason).to_owned()),
            message: problem.map_or(String::new(), |(_, message)| message),
        };
        let network = self.engine.network.ready().err().map(|why| {
            (
                "NetworkPluginNotReady",
                format!("Network plugin returns error: {why}"),
            )
        });
        let mut info = std::collections::HashMap::new();
        if request.into_inner().verbose {
            let config = serde_json::json!({
                "root": self.engine.config.root,
                "instance": self.engine.config.instance,
                "cgroupDriver": "cgroupfs",
            });
            info.insert("config".to_owned(), config.to_string());
        }
        answer(StatusResponse {
            status: Some(RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", None),
                    condition("NetworkReady", network),
                ],
            }),
            info,
            runtime_handlers: vec![RuntimeHandler {
                name: String::new(),
                features: Some(RuntimeHandlerFeatures {
                    recursive_read_only_mounts: true,
                    user_namespaces: false,
                }),
            }],
            features: Some(RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        })
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        // As every runtime without CRIU answers; the kubelet knows the code.
        Err(Status::unimplemented(
            "checkpointing containers needs CRIU, which this runtime does not use",
        ))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let events = BroadcastStream::new(self.engine.listen()).map(|event| {
            // A listener this far behind must look at everything anew, as after a lost connection.
            event.map_err(|error| Status::resource_exhausted(error.to_string()))
        });
        answer(Box::pin(events))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        answer(ListMetricDescriptorsResponse {
            descriptors: metric_descriptors(),
        })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        answer(ListPodSandboxMetricsResponse {
            pod_metrics: self.engine.metrics().await?,
        })
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let metrics = self.engine.metrics().await?;
        answer(in_pieces(metrics, |pod_sandbox_metrics| {
            StreamPodSandboxMetricsResponse { pod_sandbox_metrics }
        }))
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        answer(RuntimeConfigResponse {
            linux: Some(LinuxRuntimeConfiguration {
                cgroup_driver: CgroupDriver::Cgroupfs as i32,
            }),
        })
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        // The kubelet has set the pod's cgroup itself; this tells runtimes that keep a machine per pod.
        self.engine.pod(&request.into_inner().pod_sandbox_id)?;
        answer(UpdatePodSandboxResourcesResponse {})
    }
}

/// Runs a change of the host to its end even if the caller hangs up in the middle of it.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(Status::internal(format!("the call panicked: {error}"))),
    }
}
