//! ControllerRevisions: the templates a StatefulSet or DaemonSet has had, numbered.
//!
//! Deciding which revision is the present one is a pure function ([`choose`]); [`History`] carries it out.

use crate::context::Context;
use crate::owner::{claim, controller_ref, settle};
use crate::template_hash::template_hash;
use client::error::ApiErrorExt as _;
use client::informer::{Index, Object, by_controller};
use client::labels::Matcher;
use client::{Informer, ObjectKey};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;
use std::sync::Arc;

/// Which revision a pod is of.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";

/// The revisions of one kind's objects.
#[derive(Clone)]
pub(crate) struct History {
    context: Context,
    revisions: Informer<ControllerRevision>,
    by_controller: Index<ControllerRevision>,
}

/// Which revision is the present template's.
#[derive(Debug, PartialEq)]
enum Choice {
    Latest(Arc<ControllerRevision>),
    /// An older one becomes the latest.
    Renumber(Arc<ControllerRevision>, i64),
    New(i64),
}

fn choose(sorted: &[Arc<ControllerRevision>], template: &PodTemplateSpec) -> Choice {
    let last = sorted.last().map_or(0, |r| r.revision);
    let same = sorted
        .iter()
        .rev()
        .find(|r| template_of(r).as_ref() == Some(template));
    match same {
        Some(same) if same.revision == last => Choice::Latest(Arc::clone(same)),
        Some(same) => Choice::Renumber(Arc::clone(same), last + 1),
        None => Choice::New(last + 1),
    }
}

/// The template a revision holds.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The revisions beyond the limit that nobody uses, oldest first.
fn surplus(sorted: &[Arc<ControllerRevision>], live: &[&str], limit: usize) -> Vec<Arc<ControllerRevision>> {
    let name = |r: &ControllerRevision| r.metadata.name.clone().unwrap_or_default();
    let unused: Vec<_> = sorted
        .iter()
        .filter(|r| !live.contains(&name(r).as_str()))
        .collect();
    let count = unused.len().saturating_sub(limit);
    unused.into_iter().take(count).cloned().collect()
}

impl History {
    pub(crate) fn new(context: &Context) -> Self {
        let revisions = context.informer::<ControllerRevision>();
        Self {
            by_controller: revisions.index("controller", by_controller),
            revisions,
            context: context.clone(),
        }
    }

    pub(crate) async fn synced(&self) {
        self.revisions.synced().await;
    }

    /// The owner's revisions, lowest first.
    pub(crate) async fn list<O>(
        &self,
        owner: &O,
        selector: &Matcher,
    ) -> Result<Vec<Arc<ControllerRevision>>, kube::Error>
    where
        O: Object + kube::Resource<Scope = NamespaceResourceScope>,
    {
        let namespace = owner.meta().namespace.as_deref().unwrap_or("");
        let claims = claim(
            owner.meta(),
            selector,
            self.by_controller.get(owner.meta().uid.as_deref().unwrap_or("")),
            self.by_controller.get(&format!("{namespace}/")),
        );
        let mut revisions = settle(&self.context.client, owner, &self.revisions, claims, &[]).await?;
        revisions.sort_by_key(|r| {
            (
                r.revision,
                r.metadata.creation_timestamp.as_ref().map(|t| t.0),
                r.metadata.name.clone(),
            )
        });
        Ok(revisions)
    }

