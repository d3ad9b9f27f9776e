//! What survives: the runtime is another process here, and is killed.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;

use cri::network::LoopbackOnly;
use cri::v1::*;
use runtime::Runtime;

use crate::Test;
use crate::place::{Place, Pod, config, import};

pub(crate) const TESTS: &[Test] = &[
    (
        "containers_outlive_a_killed_runtime",
        containers_outlive_a_killed_runtime,
    ),
    ("a_killed_shim_ends_its_pod", a_killed_shim_ends_its_pod),
    (
        "a_deleted_directory_ends_its_pod",
        a_deleted_directory_ends_its_pod,
    ),
];

/// `<binary> serve <root>`: a runtime that says when it is ready, and stays.
pub(crate) fn serve(root: OsString) -> ExitCode {
    let tokio = tokio::runtime::Runtime::new().unwrap();
    tokio.block_on(async {
        let _runtime = Runtime::start(config(Path::new(&root)), Arc::new(LoopbackOnly))
            .await
            .unwrap();
        println!("ready");
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

struct Server(Child);

impl Server {
    fn start(place: &Place) -> Server {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("serve")
            .arg(place.root())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Server(child)
    }
}

impl Drop for Server {
    /// SIGKILL, as the tests want it anyway.
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

fn containers_outlive_a_killed_runtime() {
    let place = Place::new();
    let server = Server::start(&place);
    let (pod_id, stays, leaves) = block_on(async {
        let clients = cri::connect(place.socket()).await.unwrap();
        import(&place, &clients).await;
        let pod = Pod::run(&place, &clients, |_| ()).await;
        let stays = pod
            .launch("stays", "while :; do echo tick; sleep 0.05; done", |_| ())
            .await;
        let leaves = pod
            .launch(
                "leaves",
                "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 9",
                |_| (),
            )
            .await;
        // Ends while nobody is there to see it.
        let request = ExecSyncRequest {
            container_id: leaves.clone(),
            cmd: vec![
                "sh".into(),
                "-c".into(),
                "(sleep 0.5; touch /tmp/go) > /dev/null 2>&1 &".into(),
            ],
            timeout: 5,
        };
        clients.runtime.clone().exec_sync(request).await.unwrap();
        (pod.id, stays, leaves)
    });
    drop(server);
    let log = place.logs().join("stays.log");
    let before = std::fs::metadata(&log).unwrap().len();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(
        std::fs::metadata(&log).unwrap().len() > before,
        "the log must go on without the runtime"
    );

    let _server = Server::start(&place);
    block_on(async {
        let clients = cri::connect(place.socket()).await.unwrap();
        let status = async |id: &str| {
            let request = ContainerStatusRequest {
                container_id: id.to_owned(),
                verbose: false,
            };
            clients
                .runtime
                .clone()
                .container_status(request)
                .await
                .unwrap()
                .into_inner()
                .status
                .unwrap()
        };
        assert_eq!(
            status(&stays).await.state,
            ContainerState::ContainerRunning as i32
        );
        let left = status(&leaves).await;
        assert_eq!(
            (left.state, left.exit_code),
            (ContainerState::ContainerExited as i32, 9)
        );
        let request = ExecSyncRequest {
            container_id: stays.clone(),
            cmd: vec!["echo".into(), "hi".into()],
            timeout: 5,
        };
        let answer = clients
            .runtime
            .clone()
            .exec_sync(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(&answer.stdout[..], b"hi\n");
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: pod_id,
        };
        clients.runtime.clone().remove_pod_sandbox(request).await.unwrap();
    });
}

fn a_killed_shim_ends_its_pod() {
    let place = Place::new();
    let _server = Server::start(&place);
    block_on(async {
        let clients = cri::connect(place.socket()).await.unwrap();
        import(&place, &clients).await;
        let pod = Pod::run(&place, &clients, |_| ()).await;
        let id = pod.launch("one", "exec sleep 1000", |_| ()).await;
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: pod.id.clone(),
            verbose: true,
        };
        let info = clients
            .runtime
            .clone()
            .pod_sandbox_status(request)
            .await
            .unwrap()
            .into_inner()
            .info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        let mut events = clients
            .runtime
            .clone()
            .get_container_events(GetEventsRequest {})
            .await
            .unwrap()
            .into_inner();
        let shim = rustix::process::Pid::from_raw(info["pid"].as_i64().unwrap() as i32).unwrap();
        rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
        while pod.status(&id).await.state != ContainerState::ContainerExited as i32 {
            events.message().await.unwrap().unwrap();
        }
        pod.remove().await;
    });
}

fn a_deleted_directory_ends_its_pod() {
    let place = Place::new();
    let server = Server::start(&place);
    let shim = block_on(async {
        let clients = cri::connect(place.socket()).await.unwrap();
        import(&place, &clients).await;
        let pod = Pod::run(&place, &clients, |_| ()).await;
        pod.launch("one", "exec sleep 1000", |_| ()).await;
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: pod.id.clone(),
            verbose: true,
        };
        let info = clients
            .runtime
            .clone()
            .pod_sandbox_status(request)
            .await
            .unwrap()
            .into_inner()
            .info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        info["pid"].as_u64().unwrap() as u32
    });
    let shim = linux::process::PidFd::open(shim).unwrap().unwrap();
    drop(server);
    // As an impatient person would, with the runtime gone.
    linux::mount::unmount_under(&linux::Kernel, &place.root()).unwrap();
    std::fs::remove_dir_all(place.root().join("pods")).unwrap();
    assert!(shim.wait(std::time::Duration::from_secs(10)).unwrap());
}
