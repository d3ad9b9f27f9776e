//! A node in a network namespace of its own, with pods that answer who they are and who called.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cri::network::{PodNetwork, PodNetworkRequest};
use cri::v1::PortMapping;
use linux::Kernel;
use linux::namespace::{Namespace, Namespaces, in_net, in_new_net};
use linux::netlink::{LinkChange, LinkKind, Links, Netlink, Route, VethPeer};
use network::pod::{BridgeNetwork, Options, state_dir};
use network::{Host, Names};

pub(crate) const ID: &str = "0a1b2c";
/// Where the node is reached from outside.
pub(crate) const NODE: &str = "192.0.2.1";
pub(crate) const OUTSIDER: &str = "192.0.2.99";

pub(crate) struct TestNode {
    pub(crate) host: Host,
    pub(crate) network: BridgeNetwork,
    pub(crate) dir: tempfile::TempDir,
    /// A neighbour of the node that is no part of the cluster.
    pub(crate) outside: PathBuf,
    nets: Vec<PathBuf>,
}

pub(crate) struct Pod {
    pub(crate) net: PathBuf,
    pub(crate) ip: IpAddr,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) request: PodNetworkRequest,
}

/// Runs a test on a node, or says why it cannot.
pub(crate) fn on_a_node(test: impl AsyncFnOnce(&mut TestNode) + Send) {
    run_on_a_node("10.42.0.0/24", test);
}

pub(crate) fn on_a_dual_stack_node(test: impl AsyncFnOnce(&mut TestNode) + Send) {
    if !Path::new("/proc/net/if_inet6").exists() {
        println!("skipped: the kernel has no IPv6");
        return;
    }
    run_on_a_node("10.42.0.0/24,fd00:42::/64", test);
}

fn run_on_a_node(ranges: &str, test: impl AsyncFnOnce(&mut TestNode) + Send) {
    if let Err(error) = in_new_net(|| Ok(())) {
        println!("skipped: {}", error.chain());
        return;
    }
    let outcome = in_new_net(|| {
        // A new namespace may take this over from a host that forwards already.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut node = TestNode::new(ranges).await;
            test(&mut node).await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{}", error.chain()));
}

impl TestNode {
    async fn new(ranges: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::kernel().unwrap();
        host.links.change_link("lo", &LinkChange::Up).unwrap();
        let outside = dir.path().join("outside");
        Kernel.create(Namespace::Net, &outside).unwrap();
        let peer = VethPeer {
            name: "up".into(),
            net: Some(outside.clone()),
            mac: None,
            mtu: None,
        };
        host.links.create_link("uplink", &LinkKind::Veth(peer)).unwrap();
        host.links
            .add_address("uplink", format!("{NODE}/24").parse().unwrap())
            .unwrap();
        host.links.change_link("uplink", &LinkChange::Up).unwrap();
        let far = Netlink::open_in(&outside).unwrap();
        far.add_address("up", format!("{OUTSIDER}/24").parse().unwrap())
            .unwrap();
        far.change_link("lo", &LinkChange::Up).unwrap();
        far.change_link("up", &LinkChange::Up).unwrap();
        // Like a router of the site: Service addresses lead to the node.
        for net in ["10.96.0.0/16", "198.51.100.0/24"] {
            let gateway = Some(NODE.parse().unwrap());
            let destination = net.parse().unwrap();
            far.set_route(&Route {
                destination,
                gateway,
                link: None,
                source: None,
                onlink: false,
            })
            .unwrap();
        }
        let network = open_network(&host, dir.path());
        network.set_pod_cidr(ranges).await.unwrap();
        TestNode {
            host,
            network,
            nets: vec![outside.clone()],
            outside,
            dir,
        }
    }

    pub(crate) async fn pod(&mut self, name: &str) -> Pod {
        self.pod_with_ports(name, Vec::new()).await
    }

    pub(crate) async fn pod_with_ports(&mut self, name: &str, port_mappings: Vec<PortMapping>) -> Pod {
        let net = self.dir.path().join(name);
        Kernel.create(Namespace::Net, &net).unwrap();
        self.nets.push(net.clone());
        let request = PodNetworkRequest {
            sandbox_id: name.into(),
            netns_path: net.clone(),
            namespace: "default".into(),
            name: name.into(),
            port_mappings,
            ..PodNetworkRequest::default()
        };
        let status = self.network.setup(request.clone()).await.unwrap();
        Pod {
            net,
            ip: status.ips[0],
            ips: status.ips,
            request,
        }
    }

    /// A pod with a server on port 8080 that says its name and the caller's address.
    pub(crate) async fn server(&mut self, name: &str) -> Pod {
        let pod = self.pod(name).await;
        serve(&pod.net, name);
        pod
    }
}

/// Also after a failed test: the mounts would stay.
impl Drop for TestNode {
    fn drop(&mut self) {
        for net in &self.nets {
            if let Err(error) = Kernel.remove(net) {
                eprintln!("{}", error.chain());
            }
        }
    }
}

pub(crate) fn names() -> Names {
    Names::new(ID).unwrap()
}

pub(crate) fn open_network(host: &Host, dir: &Path) -> BridgeNetwork {
    let options = Options {
        names: names(),
        state: state_dir(dir),
        cluster_cidrs: ["10.42.0.0/16", "fd00:42::/48"]
            .map(|net| net.parse().unwrap())
            .to_vec(),
        service_cidrs: ["10.96.0.0/16", "fd00:96::/108"]
            .map(|net| net.parse().unwrap())
            .to_vec(),
        mtu: None,
    };
    BridgeNetwork::open(host.clone(), options).unwrap()
}

/// TCP and UDP on port 8080 in a namespace; the threads end with the test binary.
pub(crate) fn serve(net: &Path, name: &str) {
    in_net(net, || {
        serve_here("::", name);
        Ok(())
    })
    .unwrap();
}

/// The same on one address of the calling thread's namespace.
pub(crate) fn serve_here(address: &str, name: &str) {
    let address: IpAddr = address.parse().unwrap();
    let listener = TcpListener::bind((address, 8080)).unwrap();
    let tag = name.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            // The caller may be gone already.
            let _ = stream.write_all(format!("{tag} {peer}").as_bytes());
        }
    });
    let socket = UdpSocket::bind((address, 8080)).unwrap();
    let tag = name.to_owned();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{tag} {}", from.ip().to_canonical()).as_bytes(), from);
        }
    });
}

