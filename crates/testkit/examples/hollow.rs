//! A control plane with hollow nodes, in real time, for load tools: the API on loopback over HTTPS, the store on disk.
//!
//! `cargo run --release -p testkit --example hollow -- <data directory> [nodes] [address]`
//!
//! Writes `<data directory>/kubeconfig` and runs until interrupted. `docs/benchmarks.md` says what was measured with it.

use access::authentication::Authenticator;
use access::authentication::x509::X509;
use machinery::clock::{Clock, SystemClock};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use testkit::{Cluster, Options};
use tokio::net::TcpListener;
use wire::certs::{Authority, Leaf, kubeconfig};
use wire::tls::ServerTls;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "hollow <data directory> [nodes] [address]";
    let directory = PathBuf::from(arguments.next().ok_or_else(|| anyhow::anyhow!(usage))?);
    let nodes = arguments.next().map_or(Ok(100), |n| n.parse())?;
    let address: SocketAddr = arguments.next().as_deref().unwrap_or("127.0.0.1:16443").parse()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let now = clock.now();
    let authority = Authority::generate("kubernetes", now)?;
    let names = vec!["localhost".into(), "kubernetes".into()];
    let serving = authority.issue(&Leaf::server("kube-apiserver", names, vec![address.ip()]), now)?;
    let admin = authority.issue(&Leaf::client("kubernetes-admin", Some("system:masters")), now)?;
    let x509: Arc<dyn Authenticator> = Arc::new(X509::new(authority.certificate(), clock)?);
    let cluster = Cluster::start(Options {
        nodes,
        store: Arc::new(
            store::Embedded::open(&directory.join("store"), store::embedded::Options::default()).await?,
        ),
        authenticators: vec![x509],
        ..Options::default()
    })
    .await;
    let listener = TcpListener::bind(address).await?;
    let url = format!("https://{}", listener.local_addr()?);
    let file = directory.join("kubeconfig");
    std::fs::write(
        &file,
        kubeconfig("hollow", "admin", &url, authority.certificate(), &admin),
    )?;
    println!(
        "serving {url} with {nodes} hollow nodes; export KUBECONFIG={}",
        file.display()
    );
    let server = cluster
        .server()
        .ok_or_else(|| anyhow::anyhow!("the server is gone"))?;
    tokio::select! {
        () = server.serve(listener, ServerTls::new(&serving)?) => {}
        ended = tokio::signal::ctrl_c() => ended?,
    }
    Ok(())
}
