//! Device plugins: what they offer, who holds it, and what a container is given with it.
//!
//! A plugin registers on the kubelet's socket in `device-plugins/` (or through the plugin registry), and streams its
//! devices; their counts are the node's capacity. A pod's devices are chosen before its first container starts, and
//! written down, so that a kubelet that starts anew takes nothing twice. Follows upstream's `cm/devicemanager`.

mod checkpoint;
mod endpoint;
pub mod pod_resources;
pub mod server;
pub mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use plugins::device as api;
use prost::Message;
use tokio::sync::Notify;

use crate::node::context::NodeContext;
use crate::pod::{PodExt, is_sidecar};
use crate::quantity::amount;
use crate::registry::{Handler, Plugin};
use endpoint::Endpoint;
use state::{Held, Holder, State};

/// The version that is spoken.
const VERSION: &str = "v1beta1";

pub struct Devices {
    dir: PathBuf,
    state: Mutex<State>,
    endpoints: Mutex<BTreeMap<String, Endpoint>>,
    /// One pod after another.
    allocating: tokio::sync::Mutex<()>,
    /// Told when there are more or fewer devices.
    report: Arc<Notify>,
}

/// What a container asks for.
struct Wanted {
    holder: Holder,
    /// Before the others start.
    ends: bool,
    /// How many of which.
    resources: Vec<(String, usize)>,
}

impl Devices {
    /// Remembers what was held before.
    pub fn new(dir: PathBuf, report: Arc<Notify>) -> Arc<Self> {
        let state = checkpoint::load(&dir);
        Arc::new(Self {
            dir,
            state: Mutex::new(state),
            endpoints: Mutex::default(),
            allocating: tokio::sync::Mutex::default(),
            report,
        })
    }

    /// By resource: all devices, and those that are well.
    pub fn counts(&self) -> BTreeMap<String, (i64, i64)> {
        self.state.lock().counts()
    }

    /// By resource, what pods may ask for: the devices that are well, and no fewer than are held, so that a pod that
    /// holds some is not turned away while its plugin is not back yet.
    pub fn allocatable(&self) -> BTreeMap<String, i64> {
        let state = self.state.lock();
        let counts = state.counts().into_iter();
        counts
            .map(|(name, (_, well))| {
                let held = i64::try_from(state.taken(&name).len()).unwrap_or(i64::MAX);
                (name, well.max(held))
            })
            .collect()
    }

    /// Takes a plugin in, in place of an earlier one of its resource.
    pub async fn register(
        self: &Arc<Self>,
        resource: &str,
        socket: &str,
        versions: &[String],
        options: Option<api::DevicePluginOptions>,
    ) -> Result<(), String> {
        if !versions.iter().any(|v| v == VERSION) {
            return Err(format!(
                "requested API version {versions:?} is not supported by kubelet. Supported version is {VERSION:?}"
            ));
        }
        if !is_extended(resource) {
            return Err(format!(
                "invalid name of device plugin socket: {resource:?} is no extended resource"
            ));
        }
        let endpoint = Endpoint::connect(socket, options).await?;
        tracing::info!(resource, socket, "a device plugin is taken");
        let devices = Arc::downgrade(self);
        let name = resource.to_owned();
        endpoint.follow(move |list| {
            let Some(devices) = devices.upgrade() else { return };
            devices.update(&name, list);
        });
        self.endpoints.lock().insert(resource.to_owned(), endpoint);
        Ok(())
    }

    pub fn deregister(&self, resource: &str) {
        self.endpoints.lock().remove(resource);
        self.update(resource, None);
    }

    /// A plugin's list; without one it is gone, and its devices are not well.
    fn update(&self, resource: &str, list: Option<Vec<api::Device>>) {
        let changed = {
            let mut state = self.state.lock();
            let before = state.counts();
            let known = state.resources.entry(resource.to_owned()).or_default();
            match list {
                Some(list) => {
                    let device = |d: api::Device| {
                        let nodes = d.topology.map(|t| t.nodes.iter().map(|n| n.id).collect());
                        let device = state::Device {
                            healthy: d.health == "Healthy",
                            nodes: nodes.unwrap_or_default(),
                        };
                        (d.id, device)
                    };
                    *known = list.into_iter().map(device).collect();
                }
                None => known.values_mut().for_each(|d| d.healthy = false),
            }
            state.counts() != before
        };
        if changed {
            self.save();
            self.report.notify_one();
        }
    }

    /// Gives every container of a pod its devices, unless it has them.
    pub async fn allocate(&self, pod: &Pod) -> Result<(), String> {
        let wanted = self.wanted(pod);
        if wanted.is_empty() {
            return Ok(());
        }
        let _alone = self.allocating.lock().await;
        let mut reusable: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut taken = false;
        for Wanted {
            holder,
            ends,
            resources,
        } in wanted
        {
            for (resource, count) in resources {
                let reuse = reusable.entry(resource.clone()).or_default();
                let choice = self.state.lock().choice(&holder, &resource, count, reuse)?;
                if let Some(choice) = choice {
                    taken = true;
                    let held = self.take(&resource, &choice).await?;
                    let mut state = self.state.lock();
                    state
                        .held
                        .entry(holder.clone())
                        .or_default()
                        .insert(resource.clone(), held);
                }
                let state = self.state.lock();
                let Some(held) = state.held.get(&holder).and_then(|h| h.get(&resource)) else {
                    continue;
                };
                match ends {
                    true => reuse.extend(held.devices.iter().cloned()),
                    false => reuse.retain(|id| !held.devices.contains(id)),
                }
            }
        }
        if taken {
            self.save();
        }
        Ok(())
    }

