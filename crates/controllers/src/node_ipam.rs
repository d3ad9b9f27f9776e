//! The node IPAM controller: every node gets a range of the cluster's addresses for its pods, one of each family.
//!
//! What is taken is read from the nodes themselves; only ranges given out in this moment are remembered beside.

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use hashbrown::HashMap;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;

const WORKERS: usize = 8;

struct Shell {
    context: Context,
    nodes: Informer<Node>,
    /// Given to a node whose object does not say so yet.
    given: Mutex<HashMap<String, Vec<IpNet>>>,
}

/// Starts the controller; without a cluster range somebody else gives the ranges.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    if context.options.cluster_cidrs.is_empty() {
        return;
    }
    let nodes = context.informer::<Node>();
    let queue = context.queue::<ObjectKey>("cidrallocator_node");
    let shell = Arc::new(Shell {
        context: context.clone(),
        nodes: nodes.clone(),
        given: Mutex::default(),
    });
    let (adds, all) = (queue.clone(), nodes.clone());
    nodes.subscribe(move |event| match event {
        Event::Added(node) if ranges(node).is_empty() => adds.add(ObjectKey::of(&**node)),
        // A range became free.
        Event::Deleted(_) => {
            let waiting = all.list().into_iter().filter(|n| ranges(n).is_empty());
            waiting.for_each(|n| adds.add(ObjectKey::of(&*n)));
        }
        _ => {}
    });
    let synced = async move { nodes.synced().await };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let listed = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    listed.filter_map(|c| c.parse().ok()).collect()
}

/// The first range of this length in `cluster` that touches nothing in `taken`.
fn first_free(cluster: &IpNet, length: u8, taken: &[IpNet]) -> Option<IpNet> {
    if length < cluster.prefix_len() {
        return None;
    }
    let mut candidate = IpNet::new(cluster.network(), length).ok()?;
    loop {
        if !cluster.contains(&candidate) {
            return None;
        }
        let overlapping = taken
            .iter()
            .find(|t| t.contains(&candidate) || candidate.contains(*t));
        let Some(overlapping) = overlapping else {
            return Some(candidate);
        };
        // Past whichever is the larger, so that a large taken range is one step.
        let past = if overlapping.contains(&candidate) {
            overlapping
        } else {
            &candidate
        };
        candidate = IpNet::new(successor(past.broadcast())?, length).ok()?;
    }
}

fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

impl Shell {
    fn allocate(&self, name: &str) -> Option<Vec<IpNet>> {
        let options = &self.context.options;
        let mut given = self.given.lock();
        given.retain(|node, _| self.nodes.find("", node).is_some_and(|n| ranges(&n).is_empty()));
        let mut taken: Vec<IpNet> = self.nodes.list().iter().flat_map(|n| ranges(n)).collect();
        taken.extend(
            given
                .iter()
                .filter(|(node, _)| *node != name)
                .flat_map(|(_, r)| r),
        );
        taken.extend(&options.service_cidrs);
        let (v4, v6) = options.node_cidr_mask;
        let ranges: Option<Vec<IpNet>> = options
            .cluster_cidrs
            .iter()
            .map(|cluster| first_free(cluster, if cluster.addr().is_ipv4() { v4 } else { v6 }, &taken))
            .collect();
        let ranges = ranges?;
        given.insert(name.to_owned(), ranges.clone());
        Some(ranges)
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(node) = self.nodes.get(key) else {
            return Ok(Outcome::Done);
        };
        if !ranges(&node).is_empty() {
            return Ok(Outcome::Done);
        }
        let Some(ranges) = self.allocate(&key.name) else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.context
                .recorder
                .normal(&reference(&*node), "CIDRNotAvailable", message);
            return Ok(Outcome::Retry);
        };
        let texts: Vec<String> = ranges.iter().map(IpNet::to_string).collect();
        let patch = json!({"spec": {"podCIDR": texts[0], "podCIDRs": texts}});
        let api = Api::<Node>::all(self.context.client.clone());
        match api
            .patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
        {
            Ok(written) => {
                self.nodes.written(written);
                Ok(Outcome::Done)
            }
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found() {
        let check = |cluster: &str, length: u8, taken: &[&str], expected: Option<&str>| {
            let net = |text: &str| text.parse::<IpNet>().expect("range");
            let taken: Vec<IpNet> = taken.iter().map(|t| net(t)).collect();
            assert_eq!(
                first_free(&net(cluster), length, &taken),
                expected.map(net),
                "{cluster} {taken:?}"
            );
        };
        check("10.42.0.0/16", 24, &[], Some("10.42.0.0/24"));
        check(
            "10.42.0.0/16",
            24,
            &["10.42.0.0/24", "10.42.2.0/24"],
            Some("10.42.1.0/24"),
        );
        check("10.0.0.0/8", 24, &["10.0.0.0/9"], Some("10.128.0.0/24"));
        check("10.42.0.0/23", 24, &["10.42.0.0/24", "10.42.1.128/25"], None);
        check("fd00::/48", 64, &["fd00::/64"], Some("fd00:0:0:1::/64"));
        check("255.255.255.0/24", 24, &["255.255.255.0/24"], None);
    }
}
