//! Pod sandboxes: run, stop, remove.
//!
//! Every step of stopping and removing does no harm when repeated, so a stop that failed half-way, or a
//! runtime that died in one, is finished by the next.

use std::path::Path;
use std::sync::Arc;

use cri::v1::{ContainerEventType, DnsConfig, NamespaceMode, RunPodSandboxRequest};
use linux::Kernel;
use linux::mount::{Mount, Mounts};
use tonic::Status;

use super::Engine;
use super::engine::{blocking, internal, new_id};
use super::rootfs;
use super::state::{Pod, PodRecord, now, write_request};
use crate::shim::client::{self, Shim};
use crate::shim::protocol::{Request, SandboxSpec};

/// Shared memory of a pod, as everywhere.
const SHM: &str = "mode=1777,size=67108864";

impl Engine {
    pub(crate) async fn run_pod(self: &Arc<Self>, request: RunPodSandboxRequest) -> Result<String, Status> {
        let config = request
            .config
            .as_ref()
            .ok_or_else(|| Status::invalid_argument("sandbox config is required"))?;
        let metadata = config
            .metadata
            .as_ref()
            .ok_or_else(|| Status::invalid_argument("sandbox config must include metadata"))?;
        if !request.runtime_handler.is_empty() {
            return Err(Status::not_found(format!(
                "unable to get OCI runtime for sandbox: no runtime for {:?} is configured",
                request.runtime_handler
            )));
        }
        let options = namespace_options(&request);
        if options
            .userns_options
            .as_ref()
            .is_some_and(|user| user.mode() == NamespaceMode::Pod)
        {
            return Err(Status::failed_precondition(
                "user namespaces are not supported by this runtime",
            ));
        }
        let id = new_id();
        let name = format!(
            "{}_{}_{}_{}",
            metadata.name, metadata.namespace, metadata.uid, metadata.attempt
        );
        self.reserve(&name, &id)?;
        let dir = self.pods_dir().join(&id);
        let mut pod = Pod {
            shim: Shim::at(&dir),
            id: id.clone(),
            dir,
            request,
            record: PodRecord::default(),
            turn: Arc::default(),
        };
        let result = self.set_up(&mut pod).await;
        if let Err(status) = result {
            self.tables.lock().reserved.remove(&name);
            self.take_down(&pod).await;
            if let Err(error) = remove_dir(&pod.dir) {
                tracing::warn!(pod = %id, %error, "the failed pod's directory stays");
            }
            return Err(status);
        }
        let mut tables = self.tables.lock();
        tables.reserved.remove(&name);
        tables.pods.insert(id.clone(), pod);
        drop(tables);
        self.announce(&id, &id, ContainerEventType::ContainerCreatedEvent);
        self.announce(&id, &id, ContainerEventType::ContainerStartedEvent);
        Ok(id)
    }

