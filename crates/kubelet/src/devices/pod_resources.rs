//! The pod-resources API: which devices which container holds, for monitoring and topology agents on the node.
//!
//! Served in `pod-resources/kubelet.sock` to whoever may open it. Follows upstream's `apis/podresources` v1; CPUs and
//! memory are nobody's in particular, so those lists are empty.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use plugins::pod_resources as api;
use plugins::pod_resources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::state::{Holder, State};
use crate::node::context::NodeContext;
use crate::pod::{PodExt, is_sidecar, is_terminal};
use crate::pods::workers::Workers;

const SOCKET: &str = "kubelet.sock";

struct Service {
    node: Arc<NodeContext>,
    workers: Arc<Workers>,
}

/// Listens for ever.
pub async fn serve(node: Arc<NodeContext>, workers: Arc<Workers>) {
    let dir = node.paths.pod_resources();
    let listener = match listen(&dir) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "nobody can ask who holds devices");
            return;
        }
    };
    let served = tonic::transport::Server::builder()
        .add_service(PodResourcesListerServer::new(Service { node, workers }))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await;
    if let Err(error) = served {
        tracing::warn!(%error, "nobody can ask who holds devices any more");
    }
}

/// The directory is its owner's and group's, as upstream's.
fn listen(dir: &Path) -> std::io::Result<UnixListener> {
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o750))?;
    let socket = dir.join(SOCKET);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(socket)
}

#[tonic::async_trait]
impl PodResourcesLister for Service {
    async fn list(
        &self,
        _: Request<api::ListPodResourcesRequest>,
    ) -> Result<Response<api::ListPodResourcesResponse>, Status> {
        let ended = |pod: &Pod| {
            let now = self.node.status.get(pod.uid()).and_then(|status| status.phase);
            is_terminal(pod.phase()) || now.is_some_and(|phase| is_terminal(&phase))
        };
        let pods = self.workers.pods();
        let pods: Vec<&Arc<Pod>> = pods.iter().filter(|pod| !ended(pod)).collect();
        let state = self.node.devices.state.lock();
        Ok(Response::new(api::ListPodResourcesResponse {
            pod_resources: pods.into_iter().map(|pod| of_pod(&state, pod)).collect(),
        }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<api::AllocatableResourcesRequest>,
    ) -> Result<Response<api::AllocatableResourcesResponse>, Status> {
        let state = self.node.devices.state.lock();
        Ok(Response::new(api::AllocatableResourcesResponse {
            devices: allocatable(&state),
            ..api::AllocatableResourcesResponse::default()
        }))
    }

    async fn get(
        &self,
        request: Request<api::GetPodResourcesRequest>,
    ) -> Result<Response<api::GetPodResourcesResponse>, Status> {
        let asked = request.into_inner();
        let pod = self.workers.find(&asked.pod_namespace, &asked.pod_name);
        let pod = pod.ok_or_else(|| {
            Status::unknown(format!(
                "pod {} in namespace {} not found",
                asked.pod_name, asked.pod_namespace
            ))
        })?;
        let state = self.node.devices.state.lock();
        Ok(Response::new(api::GetPodResourcesResponse {
            pod_resources: Some(of_pod(&state, &pod)),
        }))
    }
}

/// Of the containers that stay: init containers that end hold nothing any more.
fn of_pod(state: &State, pod: &Pod) -> api::PodResources {
    let sidecars = pod.init_containers().iter().filter(|c| is_sidecar(c));
    let containers = sidecars.chain(pod.containers()).map(|container| {
        let holder = Holder {
            pod: pod.uid().to_owned(),
            container: container.name.clone(),
        };
        let held = state.held.get(&holder).into_iter().flatten();
        let devices =
            held.flat_map(|(resource, held)| held.devices.iter().map(move |id| device(state, resource, id)));
        api::ContainerResources {
            name: container.name.clone(),
            devices: devices.collect(),
            ..api::ContainerResources::default()
        }
    });
    api::PodResources {
        name: pod.name().to_owned(),
        namespace: pod.namespace().to_owned(),
        containers: containers.collect(),
    }
}

fn allocatable(state: &State) -> Vec<api::ContainerDevices> {
    let all = state.resources.iter();
    all.flat_map(|(resource, devices)| {
        let well = devices.iter().filter(|(_, device)| device.healthy);
        well.map(move |(id, _)| device(state, resource, id))
    })
    .collect()
}

/// One device, with the NUMA nodes its plugin named.
fn device(state: &State, resource: &str, id: &str) -> api::ContainerDevices {
    let known = state.resources.get(resource).and_then(|devices| devices.get(id));
    let nodes = known.map(|device| device.nodes.as_slice()).unwrap_or_default();
    api::ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: vec![id.to_owned()],
        topology: (!nodes.is_empty()).then(|| api::TopologyInfo {
            nodes: nodes.iter().map(|id| api::NumaNode { id: *id }).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::{Device, Held};
    use super::*;
    use serde_json::json;

    #[test]
    fn devices_are_told_by_container() {
        let mut state = State::default();
        let devices = state.resources.entry("example.com/gpu".to_owned()).or_default();
        for (id, healthy, nodes) in [("a", true, vec![1]), ("b", true, vec![]), ("c", false, vec![])] {
            devices.insert(id.to_owned(), Device { healthy, nodes });
        }
        for (container, id) in [("main", "a"), ("side", "b"), ("setup", "c")] {
            let holder = Holder {
                pod: "u".to_owned(),
                container: container.to_owned(),
            };
            let held = Held {
                devices: [id.to_owned()].into(),
                answer: Vec::new(),
            };
            state
                .held
                .entry(holder)
                .or_default()
                .insert("example.com/gpu".to_owned(), held);
        }
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {
                "initContainers": [{"name": "setup"}, {"name": "side", "restartPolicy": "Always"}],
                "containers": [{"name": "main"}, {"name": "idle"}],
            },
        }))
        .unwrap();
        let told = of_pod(&state, &pod);
        let lines: Vec<String> = told
            .containers
            .iter()
            .map(|c| {
                let ids: Vec<&str> = c.devices.iter().map(|d| d.device_ids[0].as_str()).collect();
                format!("{} {}", c.name, ids.join(","))
            })
            .collect();
        assert_eq!(lines, ["side b", "main a", "idle "]);
        assert_eq!(
            told.containers[1].devices[0].topology.as_ref().unwrap().nodes[0].id,
            1
        );
        let ids: Vec<String> = allocatable(&state)
            .into_iter()
            .flat_map(|d| d.device_ids)
            .collect();
        assert_eq!(ids, ["a", "b"]);
    }
}
