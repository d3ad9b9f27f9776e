//! A container runtime in memory, behind the real CRI server traits.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use cri::v1::image_service_server::{ImageService, ImageServiceServer};
use cri::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use cri::v1::{self, ContainerState, PodSandboxState};
use futures::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use machinery::clock::Clock;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::BroadcastStream;
use tonic::transport::{Endpoint, Server, Uri};
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
pub(crate) struct FakeRuntime {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<v1::ContainerEventResponse>,
    changed: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    count: u64,
    sandboxes: BTreeMap<String, v1::PodSandboxStatus>,
    containers: BTreeMap<String, Container>,
    calls: Vec<String>,
    /// Images that cannot be pulled.
    broken: Vec<String>,
    /// What a command in a container ends with.
    exec: i32,
    stream_url: String,
    /// Containers that do not end by themselves when stopped.
    stubborn: Vec<String>,
}

struct Container {
    sandbox: String,
    /// As it was asked for.
    config: v1::ContainerConfig,
    status: v1::ContainerStatus,
}

impl FakeRuntime {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            state: Arc::default(),
            events: broadcast::channel(10_000).0,
            changed: watch::Sender::new(0),
            clock,
        }
    }

    /// What a container of this name was asked for with.
    pub(crate) fn config_of(&self, name: &str) -> v1::ContainerConfig {
        let state = self.state.lock();
        let named = |c: &&Container| c.config.metadata.as_ref().is_some_and(|m| m.name == name);
        state.containers.values().find(named).unwrap().config.clone()
    }

    /// A connection in memory: on a paused clock no socket may be waited for.
    pub(crate) async fn clients(&self) -> cri::Clients {
        let (client, server) = tokio::io::duplex(1 << 20);
        let this = self.clone();
        tokio::spawn(async move {
            let incoming =
                futures::stream::iter([Ok::<_, std::io::Error>(server)]).chain(futures::stream::pending());
            let router = Server::builder()
                .add_service(RuntimeServiceServer::new(this.clone()))
                .add_service(ImageServiceServer::new(this));
            router.serve_with_incoming(incoming).await.unwrap();
        });
        let mut client = Some(client);
        let connector = tower::service_fn(move |_: Uri| {
            let client = client.take();
            async move {
                client
                    .map(TokioIo::new)
                    .ok_or_else(|| std::io::Error::other("one connection only"))
            }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .unwrap();
        cri::Clients::new(channel)
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|c| c.starts_with(call)).count()
    }

    pub(crate) fn break_image(&self, image: &str) {
        self.state.lock().broken.push(image.to_owned());
    }

    pub(crate) fn mend_images(&self) {
        self.state.lock().broken.clear();
    }

    pub(crate) fn exec_ends_with(&self, code: i32) {
        self.state.lock().exec = code;
    }

    pub(crate) fn stream_at(&self, url: &str) {
        self.state.lock().stream_url = url.to_owned();
    }

    pub(crate) fn running(&self) -> Vec<String> {
        let state = self.state.lock();
        let running = state
            .containers
            .values()
            .filter(|c| c.status.state() == ContainerState::ContainerRunning);
        running
            .map(|c| c.status.metadata.as_ref().unwrap().name.clone())
            .collect()
    }

    /// Anything left at all?
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.sandboxes.is_empty() && state.containers.is_empty()
    }

    /// The newest config mounts of a container of this name.
    pub(crate) fn mount(&self, name: &str, path: &str) -> Option<String> {
        let state = self.state.lock();
        let found = state
            .containers
            .values()
            .rfind(|c| c.status.metadata.as_ref().unwrap().name == name)?;
        found
            .status
            .mounts
            .iter()
            .find(|m| m.container_path == path)
            .map(|m| m.host_path.clone())
    }

    /// The running container of this name ends.
    pub(crate) fn exit(&self, name: &str, code: i32) {
        let id = {
            let state = self.state.lock();
            let found = state.containers.iter().rfind(|(_, c)| {
                c.status.metadata.as_ref().unwrap().name == name
                    && c.status.state() == ContainerState::ContainerRunning
            });
            found.unwrap_or_else(|| panic!("{name} does not run")).0.clone()
        };
        self.end(&id, code);
    }

    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        let look = async {
            while !wanted(self) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(std::time::Duration::from_secs(1200), look)
            .await
            .is_err()
        {
            panic!("the runtime never became {what}: {:#?}", self.calls());
        }
    }

    fn end(&self, id: &str, code: i32) {
        let now = self.now();
        let uid = {
            let mut state = self.state.lock();
            let Some(container) = state.containers.get_mut(id) else {
                return;
            };
            if container.status.state() != ContainerState::ContainerRunning {
                return;
            }
            container.status.set_state(ContainerState::ContainerExited);
            container.status.exit_code = code;
            container.status.finished_at = now;
            container.status.reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
            container.status.labels.get("io.kubernetes.pod.uid").cloned()
        };
        self.tell(uid.unwrap_or_default());
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).unwrap()
    }

    fn call(&self, text: String) {
        self.state.lock().calls.push(text);
        self.changed.send_modify(|n| *n += 1);
    }

    fn tell(&self, uid: String) {
        let metadata = Some(v1::PodSandboxMetadata {
            uid,
            ..Default::default()
        });
        let event = v1::ContainerEventResponse {
            pod_sandbox_status: Some(v1::PodSandboxStatus {
                metadata,
                ..Default::default()
            }),
            ..Default::default()
        };
        drop(self.events.send(event));
        self.changed.send_modify(|n| *n += 1);
    }

    fn next_id(&self, prefix: &str) -> String {
        let mut state = self.state.lock();
        state.count += 1;
        format!("{prefix}{:04}", state.count)
    }
}

