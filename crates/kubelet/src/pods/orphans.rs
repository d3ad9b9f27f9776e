//! Taking away what nobody needs: dead containers beyond one of each name, sandboxes without containers, and
//! everything of pods that do not exist any more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use cri::v1;
use k8s_openapi::api::core::v1::Pod;

use crate::csi::release;
use crate::error::{Error, Result};
use crate::node::context::NodeContext;
use crate::pod::PodExt;
use crate::runtime::client::Inventory;
use crate::runtime::labels;
use crate::runtime::status::{ContainerStatus, PodStatus, State};
use crate::volumes::manager as volumes;

/// What an orphan's containers are given to end.
const GRACE: i64 = 1;

/// Removes a pod's dead containers but the newest dead one of each name, and its dead sandboxes that hold none.
/// What fails is tried again at the next look.
pub async fn collect_dead(node: &NodeContext, pod: &Pod, status: &PodStatus) {
    let (containers, sandboxes) = dead(status);
    for found in containers {
        if let Err(error) = remove_container(node, &found.id, &found.log_path).await {
            tracing::warn!(
                pod = pod.describe(),
                container = found.name,
                error = error.full(),
                "cannot remove a dead container"
            );
        }
    }
    for id in sandboxes {
        if let Err(error) = node.runtime.remove_sandbox(&id).await {
            tracing::warn!(
                pod = pod.describe(),
                sandbox = id,
                error = error.full(),
                "cannot remove a dead sandbox"
            );
        }
    }
}

fn dead(status: &PodStatus) -> (Vec<&ContainerStatus>, Vec<String>) {
    let mut kept: HashSet<&str> = HashSet::new();
    let containers: Vec<&ContainerStatus> = status
        .containers
        .iter()
        .filter(|c| c.state == State::Exited)
        .filter(|c| !kept.insert(c.name.as_str()))
        .collect();
    let goes = |c: &ContainerStatus| containers.iter().any(|d| d.id == c.id);
    let sandboxes = status
        .sandboxes
        .iter()
        .skip(1)
        .filter(|s| s.state() != v1::PodSandboxState::SandboxReady)
        .filter(|s| !status.containers.iter().any(|c| c.sandbox_id == s.id && !goes(c)))
        .map(|s| s.id.clone())
        .collect();
    (containers, sandboxes)
}

