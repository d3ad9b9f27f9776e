//! SchedulingGates: a pod with gates is not looked at until they are gone.

use crate::framework::{ClusterEvent, Plugin};
use crate::pod_info::PodInfo;

pub const NAME: &str = "SchedulingGates";

pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        NAME
    }

    fn may_enqueue(&self, pod: &PodInfo) -> bool {
        pod.spec().scheduling_gates.as_ref().is_none_or(Vec::is_empty)
    }

    fn wakes(&self, event: ClusterEvent) -> bool {
        event == ClusterEvent::PodItself
    }
}
