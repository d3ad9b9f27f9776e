//! The device taint eviction controller: pods leave when a device of theirs is tainted with NoExecute and their claim does
//! not tolerate it, at once or when the time it tolerates it is over.
//!
//! Taints are the drivers', in the newest slices of a device's pool. Times are counted from when a taint was added, which
//! it says itself, so a restart starts none anew. DeviceTaintRules, which upstream has off by default, are not looked at.

use crate::context::Context;
use crate::pods;
use client::events::reference;
use client::informer::Index;
use client::taints::tolerates_device;
use client::{Event, Informer, ObjectKey, Outcome};
use compact_str::{CompactString, format_compact};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    Device, DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice,
};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 10;

struct Shell {
    context: Context,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    claims_by_pool: Index<ResourceClaim>,
    slices: Informer<ResourceSlice>,
    slices_by_pool: Index<ResourceSlice>,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let claims = context.informer::<ResourceClaim>();
    let slices = context.informer::<ResourceSlice>();
    let shell = Arc::new(Shell {
        pods: context.informer(),
        claims_by_pool: claims.index("pool", |claim, values| {
            values.extend(allocated(claim).map(|device| pool(&device.driver, &device.pool)));
        }),
        claims,
        slices_by_pool: slices.index("pool", |slice, values| {
            values.push(pool(&slice.spec.driver, &slice.spec.pool.name));
        }),
        slices,
        context: context.clone(),
    });
    let queue = context.queue::<ObjectKey>("device-taint-eviction-controller");
    let adds = queue.clone();
    shell.claims.subscribe(move |event| {
        if let Event::Added(claim) | Event::Updated { new: claim, .. } = event {
            adds.add(ObjectKey::of(&**claim));
        }
    });
    let (adds, users) = (queue.clone(), shell.claims_by_pool.clone());
    shell.slices.subscribe(move |event| {
        let spec = &event.object().spec;
        for claim in users.get(&pool(&spec.driver, &spec.pool.name)) {
            adds.add(ObjectKey::of(&*claim));
        }
    });
    let ready = Arc::clone(&shell);
    let synced = async move {
        ready.pods.synced().await;
        ready.claims.synced().await;
        ready.slices.synced().await;
    };
    context
        .work(&queue, WORKERS, synced, move |key| {
            let shell = Arc::clone(&shell);
            async move { shell.reconcile(&key).await }
        })
        .await;
}

fn pool(driver: &str, name: &str) -> CompactString {
    format_compact!("{driver}/{name}")
}

fn allocated(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
    let devices = allocation.and_then(|a| a.devices.as_ref()?.results.as_ref());
    devices.into_iter().flatten()
}

/// A device as the newest slices of its pool tell of it.
fn device(slices: &[Arc<ResourceSlice>], name: &str) -> Option<Device> {
    let newest = slices.iter().map(|s| s.spec.pool.generation).max()?;
    let current = slices.iter().filter(|s| s.spec.pool.generation == newest);
    let mut devices = current.flat_map(|s| s.spec.devices.iter().flatten());
    devices.find(|d| d.name == name).cloned()
}

