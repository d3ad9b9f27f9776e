//! Giving running containers and their pod's group the resources that were allocated.
//!
//! Follows upstream's `doPodResizeAction`: a group that grows does so before its containers, one that shrinks
//! after them; memory is not taken away that is in use.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use linux::cgroup::Resources as Limits;

use super::actions::Actions;
use super::worker::PodWorker;
use crate::allocation::amounts::Amounts;
use crate::allocation::{judge, resizable};
use crate::backoff::plus;
use crate::cgroups;
use crate::error::{Error, Result};
use crate::pod::PodExt;
use crate::runtime::resources;
use crate::runtime::status::{PodStatus, State};

/// A resize that failed waits for something to change for the better.
const RETRY: Duration = Duration::from_secs(10);

/// How a look went, as far as resizes go.
pub(super) enum Resized {
    Nothing,
    Done,
    RetryAt(Timestamp),
}

impl PodWorker {
    /// Whether the runtime has what was allocated, as the pod's conditions and events tell.
    pub(super) fn note_resize(&self, runtime: &PodStatus) {
        let allocations = &self.node.allocations;
        let actuated = allocations.actuated(self.pod.uid());
        let under_way = resizable(&self.pod).any(|c| {
            let running = runtime
                .container(&c.name)
                .is_some_and(|s| s.state == State::Running);
            running
                && actuated
                    .get(&c.name)
                    .is_some_and(|a| *a != Amounts::of(&self.pod, c))
        });
        if under_way {
            allocations.in_progress(&self.pod, None);
        } else if let Some(note) = allocations.completed(self.pod.uid()) {
            let text = judge::summary("Pod resize completed", &self.pod, note.generation, "");
            self.node.events.pod(&self.pod).normal("ResizeCompleted", text);
        }
    }

    pub(super) async fn resize(&mut self, actions: &Actions, runtime: &PodStatus) -> Resized {
        if actions.to_update.is_empty() && !actions.resize_pod {
            return Resized::Nothing;
        }
        let Err(error) = self.try_resize(actions, runtime).await else {
            return Resized::Done;
        };
        let text = error.full();
        tracing::info!(pod = self.pod.describe(), error = text, "cannot resize a pod");
        if self.node.allocations.in_progress(&self.pod, Some(text.clone())) {
            let words = judge::summary("Pod resize error", &self.pod, self.pod.generation(), &text);
            self.node.events.pod(&self.pod).warning("ResizeError", words);
        }
        Resized::RetryAt(plus(self.node.clock.now(), RETRY))
    }

    async fn try_resize(&self, actions: &Actions, runtime: &PodStatus) -> Result<()> {
        let (node, pod) = (&self.node, &self.pod);
        let limit = node.settings.pod_pids_limit;
        let wanted = explicit(cgroups::resources(pod, limit));
        let mut grown = wanted.clone();
        if let Some(groups) = &node.cgroups {
            let present = explicit(cgroups::resources(&self.as_actuated(), limit));
            grown = widest(&wanted, &present);
            self.check_memory(actions, &wanted, &present)?;
            groups.resize(pod, &grown)?;
        }
        for update in &actions.to_update {
            let Some((_, container)) = pod.find_container(&update.name) else {
                continue;
            };
            let told = resources::container(pod, &container, node.machine.memory);
            if runtime.container(&update.name).is_some_and(|s| s.id == update.id) {
                node.runtime.update_resources(&update.id, told).await?;
                node.allocations.set_actuated(pod.uid(), &update.name, update.to);
            }
        }
        match &node.cgroups {
            Some(groups) if grown != wanted => groups.resize(pod, &wanted),
            _ => Ok(()),
        }
    }

    /// The pod with the resources the runtime was last told.
    fn as_actuated(&self) -> Pod {
        let mut pod = Pod::clone(&self.pod);
        let actuated = self.node.allocations.actuated(self.pod.uid());
        if let Some(spec) = &mut pod.spec {
            let lists = [Some(&mut spec.containers), spec.init_containers.as_mut()];
            for container in lists.into_iter().flatten().flatten() {
                if let Some(amounts) = actuated.get(&container.name) {
                    container.resources = Some(amounts.requirements());
                }
            }
        }
        pod
    }

