//! Volumes of a storage driver: a small one, in this process, that registers by its socket as drivers do.
//!
//! Sockets are real here, so time is too.

use std::sync::Arc;
use std::time::Duration;

use machinery::clock::SystemClock;
use parking_lot::Mutex;
use plugins::csi::node_server::{Node, NodeServer};
use plugins::csi::node_service_capability::{self as capability, Type, rpc};
use plugins::csi::{self, volume_capability::AccessType};
use plugins::registration::registration_server::{Registration, RegistrationServer};
use plugins::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::World;

const NAME: &str = "driver.example";

type Answer<T> = Result<Response<T>, Status>;

/// What was asked of the driver, in order, in short words.
#[derive(Clone)]
struct Driver {
    calls: Arc<Mutex<Vec<String>>>,
    contexts: Arc<Mutex<Vec<Value>>>,
    changed: watch::Sender<u64>,
    /// Whether the kubelet took it.
    taken: watch::Sender<Option<RegistrationStatus>>,
    endpoint: String,
}

impl Driver {
    /// Serves both the driver and its registration on one socket.
    fn start(world: &World) -> (Self, tokio::task::JoinHandle<()>) {
        let dir = world.dir.path().join("kubelet/plugins_registry");
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("driver-reg.sock");
        drop(std::fs::remove_file(&socket));
        let driver = Self {
            calls: Arc::default(),
            contexts: Arc::default(),
            changed: watch::Sender::new(0),
            taken: watch::Sender::new(None),
            endpoint: socket.to_string_lossy().into_owned(),
        };
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let served = tonic::transport::Server::builder()
            .add_service(NodeServer::new(driver.clone()))
            .add_service(RegistrationServer::new(driver.clone()))
            .serve_with_incoming(incoming);
        let task = tokio::spawn(async move { served.await.unwrap() });
        (driver, task)
    }

    fn note(&self, call: String, context: Value) {
        self.calls.lock().push(call);
        self.contexts.lock().push(context);
        self.changed.send_modify(|n| *n += 1);
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().clone()
    }

    async fn until(&self, what: &str, wanted: impl Fn(&[String]) -> bool) {
        let mut changed = self.changed.subscribe();
        let look = async {
            while !wanted(&self.calls()) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), look).await.is_err() {
            panic!("never {what}: {:#?}", self.calls());
        }
    }

    fn context_of(&self, prefix: &str) -> Value {
        let calls = self.calls();
        let at = calls.iter().rposition(|c| c.starts_with(prefix)).unwrap();
        self.contexts.lock()[at].clone()
    }
}

