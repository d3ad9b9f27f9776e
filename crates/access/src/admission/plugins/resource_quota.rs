//! `ResourceQuota`: what an object uses is charged to its namespace's quotas before it is stored, and what would exceed
//! one is refused.
//!
//! **Invariant:** a charge is a compare-and-swap of the quota's status; when somebody was faster (the quota controller,
//! another server), the request is judged again on what stands there, a few times at most. Within one server the
//! requests of a namespace take turns, so they do not fail for each other. What is charged and then not stored is given
//! back by the quota controller, which counts.

use crate::Objects;
use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::status::ApiError;
use machinery::{Value, meta};
use parking_lot::Mutex;
use resources::quota::amounts::{self, Amounts};
use resources::quota::{self, Evaluator};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, Weak};

/// How often a request is judged anew because a quota had changed.
const RETRIES: usize = 3;

type Turn = tokio::sync::Mutex<()>;

#[derive(Default)]
pub(super) struct ResourceQuota {
    objects: OnceLock<Arc<dyn Objects>>,
    turns: Mutex<HashMap<String, Weak<Turn>>>,
}

impl ResourceQuota {
    /// Whose turn it is in a namespace.
    fn turn(&self, namespace: &str) -> Arc<Turn> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(namespace).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Turn::default());
        turns.insert(namespace.to_owned(), Arc::downgrade(&turn));
        turn
    }

    async fn charge(
        &self,
        objects: &dyn Objects,
        evaluator: &dyn Evaluator,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<(), ApiError> {
        let namespace = attributes.target.namespace;
        let mut quotas = objects.list("", "resourcequotas", namespace).await?;
        let mut failure = None;
        for _ in 0..=RETRIES {
            let charges = judge(&quotas, evaluator, attributes, object, objects.now())?;
            if attributes.dry_run {
                return Ok(());
            }
            let mut failed = BTreeSet::new();
            for (quota, used) in charges {
                let mut charged = Value::clone(&quota);
                charged.set_path(&["status", "used"], amounts::to_value(&used));
                if let Err(error) = objects.replace("", "resourcequotas", charged).await {
                    failed.insert(meta::name(&quota).to_owned());
                    failure = Some(error);
                }
            }
            if failed.is_empty() {
                return Ok(());
            }
            // Those that were charged are not charged again.
            quotas = objects.list("", "resourcequotas", namespace).await?;
            quotas.retain(|quota| failed.contains(meta::name(quota)));
        }
        failure.map_or(Ok(()), Err)
    }
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        let asked = match operation {
            Operation::Create => target.subresource.is_empty(),
            Operation::Update => {
                target.group.is_empty()
                    && matches!(
                        (target.resource, target.subresource),
                        ("pods", "" | "resize")
                            | ("services", "")
                            | ("persistentvolumeclaims", "" | "status")
                    )
            }
            Operation::Delete | Operation::Connect => false,
        };
        asked && !target.namespace.is_empty() && !target.is("", "namespaces")
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let target = &attributes.target;
        let (Some(object), Some(objects)) = (object, self.objects.get()) else {
            return Ok(());
        };
        let Some(evaluator) = quota::evaluator(target.group, target.resource) else {
            return Ok(());
        };
        if let Some(old) = attributes.old
            && !evaluator.handles_update(target.subresource, object, old)
        {
            return Ok(());
        }
        if objects
            .list("", "resourcequotas", target.namespace)
            .await?
            .is_empty()
        {
            return Ok(());
        }
        let turn = self.turn(target.namespace);
        let _turn = turn.lock().await;
        self.charge(&**objects, &*evaluator, attributes, object).await
    }

    fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }
}

