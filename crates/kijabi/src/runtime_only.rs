//! `kijabi runtime`: the container runtime and its pod network alone, for whoever speaks CRI.

use crate::cli::{Runtime as Options, Up};
use crate::instance::Instance;
use crate::node;
use crate::progress::Progress;
use crate::up::interrupted;
use anyhow::{Context, bail};
use cri::network::PodNetwork as _;
use network::{Host, Names};
use runtime::Runtime;
use std::sync::Arc;

/// Serves until a signal asks to stop. Pods live on; `kijabi down` removes them.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("kijabi needs root: it makes namespaces, mounts and control groups. Run it with sudo.");
    }
    let progress = Progress::start();
    let mut up = Up::usual();
    up.data_dir.clone_from(&options.data_dir);
    up.cluster_cidr = options.pod_cidr;
    up.insecure_registry.clone_from(&options.insecure_registry);
    up.registry_config_path.clone_from(&options.registry_config_path);
    let instance = Instance::create(&options.data_dir.data_dir)?;
    let _lock = instance.lock()?;
    let names = Names::new(instance.id())?;
    let host =
        Host::kernel().context("cannot reach the kernel's network; `kijabi check` says what is missing")?;
    let pods = node::open_network(&up, &instance, &names, host)?;
    pods.set_pod_cidr(&options.pod_cidr.to_string())
        .await
        .context("cannot prepare the pod network")?;
    let mut config = node::runtime_config(&up, &instance);
    if let Some(socket) = &options.socket {
        config.socket.clone_from(socket);
    }
    let socket = config.socket.clone();
    let runtime = Runtime::start(config, Arc::new(pods))
        .await
        .context("cannot start the container runtime")?;
    progress.step(format_args!("CRI served on unix://{}", socket.display()));
    interrupted().await?;
    progress.step("stopping; pods live on (`kijabi down` removes them)");
    node::within("the container runtime", runtime.shutdown()).await;
    Ok(())
}
