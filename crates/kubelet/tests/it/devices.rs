//! Devices of a plugin: a small one, in this process, that registers on the kubelet's socket as plugins do.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use machinery::clock::SystemClock;
use plugins::device as api;
use plugins::device::device_plugin_server::{DevicePlugin, DevicePluginServer};
use plugins::device::registration_client::RegistrationClient;
use plugins::pod_resources::pod_resources_lister_client::PodResourcesListerClient;
use plugins::pod_resources::{AllocatableResourcesRequest, GetPodResourcesRequest, ListPodResourcesRequest};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::{Request, Response, Status};

use crate::World;

const RESOURCE: &str = "example.com/gpu";

type Answer<T> = Result<Response<T>, Status>;

#[derive(Clone)]
struct Gpus {
    /// Ids, and whether they are well.
    devices: watch::Sender<Vec<(&'static str, bool)>>,
    started: Arc<parking_lot::Mutex<Vec<String>>>,
}

impl Gpus {
    async fn start(world: &World) -> Self {
        let gpus = Self {
            devices: watch::Sender::new(vec![("a", true), ("b", true), ("c", false)]),
            started: Arc::default(),
        };
        let dir = world.dir.path().join("kubelet/device-plugins");
        let kubelet = dir.join("kubelet.sock");
        while !kubelet.exists() {
            tokio::task::yield_now().await;
        }
        let listener = UnixListener::bind(dir.join("gpu.sock")).unwrap();
        let served = tonic::transport::Server::builder()
            .add_service(DevicePluginServer::new(gpus.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::spawn(served);
        let channel = plugins::connect(&kubelet.to_string_lossy()).await.unwrap();
        let request = |version: &str| api::RegisterRequest {
            version: version.to_owned(),
            endpoint: "gpu.sock".to_owned(),
            resource_name: RESOURCE.to_owned(),
            options: None,
        };
        let mut client = RegistrationClient::new(channel);
        assert!(client.register(request("v1alpha")).await.is_err());
        client.register(request("v1beta1")).await.unwrap();
        gpus
    }
}

#[tonic::async_trait]
impl DevicePlugin for Gpus {
    async fn get_device_plugin_options(&self, _: Request<api::Empty>) -> Answer<api::DevicePluginOptions> {
        Ok(Response::new(api::DevicePluginOptions {
            pre_start_required: true,
            get_preferred_allocation_available: true,
        }))
    }

    type ListAndWatchStream = Pin<Box<dyn Stream<Item = Result<api::ListAndWatchResponse, Status>> + Send>>;

    async fn list_and_watch(&self, _: Request<api::Empty>) -> Answer<Self::ListAndWatchStream> {
        let lists = WatchStream::new(self.devices.subscribe()).map(|devices| {
            let device = |(id, well): &(&str, bool)| api::Device {
                id: (*id).to_owned(),
                health: if *well { "Healthy" } else { "Unhealthy" }.to_owned(),
                topology: None,
            };
            Ok(api::ListAndWatchResponse {
                devices: devices.iter().map(device).collect(),
            })
        });
        Ok(Response::new(Box::pin(lists)))
    }

    /// The last ones are the best.
    async fn get_preferred_allocation(
        &self,
        request: Request<api::PreferredAllocationRequest>,
    ) -> Answer<api::PreferredAllocationResponse> {
        let asked = request.into_inner().container_requests.remove(0);
        let count = usize::try_from(asked.allocation_size).unwrap();
        let device_i_ds = asked
            .available_device_i_ds
            .into_iter()
            .rev()
            .take(count)
            .collect();
        Ok(Response::new(api::PreferredAllocationResponse {
            container_responses: vec![api::ContainerPreferredAllocationResponse { device_i_ds }],
        }))
    }

    async fn allocate(&self, request: Request<api::AllocateRequest>) -> Answer<api::AllocateResponse> {
        let ids = request.into_inner().container_requests.remove(0).devices_ids;
        Ok(Response::new(api::AllocateResponse {
            container_responses: vec![api::ContainerAllocateResponse {
                envs: [("GPUS".to_owned(), ids.join(","))].into(),
                devices: vec![api::DeviceSpec {
                    container_path: "/dev/gpu".to_owned(),
                    host_path: "/dev/null".to_owned(),
                    permissions: "rw".to_owned(),
                }],
                ..Default::default()
            }],
        }))
    }

    async fn pre_start_container(
        &self,
        request: Request<api::PreStartContainerRequest>,
    ) -> Answer<api::PreStartContainerResponse> {
        self.started
            .lock()
            .push(request.into_inner().devices_ids.join(","));
        Ok(Response::new(api::PreStartContainerResponse {}))
    }
}

fn spec(count: &str) -> Value {
    json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "present", "imagePullPolicy": "IfNotPresent",
           "resources": {"limits": {RESOURCE: count}, "requests": {RESOURCE: count}}}]})
}