fn missing<T>(what: &str) -> Answer<T> {
    Err(Status::not_found(format!("{what} not found")))
}

/// Methods no test needs.
macro_rules! absent {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {
        $(
            fn $name<'a, 'b>(
                &'a self,
                _: Request<$request>,
            ) -> Pin<Box<dyn Future<Output = Answer<$answer>> + Send + 'b>>
            where
                'a: 'b,
                Self: 'b,
            {
                Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
            }
        )*
    };
}

#[tonic::async_trait]
impl RuntimeService for FakeRuntime {
    type StreamPodSandboxesStream = Streamed<v1::StreamPodSandboxesResponse>;
    type StreamContainersStream = Streamed<v1::StreamContainersResponse>;
    type StreamContainerStatsStream = Streamed<v1::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Streamed<v1::StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Streamed<v1::StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Streamed<v1::ContainerEventResponse>;

    absent! {
        stream_pod_sandboxes(v1::StreamPodSandboxesRequest) -> Self::StreamPodSandboxesStream;
        stream_containers(v1::StreamContainersRequest) -> Self::StreamContainersStream;
        stream_container_stats(v1::StreamContainerStatsRequest) -> Self::StreamContainerStatsStream;
        stream_pod_sandbox_stats(v1::StreamPodSandboxStatsRequest) -> Self::StreamPodSandboxStatsStream;
        stream_pod_sandbox_metrics(v1::StreamPodSandboxMetricsRequest) -> Self::StreamPodSandboxMetricsStream;
        update_container_resources(v1::UpdateContainerResourcesRequest) -> v1::UpdateContainerResourcesResponse;
        reopen_container_log(v1::ReopenContainerLogRequest) -> v1::ReopenContainerLogResponse;
        attach(v1::AttachRequest) -> v1::AttachResponse;
        port_forward(v1::PortForwardRequest) -> v1::PortForwardResponse;
        container_stats(v1::ContainerStatsRequest) -> v1::ContainerStatsResponse;
        list_container_stats(v1::ListContainerStatsRequest) -> v1::ListContainerStatsResponse;
        pod_sandbox_stats(v1::PodSandboxStatsRequest) -> v1::PodSandboxStatsResponse;
        list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest) -> v1::ListPodSandboxStatsResponse;
        update_runtime_config(v1::UpdateRuntimeConfigRequest) -> v1::UpdateRuntimeConfigResponse;
        checkpoint_container(v1::CheckpointContainerRequest) -> v1::CheckpointContainerResponse;
        list_metric_descriptors(v1::ListMetricDescriptorsRequest) -> v1::ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest) -> v1::ListPodSandboxMetricsResponse;
        runtime_config(v1::RuntimeConfigRequest) -> v1::RuntimeConfigResponse;
        update_pod_sandbox_resources(v1::UpdatePodSandboxResourcesRequest) -> v1::UpdatePodSandboxResourcesResponse;
    }

    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        Ok(Response::new(v1::VersionResponse {
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            ..Default::default()
        }))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        Ok(Response::new(v1::StatusResponse::default()))
    }

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let stream = BroadcastStream::new(self.events.subscribe()).filter_map(|e| async { e.ok().map(Ok) });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let config = request.into_inner().config.unwrap();
        let metadata = config.metadata.unwrap();
        let id = self.next_id("sandbox");
        self.call(format!("run_sandbox {} #{}", metadata.name, metadata.attempt));
        let uid = metadata.uid.clone();
        let status = v1::PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            created_at: self.now(),
            network: Some(v1::PodSandboxNetworkStatus {
                ip: "10.1.0.5".into(),
                additional_ips: vec![],
            }),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        self.state.lock().sandboxes.insert(id.clone(), status);
        self.tell(uid);
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id: id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.call(format!("stop_sandbox {id}"));
        let running: Vec<String> = {
            let mut state = self.state.lock();
            match state.sandboxes.get_mut(&id) {
                Some(sandbox) => sandbox.set_state(PodSandboxState::SandboxNotready),
                None => return missing("sandbox"),
            }
            state
                .containers
                .iter()
                .filter(|(_, c)| c.sandbox == id)
                .map(|(id, _)| id.clone())
                .collect()
        };
        running.iter().for_each(|id| self.end(id, 137));
        self.changed.send_modify(|n| *n += 1);
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.call(format!("remove_sandbox {id}"));
        let mut state = self.state.lock();
        state.sandboxes.remove(&id);
        state.containers.retain(|_, c| c.sandbox != id);
        drop(state);
        self.changed.send_modify(|n| *n += 1);
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let state = self.state.lock();
        let Some(status) = state.sandboxes.get(&id) else {
            return missing("sandbox");
        };
        let containers = state
            .containers
            .values()
            .filter(|c| c.sandbox == id)
            .map(|c| c.status.clone())
            .collect();
        Ok(Response::new(v1::PodSandboxStatusResponse {
            status: Some(status.clone()),
            containers_statuses: containers,
            timestamp: 1,
            ..Default::default()
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let state = self.state.lock();
        let all = state.sandboxes.values().map(|s| v1::PodSandbox {
            id: s.id.clone(),
            metadata: s.metadata.clone(),
            state: s.state,
            created_at: s.created_at,
            labels: s.labels.clone(),
            ..Default::default()
        });
        Ok(Response::new(v1::ListPodSandboxResponse {
            items: all.filter(|s| filter.matches(s)).collect(),
        }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap();
        let asked = config.clone();
        let metadata = config.metadata.unwrap();
        let id = self.next_id("container");
        self.call(format!("create {} #{}", metadata.name, metadata.attempt));
        let directory = request.sandbox_config.unwrap().log_directory;
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: Some(metadata),
            created_at: self.now(),
            image_ref: config.image.as_ref().unwrap().image.clone(),
            image: config.image,
            labels: config.labels,
            annotations: config.annotations,
            mounts: config.mounts,
            log_path: format!("{directory}/{}", config.log_path),
            ..Default::default()
        };
        self.state.lock().containers.insert(
            id.clone(),
            Container {
                sandbox: request.pod_sandbox_id,
                config: asked,
                status,
            },
        );
        Ok(Response::new(v1::CreateContainerResponse { container_id: id }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let id = request.into_inner().container_id;
        let now = self.now();
        let uid = {
            let mut state = self.state.lock();
            let Some(container) = state.containers.get_mut(&id) else {
                return missing("container");
            };
            container.status.set_state(ContainerState::ContainerRunning);
            container.status.started_at = now;
            std::fs::write(
                &container.status.log_path,
                "2026-01-01T00:00:00Z stdout F hello\n",
            )
            .unwrap();
            container.status.labels["io.kubernetes.pod.uid"].clone()
        };
        self.tell(uid);
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let v1::StopContainerRequest {
            container_id,
            timeout,
        } = request.into_inner();
        let name = {
            let state = self.state.lock();
            let Some(container) = state.containers.get(&container_id) else {
                return missing("container");
            };
            container.status.metadata.as_ref().unwrap().name.clone()
        };
        self.call(format!("stop {name} in {timeout}"));
        let stubborn = self.state.lock().stubborn.contains(&name);
        if stubborn {
            tokio::time::sleep(std::time::Duration::from_secs(timeout.unsigned_abs())).await;
        }
        self.end(&container_id, if stubborn { 137 } else { 0 });
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.call(format!("remove {id}"));
        self.state.lock().containers.remove(&id);
        self.changed.send_modify(|n| *n += 1);
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let state = self.state.lock();
        let all = state.containers.values().map(|c| v1::Container {
            id: c.status.id.clone(),
            pod_sandbox_id: c.sandbox.clone(),
            metadata: c.status.metadata.clone(),
            state: c.status.state,
            labels: c.status.labels.clone(),
            ..Default::default()
        });
        Ok(Response::new(v1::ListContainersResponse {
            containers: all.filter(|c| filter.matches(c)).collect(),
        }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        match self.state.lock().containers.get(&id) {
            Some(found) => Ok(Response::new(v1::ContainerStatusResponse {
                status: Some(found.status.clone()),
                ..Default::default()
            })),
            None => missing("container"),
        }
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        let r = request.into_inner();
        self.call(format!(
            "exec_stream {:?} tty={} stdin={} stderr={}",
            r.cmd, r.tty, r.stdin, r.stderr
        ));
        let url = self.state.lock().stream_url.clone();
        Ok(Response::new(v1::ExecResponse { url }))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        self.call(format!("exec {}", request.into_inner().cmd.join(" ")));
        let exit_code = self.state.lock().exec;
        Ok(Response::new(v1::ExecSyncResponse {
            exit_code,
            stdout: "output".into(),
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl ImageService for FakeRuntime {
    type StreamImagesStream = Streamed<v1::StreamImagesResponse>;

    absent! {
        stream_images(v1::StreamImagesRequest) -> Self::StreamImagesStream;
        remove_image(v1::RemoveImageRequest) -> v1::RemoveImageResponse;
        image_fs_info(v1::ImageFsInfoRequest) -> v1::ImageFsInfoResponse;
    }

    async fn list_images(&self, _: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        Ok(Response::new(v1::ListImagesResponse::default()))
    }

    /// Images named `present…`, and whatever was pulled (its id), are there.
    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        let name = request.into_inner().image.unwrap().image;
        let there = name.contains("present") || name.starts_with("sha256:");
        let image = there.then(|| v1::Image {
            id: format!("sha256:{name}"),
            size: 42,
            ..Default::default()
        });
        Ok(Response::new(v1::ImageStatusResponse {
            image,
            ..Default::default()
        }))
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        let name = request.into_inner().image.unwrap().image;
        self.call(format!("pull {name}"));
        if self.state.lock().broken.iter().any(|b| name.contains(b)) {
            return Err(Status::not_found(format!("{name}: not found")));
        }
        Ok(Response::new(v1::PullImageResponse {
            image_ref: format!("sha256:{name}"),
        }))
    }
}

impl FakeRuntime {
    /// A container of this name ends only when killed.
    pub(crate) fn make_stubborn(&self, name: &str) {
        self.state.lock().stubborn.push(name.to_owned());
    }
}
