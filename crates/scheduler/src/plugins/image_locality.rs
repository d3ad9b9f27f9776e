//! ImageLocality: rather nodes that have the pod's images, the more so the larger and commoner these are.

use crate::framework::{MAX_NODE_SCORE, Plugin, Score};
use crate::node_info::{NodeInfo, normalized_image};
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use std::sync::Arc;

pub const NAME: &str = "ImageLocality";

pub struct ImageLocality;

const MIN: i64 = 23 * 1024 * 1024;
const MAX_PER_CONTAINER: i64 = 1000 * 1024 * 1024;

struct Images {
    /// Image names and the share of the nodes that have them.
    images: Vec<(String, f64)>,
    containers: i64,
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        NAME
    }

    fn weight(&self) -> i64 {
        1
    }

    #[allow(clippy::cast_precision_loss)] // Counts of nodes are small.
    fn pre_score(
        &self,
        pod: &Arc<PodInfo>,
        snapshot: &Snapshot,
        _: &[Arc<NodeInfo>],
    ) -> Option<Box<dyn Score>> {
        let spec = pod.spec();
        let containers = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        let names = containers.clone().filter_map(|c| c.image.as_deref());
        let volumes = spec.volumes.iter().flatten();
        let mounted = volumes.filter_map(|v| v.image.as_ref()?.reference.as_deref());
        let total = snapshot.nodes.len().max(1) as f64;
        let images: Vec<(String, f64)> = names
            .chain(mounted)
            .map(normalized_image)
            .filter_map(|name| {
                let nodes = *snapshot.image_nodes.get(&name)?;
                Some((name, nodes as f64 / total))
            })
            .collect();
        if images.is_empty() {
            return None;
        }
        Some(Box::new(Images {
            images,
            containers: i64::try_from(containers.count()).unwrap_or(1),
        }))
    }
}

impl Score for Images {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // Sizes of images are far below 2^52.
    fn score(&self, node: &NodeInfo) -> i64 {
        let sum: i64 = self
            .images
            .iter()
            .filter_map(|(name, spread)| node.images.get(name).map(|size| (*size as f64 * spread) as i64))
            .sum();
        let max = MAX_PER_CONTAINER * self.containers.max(1);
        MAX_NODE_SCORE * (sum.clamp(MIN, max) - MIN) / (max - MIN)
    }
}