    /// Refuses to set a limit below what is in use: the kernel would end something.
    fn check_memory(&self, actions: &Actions, wanted: &Limits, present: &Limits) -> Result<()> {
        let Some(groups) = &self.node.cgroups else {
            return Ok(());
        };
        let mut complaints = Vec::new();
        let usage = groups.memory_usage(&self.pod, None);
        if let (Some(limit), Some(used)) = (shrunk(wanted, present), usage)
            && used >= limit
        {
            complaints.push(format!(
                "attempting to set pod memory limit ({limit}) below current usage ({used})"
            ));
        }
        for update in &actions.to_update {
            let (from, to) = (update.from.memory_limit, update.to.memory_limit);
            let used = groups.memory_usage(&self.pod, Some(&update.id));
            if let Some(used) = used
                && to != 0
                && (from == 0 || to < from)
                && used >= to
            {
                complaints.push(format!(
                    "attempting to set container {:?} memory limit ({to}) below current usage ({used})",
                    update.name
                ));
            }
        }
        if complaints.is_empty() {
            return Ok(());
        }
        let text = match &complaints[..] {
            [one] => one.clone(),
            more => format!("[{}]", more.join(", ")),
        };
        Err(Error::Pod(format!("cannot decrease memory limits: {text}")))
    }
}

/// The memory limit that is wanted, if it is less than what holds. None is less than any other.
fn shrunk(wanted: &Limits, present: &Limits) -> Option<i64> {
    let limit = wanted.memory_limit.filter(|l| *l >= 0)?;
    let lower = present.memory_limit.is_none_or(|l| l < 0 || limit < l);
    lower.then_some(limit)
}

/// The larger of both in everything that limits; what the wish does not name is unlimited.
fn widest(wanted: &Limits, present: &Limits) -> Limits {
    let most = |a: Option<i64>, b: Option<i64>| match (a, b) {
        (Some(a), Some(b)) if a > 0 && b > 0 => Some(a.max(b)),
        _ => Some(-1),
    };
    Limits {
        cpu_shares: wanted.cpu_shares.max(present.cpu_shares),
        cpu_quota: most(wanted.cpu_quota, present.cpu_quota),
        memory_limit: most(wanted.memory_limit, present.memory_limit),
        ..wanted.clone()
    }
}

/// Every limit named, so that one that is gone is lifted.
fn explicit(mut limits: Limits) -> Limits {
    limits.cpu_quota.get_or_insert(-1);
    limits.memory_limit.get_or_insert(-1);
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lower_limit_shrinks() {
        let limits = |memory| Limits {
            memory_limit: memory,
            ..Limits::default()
        };
        for (wanted, present, expected) in [
            (Some(-1), Some(-1), None),
            (Some(-1), Some(5), None),
            (Some(5), Some(-1), Some(5)),
            (Some(5), Some(6), Some(5)),
            (Some(6), Some(5), None),
            (None, Some(5), None),
        ] {
            assert_eq!(shrunk(&limits(wanted), &limits(present)), expected);
        }
    }

    #[test]
    fn a_group_is_widest_in_between() {
        let limits = |quota, memory| Limits {
            cpu_quota: quota,
            memory_limit: memory,
            ..Limits::default()
        };
        let cases = [
            (
                limits(Some(1), Some(5)),
                limits(Some(3), Some(4)),
                (Some(3), Some(5)),
            ),
            (
                limits(None, Some(5)),
                limits(Some(3), Some(-1)),
                (Some(-1), Some(-1)),
            ),
        ];
        for (wanted, present, expected) in cases {
            let found = widest(&wanted, &present);
            assert_eq!((found.cpu_quota, found.memory_limit), expected);
        }
    }
}
