//! `kijabi down`: stops the pods and takes away everything an instance made on the host.

use crate::cli::{Down, Up};
use crate::instance::Instance;
use crate::node;
use crate::progress::Progress;
use anyhow::{Context, bail};
use linux::cgroup::KernelCgroups;
use network::{Host, Names};
use std::path::Path;
use std::sync::Arc;

/// Takes everything away; with `--purge` the data too. What is not there is no error.
pub(crate) async fn run(options: &Down, progress: &Progress) -> anyhow::Result<()> {
    let data_dir = &options.data_dir.data_dir;
    if !data_dir.exists() {
        progress.step(format_args!("nothing at {}", data_dir.display()));
        return Ok(());
    }
    let instance = Instance::open(data_dir)?;
    let Ok(lock) = instance.lock() else {
        let pid = instance
            .read_running()?
            .map_or_else(|| "?".to_owned(), |running| running.pid.to_string());
        bail!("kijabi still runs here (pid {pid}); stop it first (Ctrl-C, or `systemctl stop kijabi`)");
    };
    let mut up = Up::usual();
    up.data_dir.data_dir.clone_from(data_dir);
    if let Some(running) = instance.read_running()? {
        up.cluster_cidr = running
            .cluster_cidr
            .parse()
            .context("instance.json: clusterCidr")?;
        up.service_cidr = running
            .service_cidr
            .parse()
            .context("instance.json: serviceCidr")?;
    }
    let names = Names::new(instance.id())?;
    let host = Host::kernel().context("cannot reach the kernel's network")?;
    let pods = node::open_network(&up, &instance, &names, host.clone())?;
    runtime::cleanup(node::runtime_config(&up, &instance), Arc::new(pods))
        .await
        .context("cannot remove every pod; run `kijabi down` again")?;
    progress.step("pods removed");
    let taken = network::cleanup(&host, &names, &network::pod::state_dir(&instance.agent()))?;
    progress.step(format_args!(
        "{} links and {} tables removed",
        taken.links.len(),
        taken.tables.len()
    ));
    remove_cgroups(&instance)?;
    unmount_below(instance.root())?;
    let pods_dir = instance.agent().join("pods");
    if pods_dir.exists() {
        std::fs::remove_dir_all(&pods_dir)
            .with_context(|| format!("cannot remove {}", pods_dir.display()))?;
    }
    if options.purge {
        drop(lock);
        match std::fs::remove_dir_all(instance.root()) {
            Ok(()) => progress.step(format_args!("{} removed", instance.root().display())),
            // A file system of its own: its content went, the mount is its owner's.
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                progress.step(format_args!("{} emptied", instance.root().display()));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot remove {}", instance.root().display()));
            }
        }
    }
    Ok(())
}

fn remove_cgroups(instance: &Instance) -> anyhow::Result<()> {
    let Ok(cgroups) = KernelCgroups::detect() else {
        return Ok(());
    };
    let parent = linux::cgroup::CgroupPath::new(&node::cgroup_parent(instance))?;
    linux::cgroup::Cgroups::remove(&cgroups, &parent)
        .with_context(|| format!("cannot remove the control groups below {parent}"))
}

/// Volumes and root file systems whose pod is gone.
fn unmount_below(root: &Path) -> anyhow::Result<()> {
    linux::mount::unmount_below(&linux::Kernel, root)
        .map(drop)
        .with_context(|| format!("cannot unmount what is below {}", root.display()))
}
