//! Static pods: manifests in a directory (or one file) of the node.
//!
//! Read when something changes there, defaulted and validated as the API server would, then given what makes
//! them static: the node's name behind their own, a UID that is a hash of where they come from and what they
//! say, annotations about their source, and a toleration of every taint that evicts.
//! Follows upstream's `pkg/kubelet/config`. A file that is no valid pod is told in the log and left out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use linux::watch::DirectoryWatch;
use machinery::codec::yaml;
use machinery::gvk::GroupVersionKind;
use machinery::user::UserInfo;
use resources::{Context, KindInfo};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::source::Change;
use crate::node::context::NodeContext;
use crate::pod::{HASH_ANNOTATION, PodExt, SEEN_ANNOTATION, SOURCE_ANNOTATION};

/// A directory that is not there yet, or cannot be watched, is looked at this often, as upstream does.
const LOOK: Duration = Duration::from_secs(20);

/// Follows `place` for ever, telling `changes`.
pub async fn follow(node: Arc<NodeContext>, place: PathBuf, changes: mpsc::UnboundedSender<Change>) {
    let mut known: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
    let dir = if place.is_file() {
        place.parent().unwrap_or(Path::new("/"))
    } else {
        &place
    };
    let mut watch = None;
    loop {
        if watch.is_none() {
            watch = DirectoryWatch::new(dir).ok();
        }
        let present = read(&node, &place);
        for (uid, pod) in &known {
            if !present.contains_key(uid) {
                drop(changes.send(Change::Gone(pod.clone())));
            }
        }
        for (uid, pod) in &present {
            if !known.contains_key(uid) {
                drop(changes.send(Change::Is(pod.clone())));
            }
        }
        known = present;
        match &mut watch {
            Some(heard) => {
                if heard.changed().await.is_err() {
                    watch = None;
                }
            }
            None => tokio::time::sleep(LOOK).await,
        }
    }
}

/// The pods of a file, or of a directory's files, by UID.
pub(super) fn read(node: &NodeContext, place: &Path) -> BTreeMap<String, Arc<Pod>> {
    let mut files = Vec::new();
    if place.is_file() {
        files.push(place.to_owned());
    } else if let Ok(entries) = std::fs::read_dir(place) {
        let visible = |e: &std::fs::DirEntry| !e.file_name().to_string_lossy().starts_with('.');
        files.extend(
            entries
                .filter_map(|e| e.ok())
                .filter(visible)
                .map(|e| e.path())
                .filter(|p| p.is_file()),
        );
    }
    files.sort();
    let mut found = BTreeMap::new();
    for file in files {
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "cannot read a pod's manifest");
                continue;
            }
        };
        match parse(&text, &file, &node.settings.node_name, node.clock.now()) {
            Ok(pod) => drop(found.insert(pod.uid().to_owned(), Arc::new(pod))),
            Err(problem) => {
                tracing::warn!(file = %file.display(), problem, "a manifest is no pod that can run")
            }
        }
    }
    found
}

/// A static pod from its manifest.
fn parse(text: &[u8], file: &Path, node: &str, now: jiff::Timestamp) -> Result<Pod, String> {
    let gvk = GroupVersionKind::new("", "v1", "Pod");
    let kind = api::kind(&gvk).ok_or("this build knows no pods")?;
    let mut value = yaml::decode(text, api::types(), kind)
        .map_err(|e| e.to_string())?
        .value;
    if value.get("kind").and_then(|k| k.as_str()) != Some("Pod") {
        return Err("it is not a Pod".to_owned());
    }
    machinery::defaults::apply(api::types(), kind, &mut value);
    let strategy = resources::strategy("", "pods");
    strategy.default(&mut value);
    let mut pod: Pod = machinery::typed::from_value(&value).map_err(|e| e.to_string())?;
    complete(&mut pod, text, file, node, now);
    refuse_references(&pod)?;
    let value = machinery::typed::to_value(&pod).map_err(|e| e.to_string())?;
    let info = KindInfo {
        group: "".into(),
        kind: "Pod".into(),
        resource: "pods".into(),
        namespaced: true,
        has_status: true,
    };
    let user = UserInfo::authenticated(format!("system:node:{node}"), &["system:nodes"]);
    let context = Context {
        user: &user,
        now,
        namespace: pod.namespace(),
        dry_run: false,
        api_version: "v1",
        kind: &info,
    };
    let errors = strategy.validate(&context, &value);
    match errors.is_empty() {
        true => Ok(pod),
        false => Err(machinery::field::aggregate(&errors)),
    }
}