    async fn take(&self, resource: &str, choice: &state::Choice) -> Result<Held, String> {
        let endpoint = self.endpoint(resource)?;
        let wish = endpoint.preferred(choice).await;
        let devices = wish
            .filter(|wish| choice.allows(wish))
            .unwrap_or_else(|| choice.settle());
        let answer = endpoint.allocate(&devices).await?;
        Ok(Held {
            devices,
            answer: answer.encode_to_vec(),
        })
    }

    fn endpoint(&self, resource: &str) -> Result<Endpoint, String> {
        let endpoints = self.endpoints.lock();
        endpoints
            .get(resource)
            .cloned()
            .ok_or_else(|| format!("unknown Device Plugin {resource}"))
    }

    /// What a container is given with its devices.
    pub async fn of_container(
        &self,
        pod: &Pod,
        container: &Container,
    ) -> Result<Vec<api::ContainerAllocateResponse>, String> {
        let holder = holder(pod, container);
        let held = self.state.lock().held.get(&holder).cloned().unwrap_or_default();
        let mut found = Vec::new();
        for (resource, held) in held {
            if let Ok(endpoint) = self.endpoint(&resource) {
                endpoint.before_start(&held.devices).await?;
            }
            let answer = api::ContainerAllocateResponse::decode(held.answer.as_slice())
                .map_err(|e| format!("what was written down of {resource}: {e}"))?;
            found.push(answer);
        }
        Ok(found)
    }

    /// A pod that ended holds nothing.
    pub fn release(&self, pod: &str) {
        if self.state.lock().release(pod) {
            self.save();
        }
    }

    /// By container, in the order they start.
    fn wanted(&self, pod: &Pod) -> Vec<Wanted> {
        let state = self.state.lock();
        if state.resources.is_empty() {
            return Vec::new();
        }
        let of = |container: &Container| -> Vec<(String, usize)> {
            let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
            let known = state.resources.keys();
            known
                .filter_map(|name| {
                    let count = amount(limits, name).filter(|n| *n > 0)?;
                    Some((name.clone(), usize::try_from(count).ok()?))
                })
                .collect()
        };
        let init = pod.init_containers().iter().map(|c| (c, !is_sidecar(c)));
        init.chain(pod.containers().iter().map(|c| (c, false)))
            .map(|(c, ends)| Wanted {
                holder: holder(pod, c),
                ends,
                resources: of(c),
            })
            .filter(|wanted| !wanted.resources.is_empty())
            .collect()
    }

    fn save(&self) {
        let state = self.state.lock().clone();
        if let Err(error) = checkpoint::save(&self.dir, &state) {
            tracing::warn!(error = error.full(), "cannot write down who holds devices");
        }
    }
}

/// Adds what a plugin answered to what a container is made of.
pub fn give(config: &mut v1::ContainerConfig, answer: api::ContainerAllocateResponse) {
    let own = std::mem::take(&mut config.envs);
    let envs = answer.envs.into_iter().map(|(key, value)| v1::KeyValue {
        key,
        value: value.into(),
    });
    // What the pod says itself comes later, and holds.
    config.envs = envs.chain(own).collect();
    config.mounts.extend(answer.mounts.into_iter().map(|m| v1::Mount {
        container_path: m.container_path,
        host_path: m.host_path,
        readonly: m.read_only,
        ..v1::Mount::default()
    }));
    config
        .devices
        .extend(answer.devices.into_iter().map(|d| v1::Device {
            container_path: d.container_path,
            host_path: d.host_path,
            permissions: d.permissions,
        }));
    config.annotations.extend(answer.annotations);
    let named = answer.cdi_devices.into_iter();
    config
        .cdi_devices
        .extend(named.map(|d| v1::CdiDevice { name: d.name }));
}

fn holder(pod: &Pod, container: &Container) -> Holder {
    Holder {
        pod: pod.uid().to_owned(),
        container: container.name.clone(),
    }
}

/// `vendor.example/thing`, of nobody's namespace but the vendor's.
fn is_extended(name: &str) -> bool {
    let native = |domain: &str| domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    name.split_once('/')
        .is_some_and(|(domain, rest)| !native(domain) && !domain.is_empty() && !rest.is_empty())
        && !name.starts_with("requests.")
}

/// Device plugins that come through the plugin registry.
pub struct DeviceHandler;

#[async_trait]
impl Handler for DeviceHandler {
    fn kind(&self) -> &'static str {
        "DevicePlugin"
    }

    async fn register(&self, node: &Arc<NodeContext>, plugin: &Plugin) -> Result<(), String> {
        node.devices
            .register(&plugin.name, &plugin.endpoint, &plugin.versions, None)
            .await
    }

    async fn deregister(&self, node: &Arc<NodeContext>, plugin: &Plugin) {
        node.devices.deregister(&plugin.name);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn extended_resources() {
        for (name, fine) in [
            ("example.com/gpu", true),
            ("gpu", false),
            ("kubernetes.io/gpu", false),
            ("x.kubernetes.io/gpu", false),
            ("requests.example.com/gpu", false),
            ("/gpu", false),
        ] {
            assert_eq!(super::is_extended(name), fine, "{name}");
        }
    }
}
