//! APIServices of what this server answers for itself: the built-in groups and those of custom resources.
//!
//! As upstream: those of built-in groups are made at start and belong to whoever changes them afterwards; those of
//! custom resources come and go with their definitions.

use super::{GROUP, RESOURCE};
use crate::boot::Maker;
use crate::cache::{Filter, PageRequest};
use crate::registry::delete::DeleteOptions;
use crate::server::Core;
use machinery::status::{ApiError, Reason};
use machinery::{Value, meta};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Definitions come many at a time.
const TOGETHER: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_secs(1);

/// Where groups stand among others, upstream's order: the group's number, and its versions' if they are told.
const GROUPS: [(&str, i64); 23] = [
    ("", 18_000),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("apps", 17_800),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("internal.apiserver.k8s.io", 16_000),
    ("resource.k8s.io", 15_900),
    ("storagemigration.k8s.io", 15_800),
    ("apiregistration.k8s.io", 0),
];

/// Makes those of the built-in groups, and keeps those of custom resources until the server ends.
pub(super) async fn start(core: &Arc<Core>) -> Result<(), ApiError> {
    let changes = core.routes.changes();
    sync(core, true).await?;
    let core = Arc::clone(core);
    tokio::spawn(async move {
        let shutdown = core.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = keep(&core, changes) => {}
        }
    });
    Ok(())
}

async fn keep(core: &Core, mut changes: watch::Receiver<()>) {
    while changes.changed().await.is_ok() {
        tokio::time::sleep(TOGETHER).await;
        changes.mark_unchanged();
        while let Err(error) = sync(core, false).await {
            tracing::warn!(error = %error.message, "keeping the APIServices of this server's own groups");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The APIServices there should be, by their names; built-in ones only at start.
fn wanted(core: &Core, first: bool) -> BTreeMap<String, String> {
    let mut wanted = BTreeMap::new();
    let table = core.routes.table();
    for group in &table.groups {
        if group.name == GROUP {
            continue;
        }
        for (at, version) in group.versions.iter().enumerate() {
            let custom = !core.routes.is_built_in(&group.name, &version.name);
            if !custom && !first {
                continue;
            }
            let known = GROUPS.iter().find(|(name, _)| *name == group.name);
            // The first of a group's versions is the preferred one.
            let rank = i64::try_from(group.versions.len() - at).unwrap_or(1);
            let (group_priority, version_priority, label) = match known {
                _ if custom => (1_000, 100, "true"),
                Some((_, priority)) => (*priority, 9 + 2 * rank, "onstart"),
                None => (15_000, 9 + 2 * rank, "onstart"),
            };
            let (name, group, version) = (
                format!("{}.{}", version.name, group.name),
                &group.name,
                &version.name,
            );
            let text = format!(
                r#"{{"metadata":{{"name":"{name}","labels":{{"{MANAGED}":"{label}"}}}},"spec":{{"group":"{group}","version":"{version}","groupPriorityMinimum":{group_priority},"versionPriority":{version_priority}}}}}"#
            );
            wanted.insert(name, text);
        }
    }
    wanted
}

async fn sync(core: &Core, first: bool) -> Result<(), ApiError> {
    let Some(resource) = core.routes.resource(GROUP, RESOURCE) else {
        return Ok(());
    };
    let wanted = wanted(core, first);
    let filter = Filter::all("");
    let page = core
        .registry
        .list(&resource, &filter, &PageRequest::default())
        .await?;
    let mut present = BTreeMap::new();
    for entry in &page.entries {
        let object = entry.value(&resource).map_err(crate::registry::stored_error)?;
        let label = object.get_str_path(&["metadata", "labels", MANAGED]);
        let comes_and_goes = label == Some("true");
        present.insert(meta::name(&object).to_owned(), comes_and_goes);
    }
    let maker = Maker::new(core);
    let missing = wanted.iter().filter(|(name, _)| !present.contains_key(*name));
    let made = missing.map(|(_, text)| maker.make(GROUP, RESOURCE, "", text));
    futures::future::try_join_all(made).await?;
    let options = Value::object();
    for (name, _) in present
        .iter()
        .filter(|(name, custom)| **custom && !wanted.contains_key(*name))
    {
        let write = maker.write(&resource, "", name, &options);
        match core.registry.delete(&write, &DeleteOptions::default()).await {
            Err(error) if error.reason != Reason::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
