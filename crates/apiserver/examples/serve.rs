//! Serves the API on loopback, and writes a kubeconfig for it. The store is in memory, in a directory, or an etcd.
//!
//! `cargo run -p apiserver --example serve -- 127.0.0.1:16443 /tmp/kubeconfig [DIRECTORY | http://ETCD]`

use access::authentication::Authenticator;
use access::authentication::service_account::keys::SigningKey;
use access::authentication::service_account::{Issuer, ServiceAccounts};
use access::authentication::x509::X509;
use access::authorization::rbac::Rbac;
use access::authorization::{Authorizer, Masters, Union};
use apiserver::{Config, Server};
use machinery::clock::{Clock, SystemClock};
use std::net::SocketAddr;
use std::sync::Arc;
use store::Store;
use tokio::net::TcpListener;
use wire::certs::{Authority, Leaf, kubeconfig};
use wire::tls::ServerTls;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:16443".into())
        .parse()?;
    let file = arguments.next().unwrap_or_else(|| "kubeconfig".into());
    let store = open(arguments.next()).await?;

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let now = clock.now();
    let authority = Authority::generate("kubernetes", now)?;
    let serving = authority.issue(
        &Leaf::server(
            "kube-apiserver",
            vec!["localhost".into(), "kubernetes".into()],
            vec![address.ip()],
        ),
        now,
    )?;
    let admin = authority.issue(&Leaf::client("kubernetes-admin", Some("system:masters")), now)?;
    let listener = TcpListener::bind(address).await?;
    let url = format!("https://{}", listener.local_addr()?);
    std::fs::write(
        &file,
        kubeconfig("kijabi", "admin", &url, authority.certificate(), &admin),
    )?;

    let audience = "https://kubernetes.default.svc.cluster.local".to_owned();
    // Any P-256 key will do; this one is new each time.
    let key = SigningKey::from_pem(&authority.issue(&Leaf::default(), now)?.key)?;
    let accounts = Arc::new(ServiceAccounts::new(
        vec![audience.clone()],
        vec![audience.clone()],
        vec![key.public().clone()],
        Arc::clone(&clock),
    ));
    let x509: Arc<dyn Authenticator> = Arc::new(X509::new(authority.certificate(), Arc::clone(&clock))?);
    let authorizers: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Masters), Arc::new(Rbac::default())];
    let server = Server::start(Config {
        authenticators: vec![x509, Arc::clone(&accounts) as Arc<dyn Authenticator>],
        service_accounts: Some(accounts),
        issuer: Some(Arc::new(Issuer::new(audience, key, Arc::clone(&clock)))),
        authorizer: Arc::new(Union::new(authorizers)),
        ..Config::new(store, clock)
    })
    .await?;
    println!("serving {url}; export KUBECONFIG={file}");
    let serving = server.serve(listener, ServerTls::new(&serving)?);
    tokio::select! {
        () = serving => {}
        _ = tokio::signal::ctrl_c() => server.shutdown(),
    }
    Ok(())
}

async fn open(place: Option<String>) -> Result<Arc<dyn Store>, Failure> {
    Ok(match place {
        None => Arc::new(store::Memory::new()),
        Some(url) if url.starts_with("http://") => Arc::new(store::Etcd::connect(&[url])?),
        Some(directory) => {
            std::fs::create_dir_all(&directory)?;
            Arc::new(store::Embedded::open(directory.as_ref(), store::embedded::Options::default()).await?)
        }
    })
}
