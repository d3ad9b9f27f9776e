//! The disruption controller: keeps in the status of each PodDisruptionBudget how many pods may be evicted now, and
//! takes back `DisruptionTarget` conditions whose disruption never came.
//!
//! **Invariant:** when the count cannot be worked out, no disruption is allowed.

mod decide;
mod scale;

use crate::context::Context;
use crate::pods;
use client::error::ApiErrorExt as _;
use client::events::reference;
use client::informer::{Index, by_namespace};
use client::labels::Matcher;
use client::{Event, Informer, ObjectKey, Outcome, Queue};
use decide::Counted;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, Patch, PatchParams, PostParams};
use scale::Scales;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;
/// A condition that announces a disruption is stale after so long.
const STALE_AFTER: Duration = Duration::from_secs(120);

struct Shell {
    context: Context,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    pods_by_namespace: Index<Pod>,
    scales: Scales,
}

/// Starts the controller.
pub(crate) fn start(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(run(context))
}

async fn run(context: Context) {
    let budgets = context.informer::<PodDisruptionBudget>();
    let pods = context.informer::<Pod>();
    let queue = context.queue::<ObjectKey>("disruption");
    let stale = context.queue::<ObjectKey>("stale_pod_disruption");
    let adds = queue.clone();
    budgets.subscribe(move |event| adds.add(ObjectKey::of(&**event.object())));
    let of_namespace = budgets.index("namespace", by_namespace);
    let (adds, announced) = (queue.clone(), stale.clone());
    pods.subscribe(move |event| {
        enqueue_budgets(event, &of_namespace, &adds);
        if !matches!(event, Event::Deleted(_)) && decide::announced(event.object()).is_some() {
            announced.add(ObjectKey::of(&**event.object()));
        }
    });
    let shell = Arc::new(Shell {
        pods_by_namespace: pods.index("namespace", by_namespace),
        scales: Scales::new(&context),
        budgets,
        pods,
        context: context.clone(),
    });
    let synced = |shell: Arc<Shell>| async move {
        shell.budgets.synced().await;
        shell.pods.synced().await;
        shell.scales.synced().await;
    };
    let (of_budgets, of_pods) = (Arc::clone(&shell), Arc::clone(&shell));
    let budgets = context.work(&queue, WORKERS, synced(Arc::clone(&shell)), move |key| {
        let shell = Arc::clone(&of_budgets);
        async move { shell.reconcile(&key).await }
    });
    let pods = context.work(&stale, 1, synced(shell), move |key| {
        let shell = Arc::clone(&of_pods);
        async move { shell.clear_stale(&key).await }
    });
    tokio::join!(budgets, pods);
}

fn enqueue_budgets(event: &Event<Pod>, budgets: &Index<PodDisruptionBudget>, queue: &Queue<ObjectKey>) {
    let pod = event.object();
    let former = match event {
        Event::Updated { old, new } if old.metadata.labels != new.metadata.labels => Some(old),
        _ => None,
    };
    for budget in budgets.get(pod.metadata.namespace.as_deref().unwrap_or("")) {
        let selector = Matcher::of(budget.spec.as_ref().and_then(|s| s.selector.as_ref()));
        let matches = |pod: &Pod| selector.matches(pod.metadata.labels.as_ref());
        if matches(pod) || former.is_some_and(|pod| matches(pod)) {
            queue.add(ObjectKey::of(&*budget));
        }
    }
}