    /// The revision of the present template; made or renumbered if need be. Counts collisions of names.
    pub(crate) async fn current<O>(
        &self,
        owner: &O,
        template: &PodTemplateSpec,
        sorted: &[Arc<ControllerRevision>],
        collisions: &mut i32,
    ) -> Result<Arc<ControllerRevision>, kube::Error>
    where
        O: Object + kube::Resource<Scope = NamespaceResourceScope>,
    {
        let namespace = owner.meta().namespace.as_deref().unwrap_or("");
        let api = Api::<ControllerRevision>::namespaced(self.context.client.clone(), namespace);
        match choose(sorted, template) {
            Choice::Latest(revision) => Ok(revision),
            Choice::Renumber(revision, number) => {
                let mut copy = (*revision).clone();
                copy.revision = number;
                let name = copy.metadata.name.clone().unwrap_or_default();
                let written = api.replace(&name, &PostParams::default(), &copy).await?;
                self.revisions.written(written.clone());
                Ok(Arc::new(written))
            }
            Choice::New(number) => loop {
                let new = new_revision(owner, template, number, *collisions);
                let name = new.metadata.name.clone().unwrap_or_default();
                match api.create(&PostParams::default(), &new).await {
                    Ok(written) => {
                        self.revisions.written(written.clone());
                        return Ok(Arc::new(written));
                    }
                    Err(error) if error.is_already_exists() => {
                        let existing = api.get(&name).await?;
                        if template_of(&existing).as_ref() == Some(template) {
                            return Ok(Arc::new(existing));
                        }
                        *collisions += 1;
                    }
                    Err(error) => return Err(error),
                }
            },
        }
    }

    /// Deletes revisions beyond the limit that are not among the `live` names.
    pub(crate) async fn truncate(
        &self,
        sorted: &[Arc<ControllerRevision>],
        live: &[&str],
        limit: i32,
    ) -> Result<(), kube::Error> {
        for gone in surplus(sorted, live, usize::try_from(limit).unwrap_or(0)) {
            let key = ObjectKey::of(&*gone);
            let api = Api::<ControllerRevision>::namespaced(self.context.client.clone(), &key.namespace);
            match api.delete(&key.name, &DeleteParams::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => self
                    .revisions
                    .gone(&key, gone.metadata.uid.as_deref().unwrap_or("")),
            }
        }
        Ok(())
    }
}

fn new_revision<O: Object>(
    owner: &O,
    template: &PodTemplateSpec,
    number: i64,
    collisions: i32,
) -> ControllerRevision {
    let hash = template_hash(template, Some(collisions));
    let mut labels = template
        .metadata
        .as_ref()
        .and_then(|m| m.labels.clone())
        .unwrap_or_default();
    labels.insert("controller.kubernetes.io/hash".to_owned(), hash.clone());
    labels.insert(REVISION_LABEL.to_owned(), hash.clone());
    // The types of a template cannot fail to be written.
    let mut data = serde_json::to_value(template).unwrap_or_default();
    data["$patch"] = json!("replace");
    let name = owner.meta().name.as_deref().unwrap_or("");
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: owner.meta().namespace.clone(),
            labels: Some(labels),
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(json!({"spec": {"template": data}}))),
        revision: number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::StatefulSet;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "image": image}]}}))
            .expect("template")
    }

    fn revision(image: &str, number: i64) -> Arc<ControllerRevision> {
        Arc::new(new_revision(&StatefulSet::default(), &template(image), number, 0))
    }

    #[test]
    fn the_present_revision_is_found_renumbered_or_made() {
        let known = [revision("a", 1), revision("b", 2)];
        assert_eq!(
            choose(&known, &template("b")),
            Choice::Latest(Arc::clone(&known[1]))
        );
        assert_eq!(
            choose(&known, &template("a")),
            Choice::Renumber(Arc::clone(&known[0]), 3)
        );
        assert_eq!(choose(&known, &template("c")), Choice::New(3));
        assert_eq!(choose(&[], &template("c")), Choice::New(1));
    }

    #[test]
    fn unused_revisions_are_too_many() {
        let known = [revision("a", 1), revision("b", 2), revision("c", 3)];
        let live = known[2].metadata.name.clone().expect("name");
        assert_eq!(surplus(&known, &[&live], 1), [Arc::clone(&known[0])]);
        assert!(surplus(&known, &[&live], 2).is_empty());
    }
}