#[tonic::async_trait]
impl Registration for Driver {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: NAME.to_owned(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Answer<RegistrationStatusResponse> {
        self.taken.send_replace(Some(request.into_inner()));
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Answer<csi::NodeStageVolumeResponse> {
        let asked = request.into_inner();
        assert!(std::path::Path::new(&asked.staging_target_path).is_dir());
        let told = json!({"publish": asked.publish_context, "secrets": asked.secrets});
        self.note(format!("stage {}", asked.volume_id), told);
        Ok(Response::new(csi::NodeStageVolumeResponse::default()))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Answer<csi::NodeUnstageVolumeResponse> {
        self.note(format!("unstage {}", request.into_inner().volume_id), Value::Null);
        Ok(Response::new(csi::NodeUnstageVolumeResponse::default()))
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Answer<csi::NodePublishVolumeResponse> {
        let asked = request.into_inner();
        std::fs::create_dir_all(&asked.target_path).unwrap();
        let Some(AccessType::Mount(mount)) = asked.volume_capability.clone().unwrap().access_type else {
            return Err(Status::invalid_argument("a mount is wanted"));
        };
        let told = json!({
            "context": asked.volume_context, "publish": asked.publish_context, "secrets": asked.secrets,
            "group": mount.volume_mount_group, "type": mount.fs_type, "readonly": asked.readonly,
        });
        self.note(format!("publish {}", asked.volume_id), told);
        Ok(Response::new(csi::NodePublishVolumeResponse::default()))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Answer<csi::NodeUnpublishVolumeResponse> {
        let asked = request.into_inner();
        std::fs::remove_dir(&asked.target_path).unwrap();
        self.note(format!("unpublish {}", asked.volume_id), Value::Null);
        Ok(Response::new(csi::NodeUnpublishVolumeResponse::default()))
    }

    async fn node_get_volume_stats(
        &self,
        _: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Answer<csi::NodeGetVolumeStatsResponse> {
        Err(Status::unimplemented("no figures"))
    }

    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Answer<csi::NodeExpandVolumeResponse> {
        let asked = request.into_inner();
        let bytes = asked.capacity_range.unwrap().required_bytes;
        self.note(format!("expand {} to {bytes}", asked.volume_id), Value::Null);
        Ok(Response::new(csi::NodeExpandVolumeResponse {
            capacity_bytes: bytes,
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Answer<csi::NodeGetCapabilitiesResponse> {
        let kinds = [
            rpc::Type::StageUnstageVolume,
            rpc::Type::ExpandVolume,
            rpc::Type::VolumeMountGroup,
        ];
        let capabilities = kinds
            .map(|kind| csi::NodeServiceCapability {
                r#type: Some(Type::Rpc(capability::Rpc { r#type: kind as i32 })),
            })
            .to_vec();
        Ok(Response::new(csi::NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(&self, _: Request<csi::NodeGetInfoRequest>) -> Answer<csi::NodeGetInfoResponse> {
        let segments = [("example/zone".to_owned(), "a".to_owned())].into();
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id: "node-7".to_owned(),
            max_volumes_per_node: 3,
            accessible_topology: Some(csi::Topology { segments }),
        }))
    }
}

fn world() -> World {
    World::with_clock(Arc::new(SystemClock))
}

fn spec(volume: Value) -> Value {
    json!({
        "serviceAccountName": "robot",
        "securityContext": {"fsGroup": 77},
        "volumes": [volume],
        "containers": [{"name": "a", "image": "present", "imagePullPolicy": "IfNotPresent",
                        "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
    })
}

const CSI_NODE: &str = "/apis/storage.k8s.io/v1/csinodes/node";

#[tokio::test]
async fn an_inline_volume_is_published_with_what_the_driver_wants_to_know() {
    let world = world();
    let kubelet = world.kubelet().await;
    world.api.put_at(
        &format!("/apis/storage.k8s.io/v1/csidrivers/{NAME}"),
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": NAME}, "spec": {
            "volumeLifecycleModes": ["Ephemeral"], "podInfoOnMount": true,
            "tokenRequests": [{"audience": "bank"}]}}),
    );
    world.api.put(
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key", "namespace": "default"},
                         "data": {"password": "c2VjcmV0"}}),
    );
    let path = world.pod(
        "inline",
        spec(
            json!({"name": "v", "csi": {"driver": NAME, "fsType": "ext4", "readOnly": true,
            "volumeAttributes": {"size": "1"}, "nodePublishSecretRef": {"name": "key"}}}),
        ),
    );
    world
        .api
        .until_event("driver name driver.example not found in the list of registered CSI drivers")
        .await;
    let (driver, _serving) = Driver::start(&world);
    driver
        .until("published", |calls| {
            calls.iter().any(|c| c.starts_with("publish csi-"))
        })
        .await;
    let taken = driver.taken.borrow().clone().unwrap();
    assert!(taken.plugin_registered, "{}", taken.error);
    let told = driver.context_of("publish");
    let context = |key: &str| {
        told["context"][format!("csi.storage.k8s.io/{key}")]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        (
            context("pod.name"),
            context("ephemeral"),
            context("serviceAccount.name")
        ),
        ("inline".into(), "true".into(), "robot".into())
    );
    assert!(
        context("serviceAccount.tokens").starts_with(r#"{"bank":{"#),
        "{told}"
    );
    assert_eq!(told["context"]["size"], "1");
    assert_eq!(
        (&told["secrets"], &told["group"], &told["type"], &told["readonly"]),
        (
            &json!({"password": "secret"}),
            &json!("77"),
            &json!("ext4"),
            &json!(true)
        )
    );
    world.phase(&path, "Running").await;
    let csi_node = world.api.get(CSI_NODE).unwrap();
    assert_eq!(
        csi_node["spec"]["drivers"],
        json!([{"name": NAME, "nodeID": "node-7", "topologyKeys": ["example/zone"], "allocatable": {"count": 3}}])
    );
    let node = world.api.get("/api/v1/nodes/node").unwrap();
    assert_eq!(node["metadata"]["labels"]["example/zone"], "a");

    world.api.delete(&path);
    world.api.until(&path, "gone", Value::is_null).await;
    assert!(driver.calls().last().unwrap().starts_with("unpublish csi-"));
    assert!(!driver.calls().iter().any(|c| c.starts_with("stage")));

    std::fs::remove_file(&driver.endpoint).unwrap();
    world
        .api
        .until(CSI_NODE, "without drivers", |n| {
            n["spec"]["drivers"].as_array().is_none_or(Vec::is_empty)
        })
        .await;
    kubelet.stop().await;
}

fn persistent(world: &World, capacity: &str, shown: &str) {
    world.api.put(
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {
        "capacity": {"storage": capacity}, "accessModes": ["ReadWriteOnce"],
        "claimRef": {"namespace": "default", "name": "claim", "uid": "claim-uid"},
        "csi": {"driver": NAME, "volumeHandle": "disk-1", "fsType": "ext4"}}}),
    );
    world.api.put(
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "claim", "namespace": "default", "uid": "claim-uid"},
               "spec": {"volumeName": "pv"}, "status": {"phase": "Bound", "capacity": {"storage": shown},
               "conditions": [{"type": "FileSystemResizePending", "status": "True"}]}}),
    );
}

fn attach(world: &World) {
    let name = kubelet::csi::attach::name(&(NAME.to_owned(), "disk-1".to_owned()), "node");
    world.api.put_at(
        &format!("/apis/storage.k8s.io/v1/volumeattachments/{name}"),
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name},
               "spec": {"attacher": NAME, "nodeName": "node", "source": {"persistentVolumeName": "pv"}},
               "status": {"attached": true, "attachmentMetadata": {"lun": "5"}}}),
    );
}