impl Shell {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(budget) = self.budgets.get(key) else {
            return Ok(Outcome::Done);
        };
        match self.count(&budget).await {
            Ok(Ok(counted)) => {
                for pod in &counted.not_deleted {
                    let message = format!(
                        "Pod was expected by PDB {}/{} to be deleted but it wasn't",
                        key.namespace, key.namespace
                    );
                    self.context
                        .recorder
                        .warning(&reference(&**pod), "NotDeleted", message);
                }
                if let Some(status) = decide::changed(&budget, &counted, self.context.now()) {
                    self.write(&budget, status).await?;
                }
                Ok(counted.again.map_or(Outcome::Done, Outcome::After))
            }
            Ok(Err(reason)) => {
                let message = format!("Failed to calculate the number of expected pods: {reason}");
                self.context.recorder.warning(
                    &reference(&*budget),
                    "CalculateExpectedPodCountFailed",
                    message,
                );
                let status = decide::failed(&budget, reason, self.context.now());
                if budget.status.as_ref() != Some(&status) {
                    self.write(&budget, status).await?;
                }
                Ok(Outcome::Done)
            }
            Err(error) => Err(error),
        }
    }

    /// The inner error says why the number of expected pods cannot be known.
    async fn count(&self, budget: &PodDisruptionBudget) -> Result<Result<Counted, String>, kube::Error> {
        let Some(spec) = &budget.spec else {
            return Ok(Ok(Counted::default()));
        };
        let namespace = budget.metadata.namespace.as_deref().unwrap_or("");
        let selector = Matcher::of(spec.selector.as_ref());
        let mut pods = self.pods_by_namespace.get(namespace);
        pods.retain(|p| selector.matches(p.metadata.labels.as_ref()));
        let about = reference(budget);
        if pods.is_empty() {
            self.context
                .recorder
                .normal(&about, "NoPods", "No matching pods found");
        }
        let by_scale =
            spec.max_unavailable.is_some() || matches!(&spec.min_available, Some(IntOrString::String(_)));
        let expected = if by_scale {
            match self.scales.expected(namespace, &pods).await? {
                Ok(expected) => expected,
                Err(reason) => return Ok(Err(reason)),
            }
        } else {
            scale::Expected {
                count: i32::try_from(pods.len()).unwrap_or(i32::MAX),
                unmanaged: false,
            }
        };
        if expected.unmanaged {
            let selector = serde_json::to_string(&spec.selector).unwrap_or_default();
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a \
                 result, the status of the PDB cannot be calculated correctly, which may result in undefined \
                 behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an \
                 integer value."
            );
            self.context.recorder.warning(&about, "UnmanagedPods", message);
        }
        Ok(Ok(decide::count(
            budget,
            spec,
            &pods,
            expected.count,
            self.context.now(),
        )))
    }

    async fn write(
        &self,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), kube::Error> {
        let key = ObjectKey::of(budget);
        let api = Api::<PodDisruptionBudget>::namespaced(self.context.client.clone(), &key.namespace);
        // With the resource version: an eviction that took from the budget meanwhile must not be undone.
        let mut written = budget.clone();
        written.status = Some(status);
        match api
            .replace_status(&key.name, &PostParams::default(), &written)
            .await
        {
            Ok(written) => {
                self.budgets.written(written);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn clear_stale(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(pod) = self.pods.get(key) else {
            return Ok(Outcome::Done);
        };
        let Some(since) = decide::announced(&pod) else {
            return Ok(Outcome::Done);
        };
        let passed = Duration::try_from(self.context.now().duration_since(since)).unwrap_or_default();
        let left = STALE_AFTER.saturating_sub(passed);
        if !left.is_zero() {
            return Ok(Outcome::After(left));
        }
        let Some(condition) = pods::condition(&pod, "DisruptionTarget") else {
            return Ok(Outcome::Done);
        };
        let mut condition = condition.clone();
        condition.status = "False".to_owned();
        condition.reason = None;
        condition.message = None;
        condition.last_transition_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            self.context.now(),
        ));
        let patch = json!({"metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [{"$patch": "delete", "type": "DisruptionTarget"}, condition]}});
        let api = Api::<Pod>::namespaced(self.context.client.clone(), &key.namespace);
        match api
            .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
        {
            Ok(written) => self.pods.written(written),
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => return Err(error),
        }
        Ok(Outcome::Done)
    }
}