fn complete(pod: &mut Pod, text: &[u8], file: &Path, node: &str, now: jiff::Timestamp) {
    let meta = &mut pod.metadata;
    let uid = meta.uid.clone().filter(|u| !u.is_empty()).unwrap_or_else(|| {
        let mut hash = Sha256::new();
        for part in [node.as_bytes(), file.as_os_str().as_encoded_bytes(), text] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hex::encode(&hash.finalize()[..16])
    });
    meta.name = Some(format!(
        "{}-{}",
        meta.name.as_deref().unwrap_or_default(),
        node.to_lowercase()
    ));
    meta.namespace
        .get_or_insert_default()
        .is_empty()
        .then(|| meta.namespace = Some("default".to_owned()));
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(HASH_ANNOTATION.to_owned(), uid.clone());
    annotations.insert(SOURCE_ANNOTATION.to_owned(), "file".to_owned());
    annotations.insert(SEEN_ANNOTATION.to_owned(), now.to_string());
    meta.uid = Some(uid);
    meta.creation_timestamp = None;
    if let Some(spec) = &mut pod.spec {
        spec.node_name = Some(node.to_owned());
        spec.tolerations.get_or_insert_default().push(Toleration {
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            ..Toleration::default()
        });
    }
    pod.status = None;
}

/// A static pod cannot lean on objects of the API: nobody might be there to serve them.
fn refuse_references(pod: &Pod) -> Result<(), String> {
    let spec = pod.spec();
    let refuse = |what: &str| Err(format!("static pods may not reference {what}"));
    let named = |name: &Option<String>| name.as_deref().is_some_and(|n| !n.is_empty());
    if named(&spec.service_account_name) || named(&spec.service_account) {
        return refuse("serviceaccounts");
    }
    let references = crate::volumes::manager::references(pod);
    if !references.secrets.is_empty() {
        return refuse("secrets");
    }
    if !references.config_maps.is_empty() {
        return refuse("configmaps");
    }
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    if volumes
        .iter()
        .any(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some())
    {
        return refuse("persistentvolumeclaims");
    }
    if spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) {
        return refuse("resourceclaims");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Pod, String> {
        parse(
            text.as_bytes(),
            Path::new("/m/web.yaml"),
            "node1",
            jiff::Timestamp::UNIX_EPOCH,
        )
    }

    const WEB: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";

    #[test]
    fn a_manifest_becomes_a_pod() {
        let pod = parsed(WEB).unwrap();
        assert_eq!((pod.name(), pod.namespace()), ("web-node1", "default"));
        assert_eq!(pod.restart_policy(), "Always");
        assert_eq!(pod.spec().termination_grace_period_seconds, Some(30));
        assert!(pod.is_static() && !pod.is_mirror());
        assert_eq!(pod.annotation(HASH_ANNOTATION), Some(pod.uid()));
        assert_ne!(
            pod.uid(),
            parsed(&WEB.replace("image: i", "image: j")).unwrap().uid()
        );
    }

    #[test]
    fn what_cannot_run_is_refused() {
        let cases = [
            ("kind: Service\napiVersion: v1\n", "not a Pod"),
            (&WEB.replace("name: c", "name: C!"), "spec.containers[0].name"),
            (
                &WEB.replace("containers:", "serviceAccountName: x, containers:"),
                "static pods may not reference serviceaccounts",
            ),
            (
                &WEB.replace(
                    "containers:",
                    "volumes: [{name: v, secret: {secretName: s}}], containers:",
                ),
                "static pods may not reference secrets",
            ),
        ];
        for (text, expected) in cases {
            let problem = parsed(text).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