/// Removes a container and its logs.
pub async fn remove_container(node: &NodeContext, id: &str, log_path: &str) -> Result<()> {
    node.runtime.remove_container(id).await?;
    let path = Path::new(log_path);
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(());
    };
    // Only what lies where this kubelet puts logs.
    if !path.starts_with(node.paths.logs()) {
        return Ok(());
    }
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries.filter_map(|e| e.ok()) {
        let file = entry.file_name().to_string_lossy().into_owned();
        if file == name || file.starts_with(&format!("{name}.")) {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes everything of a pod: containers, sandboxes, volumes, groups, logs. Safe to repeat.
pub async fn remove(
    node: &std::sync::Arc<NodeContext>,
    uid: &str,
    name: &str,
    namespace: &str,
) -> Result<()> {
    let status = node.runtime.pod_status(uid, name, namespace).await?;
    let pod = pod_like(uid, name, namespace);
    super::kill::pod(node, &pod, &status, Some(GRACE)).await?;
    for found in &status.containers {
        node.runtime.remove_container(&found.id).await?;
    }
    for sandbox in &status.sandboxes {
        node.runtime.remove_sandbox(&sandbox.id).await?;
    }
    volumes::take_down(node, uid).await?;
    let (shared, id) = (node.clone(), uid.to_owned());
    let logs = logs_of(node, uid);
    blocking(move || {
        if let Some(groups) = &shared.cgroups {
            groups.remove(&id)?;
        }
        logs.iter().try_for_each(|dir| remove_dir(dir))
    })
    .await
}

/// Finds pods that only the machine knows, and removes them.
pub async fn sweep(node: &std::sync::Arc<NodeContext>, known: &HashSet<String>) -> Result<()> {
    let inventory = node.runtime.inventory().await?;
    let mut found: HashMap<String, (String, String)> = pods_of(&inventory);
    let on_disk = volumes::pods_on_disk(node);
    let in_groups = node.cgroups.as_ref().map(|g| g.pods()).unwrap_or_default();
    for uid in on_disk.into_iter().chain(in_groups).chain(logged(node)) {
        found.entry(uid).or_default();
    }
    for (uid, (name, namespace)) in found {
        if known.contains(&uid) {
            continue;
        }
        tracing::info!(
            uid,
            name,
            namespace,
            "removing what is left of a pod that does not exist any more"
        );
        if let Err(error) = remove(node, &uid, &name, &namespace).await {
            tracing::warn!(uid, error = error.full(), "cannot remove what is left of a pod");
        }
    }
    release::sweep(node).await;
    Ok(())
}

fn pods_of(inventory: &Inventory) -> HashMap<String, (String, String)> {
    let identity = |labels: &HashMap<String, String>| {
        let get = |key: &str| labels.get(key).cloned().unwrap_or_else(String::new);
        (
            get(labels::POD_UID),
            (get(labels::POD_NAME), get(labels::POD_NAMESPACE)),
        )
    };
    let sandboxes = inventory.sandboxes.iter().map(|s| identity(&s.labels));
    let containers = inventory.containers.iter().map(|c| identity(&c.labels));
    sandboxes
        .chain(containers)
        .filter(|(uid, _)| !uid.is_empty())
        .collect()
}

/// `<namespace>_<name>_<uid>`.
fn log_dirs(node: &NodeContext) -> BTreeMap<String, PathBuf> {
    let Ok(entries) = std::fs::read_dir(node.paths.logs()) else {
        return BTreeMap::new();
    };
    entries
        .filter_map(|e| e.ok())
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            Some((name.rsplit_once('_')?.1.to_owned(), e.path()))
        })
        .collect()
}

fn logged(node: &NodeContext) -> Vec<String> {
    log_dirs(node).into_keys().collect()
}

fn logs_of(node: &NodeContext, uid: &str) -> Option<PathBuf> {
    log_dirs(node).remove(uid)
}

/// Enough of a pod to end it by.
fn pod_like(uid: &str, name: &str, namespace: &str) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.uid = Some(uid.to_owned());
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some(namespace.to_owned());
    pod
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Runs what blocks beside the others.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Pod(format!("a task of the kubelet broke off: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::status::container_status;

    #[test]
    fn one_dead_container_of_each_name_stays() {
        let container = |id: &str, name: &str, sandbox: &str, state: v1::ContainerState, created: i64| {
            let metadata = Some(v1::ContainerMetadata {
                name: name.into(),
                attempt: 0,
            });
            container_status(
                v1::ContainerStatus {
                    id: id.into(),
                    metadata,
                    state: state as i32,
                    created_at: created,
                    ..Default::default()
                },
                sandbox,
            )
        };
        let exited = v1::ContainerState::ContainerExited;
        let sandbox = |id: &str, state: v1::PodSandboxState, created| v1::PodSandboxStatus {
            id: id.into(),
            state: state as i32,
            created_at: created,
            ..Default::default()
        };
        let status = PodStatus::new("u", "p", "n").assemble(
            vec![
                sandbox("s1", v1::PodSandboxState::SandboxNotready, 1),
                sandbox("s2", v1::PodSandboxState::SandboxNotready, 2),
                sandbox("s3", v1::PodSandboxState::SandboxReady, 3),
            ],
            vec![
                container("a1", "a", "s1", exited, 1),
                container("a2", "a", "s2", exited, 2),
                container("a3", "a", "s3", v1::ContainerState::ContainerRunning, 3),
                container("b1", "b", "s1", exited, 1),
            ],
        );
        let (containers, sandboxes) = dead(&status);
        assert_eq!(
            containers.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(),
            ["a1"]
        );
        assert!(sandboxes.is_empty(), "s1 still holds b1, s2 holds a2");
    }
}
