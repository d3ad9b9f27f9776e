//! The ServiceCIDR controller: a range is ready while it exists, and goes only when no Service's address would be left
//! without a range.
//!
//! **Invariant:** between the last address and the end lies a grace time, in which allocators learn of the deletion.

use crate::context::Context;
use client::error::ApiErrorExt as _;
use client::{Event, Informer, ObjectKey, Outcome};
use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR, ServiceCIDRStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Api, PostParams};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
const GRACE: Duration = Duration::from_secs(10);
const WORKERS: usize = 5;

struct Shell {
    context: Context,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let ranges = context.informer::<ServiceCIDR>();
    let addresses = context.informer::<IPAddress>();
    let queue = context.queue::<ObjectKey>("servicecidrs");
    let (adds, all) = (queue.clone(), ranges.clone());
    ranges.subscribe(move |event| {
        // A range that comes or goes decides about those it overlaps.
        all.list().iter().for_each(|r| adds.add(ObjectKey::of(&**r)));
        if !matches!(event, Event::Deleted(_)) {
            adds.add(ObjectKey::of(&**event.object()));
        }
    });
    let (adds, all) = (queue.clone(), ranges.clone());
    addresses.subscribe(move |event| {
        if matches!(event, Event::Deleted(_)) {
            let leaving = all.list();
            let leaving = leaving.iter().filter(|r| r.metadata.deletion_timestamp.is_some());
            leaving.for_each(|r| adds.add(ObjectKey::of(&**r)));
        }
    });
    let shell = Arc::new(Shell {
        ranges,
        addresses,
        context: context.clone(),
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.ranges.synced().await;
        ready.addresses.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

fn nets(range: &ServiceCIDR) -> Vec<IpNet> {
    let cidrs = range.spec.as_ref().and_then(|s| s.cidrs.as_ref());
    cidrs
        .into_iter()
        .flatten()
        .filter_map(|c| c.parse().ok())
        .collect()
}

/// Whether every address that lies in `range` lies in another one too.
fn can_go(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[IpAddr]) -> bool {
    let others: Vec<IpNet> = all
        .iter()
        .filter(|r| r.metadata.name != range.metadata.name)
        .flat_map(|r| nets(r))
        .collect();
    let nets = nets(range);
    let covered = |net: &IpNet| others.iter().any(|other| other.contains(net));
    nets.iter().all(covered)
        || !addresses.iter().any(|address| {
            nets.iter().any(|n| n.contains(address)) && !others.iter().any(|n| n.contains(address))
        })
}

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(range) = self.ranges.get(key) else {
            return Ok(Outcome::Done);
        };
        let Some(leaving) = &range.metadata.deletion_timestamp else {
            self.set_finalizer(&range, true).await?;
            let ready = condition("True", "", "Kubernetes Service CIDR is ready", self.context.now());
            return self.set_condition(&range, ready).await;
        };
        let managed = |a: &Arc<IPAddress>| {
            let labels = a.metadata.labels.as_ref();
            labels.is_some_and(|l| l.get(MANAGED_BY).is_some_and(|m| m == ALLOCATOR))
        };
        let addresses: Vec<IpAddr> = self
            .addresses
            .list()
            .iter()
            .filter(|a| managed(a))
            .filter_map(|a| a.metadata.name.as_deref()?.parse().ok())
            .collect();
        if !can_go(&range, &self.ranges.list(), &addresses) {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            let blocked = condition("False", "Terminating", message, self.context.now());
            return self.set_condition(&range, blocked).await;
        }
        let passed = Duration::try_from(self.context.now().duration_since(leaving.0)).unwrap_or_default();
        if passed < GRACE {
            return Ok(Outcome::After(GRACE - passed));
        }
        self.set_finalizer(&range, false).await?;
        Ok(Outcome::Done)
    }

    async fn set_finalizer(&self, range: &ServiceCIDR, wanted: bool) -> Result<(), kube::Error> {
        let mut changed = range.clone();
        let finalizers = changed.metadata.finalizers.get_or_insert_default();
        if finalizers.iter().any(|f| f == FINALIZER) == wanted {
            return Ok(());
        }
        if wanted {
            finalizers.push(FINALIZER.to_owned());
        } else {
            finalizers.retain(|f| f != FINALIZER);
        }
        let name = range.metadata.name.clone().unwrap_or_default();
        let api = Api::<ServiceCIDR>::all(self.context.client.clone());
        match api.replace(&name, &PostParams::default(), &changed).await {
            Ok(written) if wanted => self.ranges.written(written),
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        Ok(())
    }

    async fn set_condition(&self, range: &ServiceCIDR, condition: Condition) -> Result<Outcome, kube::Error> {
        let key = ObjectKey::of(range);
        let current = self.ranges.get(&key);
        let current = current.as_deref().unwrap_or(range);
        let old = current.status.as_ref().and_then(|s| s.conditions.clone());
        let mut conditions = old.unwrap_or_default();
        let same = |c: &Condition| {
            c.type_ == condition.type_
                && c.status == condition.status
                && c.reason == condition.reason
                && c.message == condition.message
        };
        if conditions.iter().any(same) {
            return Ok(Outcome::Done);
        }
        conditions.retain(|c| c.type_ != condition.type_);
        conditions.push(condition);
        let mut changed = current.clone();
        changed.status = Some(ServiceCIDRStatus {
            conditions: Some(conditions),
        });
        let api = Api::<ServiceCIDR>::all(self.context.client.clone());
        match api
            .replace_status(&key.name, &PostParams::default(), &changed)
            .await
        {
            Ok(written) => self.ranges.written(written),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(Outcome::Done)
    }
}

fn condition(status: &str, reason: &str, message: &str, now: jiff::Timestamp) -> Condition {
    Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: None,
        last_transition_time: Time(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_range_goes_when_nobody_is_left_without() {
        let range = |name: &str, cidr: &str| -> Arc<ServiceCIDR> {
            let range = json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}});
            Arc::new(serde_json::from_value(range).expect("range"))
        };
        let addresses: [IpAddr; 1] = ["10.0.0.5".parse().expect("address")];
        let (small, large, other) = (
            range("small", "10.0.0.0/28"),
            range("large", "10.0.0.0/24"),
            range("other", "10.1.0.0/24"),
        );
        let all = [small.clone(), other.clone()];
        assert!(!can_go(&small, &all, &addresses));
        assert!(can_go(&other, &all, &addresses));
        assert!(can_go(&small, &all, &[]));
        let all = [small.clone(), large.clone()];
        assert!(can_go(&small, &all, &addresses), "the larger one has it");
        assert!(can_go(&large, &all, &addresses), "the smaller one has it");
    }
}