#[tokio::test]
async fn a_persistent_volume_waits_for_its_attachment_and_outlives_a_restart() {
    let world = world();
    let kubelet = world.kubelet().await;
    let (driver, _serving) = Driver::start(&world);
    persistent(&world, "2Gi", "1Gi");
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "claim"}});
    let one = world.pod("one", spec(volume.clone()));
    world
        .api
        .until("/api/v1/nodes/node", "using it", |n| {
            n["status"]["volumesInUse"] == json!(["kubernetes.io/csi/driver.example^disk-1"])
        })
        .await;
    world.api.until_event("failed to get VolumeAttachment").await;
    assert!(driver.calls().is_empty(), "not before it is attached");
    attach(&world);
    world.phase(&one, "Running").await;
    assert_eq!(
        driver.calls(),
        ["stage disk-1", "publish disk-1", "expand disk-1 to 2147483648"]
    );
    assert_eq!(driver.context_of("stage")["publish"], json!({"lun": "5"}));
    let claim = world
        .api
        .get("/api/v1/namespaces/default/persistentvolumeclaims/claim")
        .unwrap();
    assert_eq!(
        (
            &claim["status"]["capacity"]["storage"],
            claim["status"]["conditions"].as_array().unwrap().len()
        ),
        (&json!("2Gi"), 0)
    );
    let two = world.pod("two", spec(volume));
    world.phase(&two, "Running").await;
    assert_eq!(driver.calls()[3..], ["publish disk-1"], "staged once a node");
    world.api.delete(&one);
    world.api.until(&one, "gone", Value::is_null).await;
    assert_eq!(
        driver.calls()[4..],
        ["unpublish disk-1"],
        "the other pod has it still"
    );

    // A kubelet that never saw the volume mounted gives it back.
    kubelet.stop().await;
    world.api.remove(&two);
    let kubelet = world.kubelet().await;
    driver
        .until("given back", |calls| calls.iter().any(|c| c == "unstage disk-1"))
        .await;
    assert_eq!(driver.calls()[5..], ["unpublish disk-1", "unstage disk-1"]);
    world
        .api
        .until("/api/v1/nodes/node", "using nothing", |n| {
            n["status"]["volumesInUse"].is_null()
        })
        .await;
    kubelet.stop().await;
}