    fn reserve(&self, name: &str, id: &str) -> Result<(), Status> {
        let mut tables = self.tables.lock();
        let taken = tables
            .pods
            .values()
            .find(|pod| pod_name(pod) == name)
            .map(|pod| pod.id.clone());
        if let Some(other) = taken.or_else(|| tables.reserved.get(name).cloned()) {
            return Err(Status::unknown(format!(
                "failed to reserve sandbox name {name:?}: name {name:?} is reserved for {other:?}"
            )));
        }
        tables.reserved.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    async fn set_up(self: &Arc<Self>, pod: &mut Pod) -> Result<(), Status> {
        let failed = |what: &'static str| move |error: std::io::Error| internal(what, &error);
        let dir = pod.dir.clone();
        std::fs::create_dir_all(&dir).map_err(failed("failed to create sandbox directory"))?;
        write_request(&dir, &pod.request).map_err(failed("failed to write sandbox request"))?;
        let options = pod.namespace_options();
        let host_network = pod.is_host_network();
        let hostname = self
            .write_files(pod)
            .map_err(failed("failed to write sandbox files"))?;
        if options.ipc() != NamespaceMode::Node {
            let shm = dir.join("shm");
            std::fs::create_dir_all(&shm).map_err(failed("failed to create sandbox shm"))?;
            Kernel
                .mount(&Mount::tmpfs(&shm, SHM))
                .map_err(|error| internal("failed to mount sandbox shm", &error))?;
        }
        let netns = (!host_network).then(|| cri::network::netns_path(&self.config.root, &pod.id));
        let linux = pod.config().linux.clone().unwrap_or_default();
        let spec = SandboxSpec {
            id: pod.id.clone(),
            netns: netns.clone(),
            own_ipc: options.ipc() != NamespaceMode::Node,
            hostname: (!host_network).then_some(hostname),
            shared_pid: options.pid() == NamespaceMode::Pod,
            sysctls: linux.sysctls.into_iter().collect(),
        };
        pod.record.netns = netns;
        pod.shim = client::spawn(&dir, &spec, &self.config.shim_command)
            .await
            .map_err(|error| internal("failed to start sandbox", &error))?;
        let (state, connection) = pod
            .shim
            .subscribe()
            .await
            .map_err(|error| internal("failed to start sandbox", &error))?;
        pod.record.shim_pid = state.pid;
        pod.record.pause_pid = state.pause_pid;
        if !host_network {
            let status = self
                .network
                .setup(self.network_request(pod))
                .await
                .map_err(|error| {
                    internal(
                        &format!("failed to setup network for sandbox {:?}", pod.id),
                        &error,
                    )
                })?;
            pod.record.ips = status.ips.iter().map(ToString::to_string).collect();
        }
        pod.record.created_at = now();
        pod.record.ready = true;
        pod.save().map_err(failed("failed to write sandbox record"))?;
        self.follow(pod.id.clone(), connection);
        Ok(())
    }

    /// The files containers get from their pod; gives the hostname.
    fn write_files(&self, pod: &Pod) -> std::io::Result<String> {
        let config = pod.config();
        let resolv_conf = match &config.dns_config {
            Some(dns) => resolv_conf(dns),
            // Without one the host's is the only sensible answer; it may have none.
            None => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        };
        std::fs::write(pod.dir.join("resolv.conf"), resolv_conf)?;
        let hostname = match config.hostname.is_empty() {
            false => config.hostname.clone(),
            true => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        std::fs::write(pod.dir.join("hostname"), format!("{hostname}\n"))?;
        Ok(hostname)
    }

    pub(crate) async fn stop_pod(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        // Gone already is stopped.
        let Ok(pod) = self.pod(id) else { return Ok(()) };
        let _turn = pod.turn.clone().lock_owned().await;
        let Ok(pod) = self.pod(&pod.id) else { return Ok(()) };
        for container in self.containers_of(&pod.id) {
            self.stop_container(&container.id, std::time::Duration::ZERO)
                .await?;
        }
        if !pod.is_host_network() && pod.record.netns.is_some() {
            self.network
                .teardown(self.network_request(&pod))
                .await
                .map_err(|error| {
                    internal(
                        &format!("failed to destroy network for sandbox {:?}", pod.id),
                        &error,
                    )
                })?;
        }
        // Before the shim goes, so that its end surprises nobody.
        let was_ready = self.change_pod(&pod.id, |pod| std::mem::replace(&mut pod.record.ready, false));
        self.take_down_local(&pod).await;
        let saved = self.change_pod(&pod.id, |pod| {
            pod.record.netns = None;
            pod.save()
        });
        if let Some(Err(error)) = saved {
            return Err(internal("failed to write sandbox record", &error));
        }
        if was_ready == Some(true) {
            self.announce(&pod.id, &pod.id, ContainerEventType::ContainerStoppedEvent);
        }
        Ok(())
    }

    pub(crate) async fn remove_pod(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let Ok(pod) = self.pod(id) else { return Ok(()) };
        self.stop_pod(&pod.id).await?;
        for container in self.containers_of(&pod.id) {
            self.remove_container(&container.id).await?;
        }
        let dir = pod.dir.clone();
        blocking(move || remove_dir(&dir))
            .await
            .map_err(|error| internal("failed to remove sandbox directory", &error))?;
        self.announce(&pod.id, &pod.id, ContainerEventType::ContainerDeletedEvent);
        self.tables.lock().pods.remove(&pod.id);
        Ok(())
    }

    /// Undoes everything of a pod that came to nothing.
    pub(super) async fn take_down(self: &Arc<Self>, pod: &Pod) {
        if !pod.is_host_network()
            && pod.record.netns.is_some()
            && let Err(error) = self.network.teardown(self.network_request(pod)).await
        {
            tracing::warn!(pod = %pod.id, %error, "the failed pod's network stays");
        }
        self.take_down_local(pod).await;
    }

    /// The part of it that concerns this machine alone.
    pub(super) async fn take_down_local(self: &Arc<Self>, pod: &Pod) {
        // A shim that does not answer is dead, or was never there.
        if let Err(error) = pod.shim.tell(&Request::Shutdown).await {
            tracing::debug!(pod = %pod.id, %error, "no shim to stop");
        }
        let (netns, shm, id) = (pod.record.netns.clone(), pod.dir.join("shm"), pod.id.clone());
        blocking(move || {
            let unmounted = rootfs::unmount(&shm).and_then(|()| match &netns {
                Some(path) => rootfs::unmount(path),
                None => Ok(()),
            });
            if let Err(error) = unmounted {
                tracing::warn!(pod = %id, %error, "a mount of the pod stays");
            }
            if let Some(path) = netns {
                // It may never have been made.
                std::fs::remove_file(path).ok();
            }
        })
        .await;
    }
}

pub(super) fn pod_name(pod: &Pod) -> String {
    let metadata = pod.config().metadata.clone().unwrap_or_default();
    format!(
        "{}_{}_{}_{}",
        metadata.name, metadata.namespace, metadata.uid, metadata.attempt
    )
}

/// Removes a directory of ours, whatever is still mounted under it first.
pub(super) fn remove_dir(dir: &Path) -> std::io::Result<()> {
    rootfs::unmount_all(dir).map_err(std::io::Error::other)?;
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn namespace_options(request: &RunPodSandboxRequest) -> cri::v1::NamespaceOption {
    let linux = request.config.as_ref().and_then(|config| config.linux.as_ref());
    let context = linux.and_then(|linux| linux.security_context.as_ref());
    context
        .and_then(|context| context.namespace_options.clone())
        .unwrap_or_default()
}

fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_the_known_order() {
        let dns = DnsConfig {
            servers: vec!["10.43.0.10".into()],
            searches: vec!["default.svc.cluster.local".into(), "cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search default.svc.cluster.local cluster.local\nnameserver 10.43.0.10\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }
}