/// The quotas that are to be charged, and what they will have been charged then.
fn judge(
    quotas: &[Arc<Value>],
    evaluator: &dyn Evaluator,
    attributes: &Attributes<'_>,
    object: &Value,
    now: jiff::Timestamp,
) -> Result<Vec<(Arc<Value>, Amounts)>, ApiError> {
    let refuse = |why: String| Err(attributes.forbidden(Some(object), why));
    let mut concerned = Vec::new();
    for quota in quotas.iter().filter(|q| quota::matches(evaluator, q, object)) {
        let name = meta::name(quota);
        let charged: Vec<&str> = amounts::names(quota.get_path(&["status", "hard"]))
            .filter(|name| evaluator.charges(name))
            .collect();
        if let Err(why) = evaluator.constraints(&charged, object) {
            return refuse(format!("failed quota: {name}: {why}"));
        }
        let known: BTreeSet<&str> = amounts::names(quota.get_path(&["status", "used"])).collect();
        if !charged.iter().all(|name| known.contains(name)) {
            return refuse(format!(
                "status unknown for quota: {name}, resources: {}",
                charged.join(",")
            ));
        }
        concerned.push(quota);
    }
    if concerned.is_empty() {
        return Ok(Vec::new());
    }
    let usage = evaluator.usage(object, now);
    let negative: Vec<&str> = usage
        .iter()
        .filter(|(_, amount)| amount.sign() < 0)
        .map(|(name, _)| name.as_str())
        .collect();
    if !negative.is_empty() {
        return refuse(format!(
            "quota usage is negative for resource(s): {}",
            negative.join(",")
        ));
    }
    let growth = attributes
        .old
        .map(|old| amounts::growth(&usage, &evaluator.usage(old, now)));
    let mut charges = Vec::new();
    for quota in concerned {
        // An object that was not in the quota's scope before is charged whole.
        let more = match (&growth, attributes.old) {
            (Some(growth), Some(old)) if quota::matches(evaluator, quota, old) => growth,
            _ => &usage,
        };
        let hard = amounts::read(quota.get_path(&["status", "hard"]));
        let used = amounts::read(quota.get_path(&["status", "used"]));
        let mut requested = amounts::mask(more, |name| hard.contains_key(name));
        requested.retain(|_, amount| !amount.is_zero());
        if requested.is_empty() {
            continue;
        }
        let mut after = used.clone();
        amounts::add(&mut after, &requested);
        // What the status says is so already; it is only booked.
        if attributes.target.subresource != "status" {
            let exceeded = |name: &str| {
                requested.contains_key(name)
                    && after.get(name).zip(hard.get(name)).is_some_and(|(a, h)| a > h)
            };
            if requested.keys().any(|name| exceeded(name)) {
                return refuse(format!(
                    "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                    meta::name(quota),
                    amounts::pretty(&amounts::mask(&requested, exceeded)),
                    amounts::pretty(&amounts::mask(&used, exceeded)),
                    amounts::pretty(&amounts::mask(&hard, exceeded)),
                ));
            }
        }
        charges.push((Arc::clone(quota), after));
    }
    Ok(charges)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{With, object};
    use super::*;
    use machinery::gvk::GroupResource;
    use parking_lot::RwLock;

    /// Quotas that can be written, by the rules of resource versions.
    struct Quotas(RwLock<Vec<Value>>);

    #[async_trait]
    impl Objects for Quotas {
        async fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Result<Option<Arc<Value>>, ApiError> {
            Ok(None)
        }

        async fn list(&self, _: &str, _: &str, _: &str) -> Result<Vec<Arc<Value>>, ApiError> {
            let all = self.0.read().iter().cloned().map(Arc::new).collect();
            // Whoever reads gives the others the chance to write.
            tokio::task::yield_now().await;
            Ok(all)
        }

        fn resource_of(&self, _: &str, _: &str) -> Option<(String, bool)> {
            None
        }

        async fn replace(&self, _: &str, _: &str, object: Value) -> Result<Arc<Value>, ApiError> {
            let mut all = self.0.write();
            let stands = all
                .iter_mut()
                .find(|q| meta::name(q) == meta::name(&object))
                .unwrap();
            if meta::resource_version(stands) != meta::resource_version(&object) {
                return Err(ApiError::modified(
                    &GroupResource::new("", "resourcequotas"),
                    meta::name(&object),
                ));
            }
            let version: i64 = meta::resource_version(stands).parse().unwrap();
            *stands = object;
            meta::set_resource_version(stands, version + 1);
            Ok(Arc::new(stands.clone()))
        }

        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }

        fn version(&self, _: &str, _: &str) -> u64 {
            1
        }
    }

    fn quota(hard: &str, used: &str) -> Value {
        object(&format!(
            r#"{{"metadata":{{"name":"q","resourceVersion":"1"}},"spec":{{"hard":{hard}}},"status":{{"hard":{hard},"used":{used}}}}}"#
        ))
    }

    async fn ask(plugin: &ResourceQuota, pod: &Value, dry_run: bool) -> Result<(), String> {
        let with = With::default();
        let attributes = Attributes {
            dry_run,
            ..with.attributes(Operation::Create, ("", "pods", "ns"), "", "p")
        };
        let said = plugin.validate(&attributes, Some(pod)).await;
        said.map_err(|error| {
            error
                .message
                .trim_start_matches(r#"pods "p" is forbidden: "#)
                .to_owned()
        })
    }

    fn used(quotas: &Quotas) -> String {
        amounts::pretty(&amounts::read(quotas.0.read()[0].get_path(&["status", "used"])))
    }

    #[tokio::test]
    async fn pods_are_charged_until_the_quota_is_full() {
        let quotas = Arc::new(Quotas(RwLock::new(vec![quota(
            r#"{"pods":"3","requests.cpu":"1"}"#,
            r#"{"pods":"0","requests.cpu":"0"}"#,
        )])));
        let plugin = ResourceQuota::default();
        plugin.bind(Arc::clone(&quotas) as Arc<dyn Objects>);
        let pod = |cpu: &str| {
            object(&format!(
                r#"{{"spec":{{"containers":[{{"name":"c","resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]}}}}"#
            ))
        };
        assert_eq!(ask(&plugin, &pod("600m"), true).await, Ok(()));
        assert_eq!(used(&quotas), "pods=0,requests.cpu=0");
        assert_eq!(ask(&plugin, &pod("600m"), false).await, Ok(()));
        assert_eq!(used(&quotas), "pods=1,requests.cpu=600m");
        assert_eq!(
            ask(&plugin, &pod("600m"), false).await.unwrap_err(),
            "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"
        );
        assert_eq!(
            ask(
                &plugin,
                &object(r#"{"spec":{"containers":[{"name":"c"}]}}"#),
                false
            )
            .await
            .unwrap_err(),
            "failed quota: q: must specify requests.cpu for: c"
        );
        assert_eq!(used(&quotas), "pods=1,requests.cpu=600m");
    }

    #[tokio::test]
    async fn a_quota_that_was_not_counted_yet_admits_nothing() {
        let plugin = ResourceQuota::default();
        let quotas = Quotas(RwLock::new(vec![quota(r#"{"pods":"1"}"#, "{}")]));
        plugin.bind(Arc::new(quotas));
        assert_eq!(
            ask(&plugin, &object("{}"), false).await.unwrap_err(),
            "status unknown for quota: q, resources: pods"
        );
    }

    #[tokio::test]
    async fn many_at_once_get_exactly_what_is_there() {
        let quotas = Arc::new(Quotas(RwLock::new(vec![quota(
            r#"{"pods":"10"}"#,
            r#"{"pods":"0"}"#,
        )])));
        let plugin = Arc::new(ResourceQuota::default());
        plugin.bind(Arc::clone(&quotas) as Arc<dyn Objects>);
        let asked: Vec<_> = (0..50)
            .map(|_| {
                let plugin = Arc::clone(&plugin);
                tokio::spawn(async move { ask(&plugin, &object("{}"), false).await.is_ok() })
            })
            .collect();
        let mut admitted = 0;
        for one in asked {
            admitted += usize::from(one.await.unwrap());
        }
        assert_eq!(admitted, 10);
        assert_eq!(used(&quotas), "pods=10");
    }
}
