//! Hears from the runtime that something about a pod has changed.
//!
//! Two ways: the runtime's event stream, or, for runtimes without one, a list every second that is compared
//! with the one before (upstream's generic PLEG). **Invariant:** an event says only "look again at this pod";
//! a lost one costs no more than the time until the next look, and after every reconnect all pods are looked at.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use cri::v1;
use tokio_util::sync::CancellationToken;

use super::client::{Inventory, Runtime};
use super::labels;

const RELIST: Duration = Duration::from_secs(1);
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_MOST: Duration = Duration::from_secs(5);

/// Which pods to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    Pod(String),
    All,
}

/// Runs until `stop`, telling `notify`.
pub async fn follow(runtime: Runtime, stop: CancellationToken, notify: impl Fn(Changed) + Send + Sync) {
    let work = async {
        let mut delay = RECONNECT_FIRST;
        loop {
            match runtime.events().await {
                Ok(stream) => {
                    delay = RECONNECT_FIRST;
                    notify(Changed::All);
                    drain(stream, &notify).await;
                }
                Err(crate::error::Error::Runtime { status, .. })
                    if status.code() == tonic::Code::Unimplemented =>
                {
                    tracing::info!("the runtime has no event stream, listing every second instead");
                    relist(&runtime, &notify).await;
                }
                Err(error) => tracing::warn!(error = error.full(), "cannot follow the runtime's events"),
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RECONNECT_MOST);
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn drain(mut stream: tonic::Streaming<v1::ContainerEventResponse>, notify: &(impl Fn(Changed) + Send)) {
    loop {
        match stream.message().await {
            Ok(Some(event)) => {
                let uid = event.pod_sandbox_status.and_then(|s| s.metadata).map(|m| m.uid);
                notify(
                    uid.filter(|uid| !uid.is_empty())
                        .map_or(Changed::All, Changed::Pod),
                );
            }
            Ok(None) => return,
            Err(status) => {
                tracing::warn!(message = status.message(), "the runtime's event stream broke off");
                return;
            }
        }
    }
}

async fn relist(runtime: &Runtime, notify: &(impl Fn(Changed) + Send)) {
    let mut before = HashMap::new();
    let mut ticks = tokio::time::interval(RELIST);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match runtime.inventory().await {
            Ok(inventory) => {
                let now = states(&inventory);
                for uid in changed(&before, &now) {
                    notify(Changed::Pod(uid));
                }
                before = now;
            }
            Err(error) => {
                tracing::warn!(error = error.full(), "cannot list containers");
                return;
            }
        }
    }
}

/// Id to pod UID and state.
type States = HashMap<String, (String, i32)>;

fn states(inventory: &Inventory) -> States {
    let uid = |labels: &HashMap<String, String>| labels.get(labels::POD_UID).cloned().unwrap_or_default();
    let sandboxes = inventory
        .sandboxes
        .iter()
        .map(|s| (s.id.clone(), (uid(&s.labels), s.state)));
    let containers = inventory
        .containers
        .iter()
        .map(|c| (c.id.clone(), (uid(&c.labels), c.state)));
    sandboxes.chain(containers).collect()
}

fn changed(before: &States, now: &States) -> HashSet<String> {
    let differs = |a: &States, b: &States| {
        a.iter()
            .filter(|(id, state)| b.get(*id) != Some(*state))
            .map(|(_, (uid, _))| uid.clone())
            .collect::<Vec<_>>()
    };
    differs(before, now)
        .into_iter()
        .chain(differs(now, before))
        .filter(|uid| !uid.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_compared_both_ways() {
        let state = |list: &[(&str, &str, i32)]| -> States {
            list.iter()
                .map(|(id, uid, s)| ((*id).to_owned(), ((*uid).to_owned(), *s)))
                .collect()
        };
        let before = state(&[("a", "1", 1), ("b", "2", 1), ("c", "3", 1)]);
        let now = state(&[("a", "1", 1), ("b", "2", 2), ("d", "4", 0)]);
        let mut uids: Vec<_> = changed(&before, &now).into_iter().collect();
        uids.sort();
        assert_eq!(uids, ["2", "3", "4"]);
    }
}
