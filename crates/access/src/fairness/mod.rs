//! API priority and fairness: which requests may run now, and which wait or are turned away.
//!
//! The first `FlowSchema` that matches a request names its priority level and its flow. A level has seats; when they are
//! taken, its requests wait in queues, and each flow is dealt a few of them, so that one loud caller cannot fill them
//! all. Seats a level does not use are lent to others. Follows KEP-1040; a level borrows the moment it needs a seat,
//! where upstream adjusts limits every ten seconds.
//!
//! **Invariant:** a seat is given back when its [`Seat`] is dropped, however the request ended.

pub mod bootstrap;
mod level;
mod schema;

use crate::Objects;
use crate::authorization::Attributes;
use arc_swap::ArcSwapOption;
use level::{Level, Levels};
pub use level::{Rejection, Seat};
use machinery::status::ApiError;
use machinery::{Value, meta};
use schema::Schema;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// Upstream's 400 reading and 200 writing requests at once.
const SEATS: usize = 600;

/// What a request was taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    pub schema_uid: String,
    pub level_uid: String,
}

/// A request that was let in.
pub struct Entry {
    pub class: Class,
    /// `None`: the level is exempt from limits.
    pub seat: Option<Seat>,
}

/// The gate of a server.
#[derive(Default)]
pub struct Fairness {
    objects: OnceLock<Arc<dyn Objects>>,
    config: ArcSwapOption<Config>,
    building: tokio::sync::Mutex<()>,
}

struct Config {
    versions: [u64; 2],
    schemas: Vec<Schema>,
    levels: HashMap<String, Arc<Level>>,
}

/// Why a request may not run.
#[derive(Debug)]
pub enum Refused {
    Rejected(Class, Rejection),
    Error(ApiError),
}

impl Fairness {
    pub fn bind(&self, objects: Arc<dyn Objects>) {
        self.objects.get_or_init(|| objects);
    }

    /// Waits for a seat. `None`: nothing is configured that speaks of the request, so it is let in.
    pub async fn enter(&self, attributes: &Attributes<'_>) -> Result<Option<Entry>, Refused> {
        let Some(objects) = self.objects.get() else {
            return Ok(None);
        };
        let config = self.config(&**objects).await.map_err(Refused::Error)?;
        let Some(schema) = config.schemas.iter().find(|schema| schema.matches(attributes)) else {
            return Ok(None);
        };
        let Some(level) = config.levels.get(&schema.level) else {
            return Ok(None);
        };
        let class = Class {
            schema_uid: schema.uid.clone(),
            level_uid: level.uid().to_string(),
        };
        let flow = (schema.name.as_str(), schema.flow(attributes));
        match level.enter(flow).await {
            Ok(seat) => Ok(Some(Entry { class, seat })),
            Err(rejection) => Err(Refused::Rejected(class, rejection)),
        }
    }

    async fn config(&self, objects: &dyn Objects) -> Result<Arc<Config>, ApiError> {
        let versions = || [SCHEMAS, LEVELS].map(|resource| objects.version(GROUP, resource));
        let current = |versions| self.config.load_full().filter(|known| known.versions == versions);
        if let Some(config) = current(versions()) {
            return Ok(config);
        }
        let _building = self.building.lock().await;
        let now = versions();
        if let Some(config) = current(now) {
            return Ok(config);
        }
        let schemas = objects.list(GROUP, SCHEMAS, "").await?;
        let levels = objects.list(GROUP, LEVELS, "").await?;
        let before = self.config.load_full();
        let config = Arc::new(Config::build(now, &schemas, &levels, before.as_deref()));
        self.config.store(Some(Arc::clone(&config)));
        Ok(config)
    }
}

impl Config {
    /// Levels that were there before keep who is in them.
    fn build(
        versions: [u64; 2],
        schemas: &[Arc<Value>],
        levels: &[Arc<Value>],
        before: Option<&Self>,
    ) -> Self {
        let all = Levels::default();
        let shares: i64 = levels.iter().map(|level| level::shares(level)).sum();
        let mut by_name = HashMap::new();
        for object in levels {
            let name = meta::name(object).to_owned();
            let seats = (SEATS as i64 * level::shares(object) + shares - 1) / shares.max(1);
            let known = before.and_then(|before| before.levels.get(&name)).cloned();
            let level = known.unwrap_or_default();
            level.configure(object, usize::try_from(seats).unwrap_or(0));
            by_name.insert(name, level);
        }
        all.set(by_name.values());
        for level in by_name.values() {
            level.join(&all);
        }
        let mut schemas: Vec<Schema> = schemas.iter().map(|schema| Schema::read(schema)).collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Self {
            versions,
            schemas,
            levels: by_name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::Fixed;
    use machinery::user::UserInfo;

    fn fairness() -> Fairness {
        let stored = bootstrap::objects().into_iter().map(|mut object| {
            let kind = object.get_str_path(&["kind"]).unwrap().to_owned();
            let uid = format!("{kind}/{}", meta::name(&object));
            meta::set_text(&mut object, "uid", uid);
            let resource = if kind == "FlowSchema" { SCHEMAS } else { LEVELS };
            (resource, Arc::new(object))
        });
        let fairness = Fairness::default();
        fairness.bind(Arc::new(Fixed(stored.collect())));
        fairness
    }

    #[tokio::test]
    async fn requests_are_taken_for_what_upstream_takes_them_for() {
        let fairness = fairness();
        let check = async |user: UserInfo,
                           verb: &str,
                           group: &str,
                           resource: &str,
                           namespace: &str,
                           schema: &str,
                           level: &str| {
            let asked = Attributes {
                namespace,
                ..Attributes::resource(&user, verb, group, resource)
            };
            let entry = fairness.enter(&asked).await.unwrap().unwrap();
            assert_eq!(entry.class.schema_uid, format!("FlowSchema/{schema}"));
            assert_eq!(
                entry.class.level_uid,
                format!("PriorityLevelConfiguration/{level}")
            );
        };
        let user = |name: &str, groups: &[&str]| UserInfo::authenticated(name, groups);
        let node = || user("system:node:a", &["system:nodes"]);
        check(
            user("root", &["system:masters"]),
            "get",
            "",
            "pods",
            "ns",
            "exempt",
            "exempt",
        )
        .await;
        check(
            node(),
            "update",
            "coordination.k8s.io",
            "leases",
            "kube-node-lease",
            "system-node-high",
            "node-high",
        )
        .await;
        check(node(), "list", "", "pods", "", "system-nodes", "system").await;
        let scheduler = || user("system:kube-scheduler", &[]);
        check(
            scheduler(),
            "update",
            "coordination.k8s.io",
            "leases",
            "kube-system",
            "system-leader-election",
            "leader-election",
        )
        .await;
        check(
            scheduler(),
            "create",
            "",
            "pods/binding",
            "ns",
            "kube-scheduler",
            "workload-high",
        )
        .await;
        let account = UserInfo::service_account;
        check(
            account("kube-system", "x"),
            "list",
            "",
            "pods",
            "",
            "kube-system-service-accounts",
            "workload-high",
        )
        .await;
        check(
            account("ns", "x"),
            "list",
            "",
            "pods",
            "ns",
            "service-accounts",
            "workload-low",
        )
        .await;
        check(
            user("jane", &[]),
            "list",
            "",
            "pods",
            "ns",
            "global-default",
            "global-default",
        )
        .await;
        let anybody = UserInfo::anonymous();
        let probe = fairness
            .enter(&Attributes::path(&anybody, "get", "/healthz"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(probe.class.schema_uid, "FlowSchema/probes");
        assert!(probe.seat.is_none());
    }
}