/// When those who use a device have to leave it; `None` if never. A taint that does not say when it was added counts
/// from now.
fn leaves(taints: &[DeviceTaint], tolerations: &[DeviceToleration], now: Timestamp) -> Option<Timestamp> {
    let driving = taints.iter().filter(|t| t.effect == "NoExecute");
    let times = driving.filter_map(|taint| {
        let added = taint.time_added.as_ref().map_or(now, |t| t.0);
        // Upstream takes only tolerations that name the effect.
        let tolerating = tolerations
            .iter()
            .filter(|t| t.effect.as_deref() == Some("NoExecute") && tolerates_device(t, taint));
        let mut shortest: Option<i64> = None;
        for toleration in tolerating {
            let seconds = toleration.toleration_seconds?.max(0);
            shortest = Some(shortest.map_or(seconds, |s| s.min(seconds)));
        }
        let wait = SignedDuration::from_secs(shortest.unwrap_or(0));
        Some(added.saturating_add(wait).unwrap_or(Timestamp::MAX))
    });
    times.min()
}

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(claim) = self.claims.get(key) else {
            return Ok(Outcome::Done);
        };
        let now = self.context.now();
        let times = allocated(&claim).filter_map(|result| {
            let slices = self.slices_by_pool.get(&pool(&result.driver, &result.pool));
            let device = device(&slices, &result.device)?;
            let tolerations = result.tolerations.as_deref().unwrap_or(&[]);
            leaves(device.taints.as_deref().unwrap_or(&[]), tolerations, now)
        });
        let Some(when) = times.min() else {
            return Ok(Outcome::Done);
        };
        let left = Duration::try_from(when.duration_since(now)).unwrap_or_default();
        if !left.is_zero() {
            return Ok(Outcome::After(left));
        }
        for consumer in claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten()) {
            let is_pod =
                consumer.api_group.as_deref().unwrap_or("").is_empty() && consumer.resource == "pods";
            let pod = self.pods.find(&key.namespace, &consumer.name);
            let pod = pod.filter(|p| is_pod && p.metadata.uid.as_ref() == Some(&consumer.uid));
            if let Some(pod) = pod.filter(|p| pods::is_active(p)) {
                self.evict(&pod).await?;
            }
        }
        Ok(Outcome::Done)
    }

    async fn evict(&self, pod: &Pod) -> Result<(), kube::Error> {
        self.context.recorder.normal(
            &reference(pod),
            "DeviceTaintManagerEviction",
            "Marking for deletion",
        );
        let disruption = pods::Disruption {
            reason: "DeletionByDeviceTaintManager",
            message: "Device Taint manager: deleting due to NoExecute taint",
        };
        pods::disrupt(&self.context, &self.pods, pod, &disruption).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn when_devices_are_left() {
        let now = Timestamp::from_second(1000).expect("time");
        let check = |taints: Value, tolerations: Value, expected: Option<i64>| {
            let taints: Vec<DeviceTaint> = serde_json::from_value(taints).expect("taints");
            let tolerations: Vec<DeviceToleration> =
                serde_json::from_value(tolerations).expect("tolerations");
            let found = leaves(&taints, &tolerations, now).map(Timestamp::as_second);
            assert_eq!(found, expected, "{taints:?} {tolerations:?}");
        };
        let taint =
            json!({"key": "a", "value": "x", "effect": "NoExecute", "timeAdded": "1970-01-01T00:10:00Z"});
        let undated = json!({"key": "a", "effect": "NoExecute"});
        let mild = json!({"key": "a", "effect": "NoSchedule"});
        let by = |more: Value| {
            let mut toleration = json!({"key": "a", "operator": "Exists", "effect": "NoExecute"});
            for (key, value) in more.as_object().expect("fields") {
                toleration[key] = value.clone();
            }
            json!([toleration])
        };
        check(json!([]), json!([]), None);
        check(json!([mild]), json!([]), None);
        check(json!([taint]), json!([]), Some(600));
        check(json!([undated]), json!([]), Some(1000));
        check(json!([taint]), by(json!({})), None);
        check(json!([taint]), by(json!({"tolerationSeconds": 500})), Some(1100));
        check(json!([taint]), by(json!({"tolerationSeconds": -5})), Some(600));
        check(
            json!([taint, undated]),
            by(json!({"tolerationSeconds": 500})),
            Some(1100),
        );
        check(
            json!([taint]),
            by(json!({"operator": "Equal", "value": "x"})),
            None,
        );
        check(
            json!([taint]),
            by(json!({"operator": "Equal", "value": "y"})),
            Some(600),
        );
        check(json!([taint]), by(json!({"effect": null})), Some(600));
    }

    #[test]
    fn devices_are_as_the_newest_slices_say() {
        let slice = |name: &str, generation: i64, taint: &str| -> Arc<ResourceSlice> {
            let device = json!({"name": "d", "taints": [{"key": taint, "effect": "NoExecute"}]});
            let pool = json!({"name": "p", "generation": generation, "resourceSliceCount": 1});
            let spec = json!({"driver": "x", "nodeName": "n", "pool": pool, "devices": [device]});
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("slice"),
            )
        };
        let slices = [slice("old", 1, "old"), slice("new", 2, "new")];
        let found = device(&slices, "d").expect("device");
        assert_eq!(found.taints.expect("taints")[0].key, "new");
        assert!(device(&slices, "e").is_none());
    }
}