/// Who answers, and what address it saw; `refused`, `timeout` or another word for no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) who: String,
    pub(crate) saw: String,
}

/// Calls from inside a namespace (`None`: the node).
pub(crate) async fn call(from: Option<&Path>, to: &str) -> Answer {
    let to: SocketAddr = to.parse().unwrap();
    let from = from.map(Path::to_owned);
    let words = tokio::task::spawn_blocking(move || match from {
        Some(net) => in_net(&net, || Ok(talk(to))).unwrap(),
        None => talk(to),
    });
    let words = words.await.unwrap();
    let (who, saw) = words.split_once(' ').unwrap_or((&words, ""));
    Answer {
        who: who.to_owned(),
        saw: saw.to_owned(),
    }
}

fn talk(to: SocketAddr) -> String {
    let limit = Duration::from_secs(1);
    let mut text = String::new();
    let outcome = TcpStream::connect_timeout(&to, limit).and_then(|mut stream| {
        stream.set_read_timeout(Some(limit))?;
        stream.read_to_string(&mut text)
    });
    match outcome {
        Ok(_) => text,
        Err(error) => match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "refused".into(),
            std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => "timeout".into(),
            other => format!("{other:?}"),
        },
    }
}

/// One datagram there, and what came back; empty for nothing.
pub(crate) async fn ask_udp(from: Option<&Path>, to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let ask = move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut buffer = [0; 64];
        match socket.send_to(b"?", to).and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => String::from_utf8_lossy(&buffer[..length]).into_owned(),
            Err(_) => String::new(),
        }
    };
    let from = from.map(Path::to_owned);
    let asked = tokio::task::spawn_blocking(move || match from {
        Some(net) => in_net(&net, || Ok(ask())).unwrap(),
        None => ask(),
    });
    asked.await.unwrap()
}
