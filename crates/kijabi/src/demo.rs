//! `kijabi demo`: a throw-away cluster with a sample application, from nothing to answering, and nothing left behind.

use crate::cli::{DataDir, Demo, Down, Up};
use crate::progress::Progress;
use crate::{demo_app, image, teardown, up};
use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams, PostParams};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAMESPACE: &str = "demo";
const IMAGE: &str = "kijabi.invalid/demo:built-in";
const MANIFEST: &str = include_str!("demo.yaml");
const REPLICAS: i32 = 3;
/// How long the sample may take before something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn run(demo: Demo) -> anyhow::Result<()> {
    let progress = Progress::start();
    let directory = match demo.data_dir {
        Some(directory) => directory,
        None => std::env::temp_dir().join(format!("kijabi-demo-{}", std::process::id())),
    };
    let options = Up {
        data_dir: DataDir {
            data_dir: directory.clone(),
        },
        https_listen_port: free_port(demo.https_listen_port)?,
        kubelet_port: free_port(10250)?,
        bind_address: IpAddr::from([127, 0, 0, 1]),
        ..Up::usual()
    };
    progress.step(format_args!("a throw-away cluster in {}", directory.display()));
    let outcome = session(&options, progress, demo.exit).await;
    progress.step("stopping the pods and taking everything away");
    let down = Down {
        data_dir: DataDir { data_dir: directory },
        purge: true,
    };
    let cleaned = teardown::run(&down, &progress).await;
    outcome.and(cleaned)
}

/// Everything between an empty directory and the end of the demo.
async fn session(options: &Up, progress: Progress, exit: bool) -> anyhow::Result<()> {
    let cluster = up::start(options, progress).await?;
    let outcome = tokio::select! {
        outcome = sample(options, &cluster, progress, exit) => outcome,
        signal = up::interrupted() => signal,
    };
    cluster.stop().await;
    outcome
}

async fn sample(options: &Up, cluster: &up::Cluster, progress: Progress, exit: bool) -> anyhow::Result<()> {
    let archive = Archive::build(&options.data_dir.data_dir)?;
    let mut clients = image::connect(&options.data_dir.data_dir).await?;
    image::import(
        &mut clients,
        image::Source::Path(archive.path.clone()),
        String::new(),
        |_| {},
    )
    .await?;
    drop(archive);
    progress.step("the sample's image, made of this executable, is imported");

    let client = cluster.client();
    apply(&client).await?;
    progress.step("the sample is applied: a Deployment of three, a Service, a ConfigMap, a Secret");
    let ready = ready_pods(&client, progress);
    tokio::time::timeout(PATIENCE, ready)
        .await
        .with_context(|| format!("the sample was not ready after {} s", PATIENCE.as_secs()))??;

    let service: Service = Api::namespaced(client.clone(), NAMESPACE).get("hello").await?;
    let address: IpAddr = service
        .spec
        .and_then(|spec| spec.cluster_ip)
        .context("the Service has no address")?
        .parse()
        .context("the Service's address")?;
    let answer = patient(|| demo_app::fetch(SocketAddr::new(address, 80), "/")).await?;
    progress.step(format_args!(
        "the Service answers at http://{address}/: {}",
        answer.trim()
    ));
    let name = format!("hello.{NAMESPACE}.svc.{}", options.cluster_domain);
    let path = format!("/peer?{name}");
    let answer = patient(|| demo_app::fetch(SocketAddr::new(address, 80), &path)).await?;
    progress.step(format_args!("a pod asked by name: {}", answer.trim()));
    let dns = SocketAddr::new(cluster.dns(), 53);
    let found = patient(|| demo_app::resolve(dns, &name)).await?;
    progress.step(format_args!(
        "cluster DNS at {dns} tells the host the same: {name} is {found}"
    ));

    show(&client).await?;
    println!("\nexport KUBECONFIG={}\n", cluster.kubeconfig().display());
    if exit {
        return Ok(());
    }
    progress.step("running until Ctrl-C");
    std::future::pending().await
}