async fn counted(world: &World, capacity: &str, allocatable: &str) {
    world
        .api
        .until("/api/v1/nodes/node", "with devices", |node| {
            node["status"]["capacity"][RESOURCE] == capacity
                && node["status"]["allocatable"][RESOURCE] == allocatable
        })
        .await;
}

#[tokio::test]
async fn devices_are_counted_given_and_remembered() {
    let world = World::with_clock(Arc::new(SystemClock));
    let kubelet = world.kubelet().await;
    let gpus = Gpus::start(&world).await;
    counted(&world, "3", "2").await;
    let first = world.pod("first", spec("1"));
    world.phase(&first, "Running").await;
    let made = world.runtime.config_of("a");
    let env: Vec<_> = made
        .envs
        .iter()
        .filter(|e| e.key == "GPUS")
        .map(|e| e.value.clone())
        .collect();
    assert_eq!(env, [b"b".to_vec()], "as the plugin prefers");
    assert_eq!(
        (made.devices.len(), made.devices[0].container_path.as_str()),
        (1, "/dev/gpu")
    );
    assert_eq!(*gpus.started.lock(), ["b"]);

    let socket = world.dir.path().join("kubelet/pod-resources/kubelet.sock");
    let channel = plugins::connect(&socket.to_string_lossy()).await.unwrap();
    let mut holders = PodResourcesListerClient::new(channel);
    let list = holders
        .list(ListPodResourcesRequest {})
        .await
        .unwrap()
        .into_inner();
    let told = &list.pod_resources[0];
    assert_eq!(
        (told.name.as_str(), told.containers[0].name.as_str()),
        ("first", "a")
    );
    let given = &told.containers[0].devices[0];
    assert_eq!(
        (given.resource_name.as_str(), given.device_ids.as_slice()),
        (RESOURCE, &["b".to_owned()][..])
    );
    let all = holders
        .get_allocatable_resources(AllocatableResourcesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(all.devices.len(), 2);
    let missing = GetPodResourcesRequest {
        pod_name: "nobody".to_owned(),
        pod_namespace: "default".to_owned(),
    };
    let refused = holders.get(missing).await.unwrap_err();
    assert_eq!(refused.message(), "pod nobody in namespace default not found");

    // A kubelet that starts anew knows who holds what; plugins register again.
    kubelet.stop().await;
    for socket in ["kubelet.sock", "gpu.sock"] {
        std::fs::remove_file(world.dir.path().join("kubelet/device-plugins").join(socket)).unwrap();
    }
    let kubelet = world.kubelet().await;
    let gpus = Gpus::start(&world).await;
    counted(&world, "3", "2").await;
    let second = world.pod("second", spec("1"));
    world.phase(&second, "Running").await;
    assert_eq!(*gpus.started.lock(), ["a"]);
    let third = world.pod("third", spec("1"));
    let refused = world.phase(&third, "Failed").await;
    assert_eq!(refused["status"]["reason"], "OutOfexample.com/gpu");

    // What one gives back another has.
    world.api.delete(&first);
    world.api.until(&first, "gone", Value::is_null).await;
    let fourth = world.pod("fourth", spec("1"));
    world.phase(&fourth, "Running").await;
    assert_eq!(*gpus.started.lock(), ["a", "b"]);
    gpus.devices.send_replace(vec![("a", true)]);
    counted(&world, "1", "1").await;
    kubelet.stop().await;
}
