//! What happens to the simulated cluster besides the faults of its requests.

use super::workloads::{self, MOST, REQUEST, TARGET};
use crate::Cluster;
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams};
use kube::api::{PostParams, PropagationPolicy};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::Instant;

/// So many nodes may be silent at a time, in a hundred.
const SILENT: usize = 15;

/// Draws what happens, and does it.
pub(super) struct Disturbances<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) random: SmallRng,
    /// The nodes there are.
    pub(super) nodes: Vec<String>,
    /// Silent nodes, and when they speak again.
    silent: Vec<(Instant, String)>,
    /// How far the wall clock is off, in seconds.
    off: i64,
    made: usize,
}

impl<'a> Disturbances<'a> {
    pub(super) fn new(cluster: &'a Cluster, random: SmallRng, nodes: usize) -> Self {
        Self {
            cluster,
            random,
            nodes: (0..nodes).map(|n| format!("node-{n}")).collect(),
            silent: Vec::new(),
            off: 0,
            made: nodes,
        }
    }

    /// One thing, drawn. What is refused is refused.
    pub(super) async fn next(&mut self) {
        self.end_silences();
        match self.random.random_range(0..24) {
            0..=2 => self.silence(),
            3 => self.replace_node().await,
            4 => self.cluster.restart_controllers(),
            5 => self.cluster.restart_scheduler(),
            6 => {
                let pause = self.random.random_range(0..3_000);
                self.cluster.restart_server(Duration::from_millis(pause)).await;
            }
            7 => self.jump(),
            8 => self.roll::<Deployment>("web").await,
            9 => self.roll::<Deployment>("elastic").await,
            10 => self.roll::<Deployment>("solo").await,
            11 => self.roll::<StatefulSet>("db").await,
            12 => self.roll::<StatefulSet>("cache").await,
            13 => self.roll::<DaemonSet>("agent").await,
            14 | 15 => self.scale::<Deployment>("api", 8).await,
            16 => self.scale::<StatefulSet>("db", 6).await,
            17 => self.scale::<StatefulSet>("cache", 6).await,
            18 => self.load(),
            19 => self.come_and_go().await,
            20 => self.again().await,
            _ => self.evict().await,
        }
    }

    /// Nothing is wrong with any node any more.
    pub(super) fn heal(&mut self) {
        for (_, node) in std::mem::take(&mut self.silent) {
            self.cluster.nodes.revive(&node);
        }
    }

    fn end_silences(&mut self) {
        let now = Instant::now();
        let (over, silent) = std::mem::take(&mut self.silent)
            .into_iter()
            .partition(|(until, _)| *until <= now);
        self.silent = silent;
        let over: Vec<(Instant, String)> = over;
        over.iter().for_each(|(_, node)| self.cluster.nodes.revive(node));
    }

    fn any_node(&mut self) -> String {
        self.nodes[self.random.random_range(0..self.nodes.len())].clone()
    }

    fn silence(&mut self) {
        let node = self.any_node();
        if self.silent.len() < SILENT.min(self.nodes.len() / 3) && self.cluster.nodes.is_living(&node) {
            let until = Instant::now() + Duration::from_secs(self.random.random_range(5..600));
            self.cluster.nodes.silence(&node);
            self.silent.push((until, node));
        }
    }

    /// A machine is lost for good, and another one comes.
    async fn replace_node(&mut self) {
        let node = self.any_node();
        self.cluster.nodes.destroy(&node);
        self.silent.retain(|(_, silent)| *silent != node);
        self.nodes.retain(|known| *known != node);
        let api = Api::<Node>::all(self.cluster.admin());
        drop(api.delete(&node, &DeleteParams::default()).await);
        let name = format!("node-{}", self.made);
        self.made += 1;
        self.cluster.nodes.add(&name).await;
        self.nodes.push(name);
    }

    fn jump(&mut self) {
        let by = self.random.random_range(-90..180_i64).max(-120 - self.off);
        self.off += by;
        self.cluster.set_clock(SignedDuration::from_secs(by));
    }

    async fn patch<K>(&self, name: &str, patch: Value)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
        K: DeserializeOwned + Clone + Debug,
    {
        let api = self.cluster.api::<K>("default");
        let patch = Patch::Strategic(patch);
        drop(api.patch(name, &PatchParams::default(), &patch).await);
    }

    async fn roll<K>(&mut self, name: &str)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
        K: DeserializeOwned + Clone + Debug,
    {
        let containers = workloads::containers(self.random.random_range(1..9));
        self.patch::<K>(
            name,
            json!({"spec": {"template": {"spec": {"containers": containers}}}}),
        )
        .await;
    }

    async fn scale<K>(&mut self, name: &str, most: i32)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
        K: DeserializeOwned + Clone + Debug,
    {
        let replicas = self.random.random_range(0..=most);
        self.patch::<K>(name, json!({"spec": {"replicas": replicas}}))
            .await;
    }

    fn load(&mut self) {
        let pods = self.random.random_range(1..=MOST + 2);
        self.cluster.usage.set("elastic", pods * REQUEST * TARGET / 100);
    }

    /// A Deployment comes, or goes in one of the three ways.
    async fn come_and_go(&mut self) {
        let api = self.cluster.api::<Deployment>("default");
        let propagation = match self.random.random_range(0..4) {
            0 => PropagationPolicy::Foreground,
            _ => PropagationPolicy::Background,
        };
        let made = serde_json::from_value(workloads::deployment("passing", 3)).expect("a deployment");
        if api.create(&PostParams::default(), &made).await.is_err() {
            let parameters = DeleteParams {
                propagation_policy: Some(propagation),
                ..DeleteParams::default()
            };
            drop(api.delete("passing", &parameters).await);
        }
    }

    /// A Job that has ended goes, and another one of its name comes.
    async fn again(&mut self) {
        let api = self.cluster.api::<Job>("default");
        let name = if self.random.random_range(0..2) == 0 {
            "task"
        } else {
            "heap"
        };
        let ended = match api.get_opt(name).await {
            Ok(Some(job)) => job.status.is_some_and(|s| s.completion_time.is_some()),
            _ => true,
        };
        if ended {
            drop(api.delete(name, &DeleteParams::background()).await);
            let made = serde_json::from_value(workloads::job(name, name == "task")).expect("a job");
            drop(api.create(&PostParams::default(), &made).await);
        }
    }

    async fn evict(&mut self) {
        let guarded = ["web", "web", "db", "elastic"];
        let app = guarded[self.random.random_range(0..guarded.len())];
        let pods = self.cluster.api::<Pod>("default");
        let Ok(all) = pods
            .list(&ListParams::default().labels(&format!("app={app}")))
            .await
        else {
            return;
        };
        if !all.items.is_empty() {
            let victim = &all.items[self.random.random_range(0..all.items.len())];
            let name = victim.metadata.name.as_deref().unwrap_or("");
            drop(pods.evict(name, &EvictParams::default()).await);
        }
    }
}