/// Applies the manifest as a client of the API would: each document to its kind's path.
async fn apply(client: &kube::Client) -> anyhow::Result<()> {
    use serde::Deserialize as _;
    for document in serde_yaml_ng::Deserializer::from_str(MANIFEST) {
        let object = kube::api::DynamicObject::deserialize(document)?;
        let types = object
            .types
            .clone()
            .context("a document of the sample has no kind")?;
        let (group, version) = types
            .api_version
            .split_once('/')
            .unwrap_or(("", &types.api_version));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, &types.kind);
        let resource = kube::api::ApiResource::from_gvk(&gvk);
        let api: Api<kube::api::DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        api.create(&PostParams::default(), &object)
            .await
            .with_context(|| {
                format!(
                    "creating {} {}",
                    types.kind,
                    object.metadata.name.unwrap_or_default()
                )
            })?;
    }
    Ok(())
}

/// Waits until every pod is ready, telling of each.
async fn ready_pods(client: &kube::Client, progress: Progress) -> anyhow::Result<()> {
    use futures::TryStreamExt as _;
    use kube::runtime::{WatchStreamExt as _, watcher};
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let mut changes = Box::pin(watcher(api, watcher::Config::default()).applied_objects());
    let mut told = 0;
    while let Some(deployment) = changes.try_next().await? {
        let ready = deployment
            .status
            .and_then(|status| status.ready_replicas)
            .unwrap_or(0);
        if ready > told {
            progress.step(format_args!("{ready} of {REPLICAS} pods ready"));
            told = ready;
        }
        if ready >= REPLICAS {
            return Ok(());
        }
    }
    bail!("the watch of the sample's Deployment ended")
}

/// Tries until it works: rules and records follow the objects within moments.
async fn patient<T, F>(mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let mut wait = Duration::from_millis(5);
    loop {
        match attempt().await {
            Err(error) if wait > Duration::from_secs(4) => return Err(error),
            Err(_) => tokio::time::sleep(wait).await,
            done => return done,
        }
        wait *= 2;
    }
}

/// What runs, as a person would ask.
async fn show(client: &kube::Client) -> anyhow::Result<()> {
    let pods = Api::<Pod>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    println!(
        "\n{:<12} {:<32} {:<8} {:<16} NODE",
        "NAMESPACE", "POD", "PHASE", "IP"
    );
    for pod in pods {
        let status = pod.status.unwrap_or_default();
        println!(
            "{:<12} {:<32} {:<8} {:<16} {}",
            pod.metadata.namespace.unwrap_or_default(),
            pod.metadata.name.unwrap_or_default(),
            status.phase.unwrap_or_default(),
            status.pod_ip.unwrap_or_default(),
            pod.spec.and_then(|spec| spec.node_name).unwrap_or_default(),
        );
    }
    Ok(())
}

/// The first port from `wanted` on that nobody listens on.
fn free_port(wanted: u16) -> anyhow::Result<u16> {
    (wanted..wanted.saturating_add(100))
        .find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok())
        .with_context(|| format!("no free port from {wanted} on"))
}

/// An image that holds nothing but this executable; removed when dropped.
struct Archive {
    path: PathBuf,
}

impl Archive {
    fn build(directory: &Path) -> anyhow::Result<Self> {
        use sha2::{Digest as _, Sha256};
        let executable = std::fs::read("/proc/self/exe").context("cannot read this executable")?;
        let mut layer = tar::Builder::new(Vec::with_capacity(executable.len() + 4096));
        append(&mut layer, "kijabi", 0o755, &executable)?;
        drop(executable);
        let layer = layer.into_inner()?;
        let config = serde_json::to_vec(&serde_json::json!({
            "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
            "os": "linux",
            "config": {"Entrypoint": ["/kijabi", "demo-app"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(Sha256::digest(&layer)))]},
        }))?;
        let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
        let manifest = serde_json::to_vec(&serde_json::json!([
            {"Config": config_name, "RepoTags": [IMAGE], "Layers": ["layer.tar"]},
        ]))?;
        let this = Self {
            path: directory.join("demo-image.tar"),
        };
        let file = std::fs::File::create(&this.path)
            .with_context(|| format!("cannot write {}", this.path.display()))?;
        let mut archive = tar::Builder::new(file);
        append(&mut archive, "layer.tar", 0o644, &layer)?;
        append(&mut archive, &config_name, 0o644, &config)?;
        append(&mut archive, "manifest.json", 0o644, &manifest)?;
        archive.finish().context("cannot write the sample's image")?;
        Ok(this)
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // The directory goes with the demo, should this fail.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn append<W: std::io::Write>(
    to: &mut tar::Builder<W>,
    name: &str,
    mode: u32,
    content: &[u8],
) -> anyhow::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    to.append_data(&mut header, name, content)
        .context("cannot write the sample's image")
}
