//! What a deployment writes on its replica sets: revision, history, and the sizes the last scaling was made for.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use std::collections::BTreeMap;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const ROLLBACK: &str = "deprecated.deployment.rollback.to";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The history of a set's revisions is at most so long.
const HISTORY_LENGTH: usize = 2000;

/// A number that was written on a set.
pub(super) fn number(set: &ReplicaSet, key: &str) -> Option<i32> {
    let value = set.metadata.annotations.as_ref()?.get(key)?;
    value.parse().ok().filter(|n| *n >= 0)
}

pub(super) fn revision(set: &ReplicaSet) -> i64 {
    let value = set.metadata.annotations.as_ref().and_then(|a| a.get(REVISION));
    value.and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Annotations of a deployment that say something about itself and are not its sets'.
fn is_private(key: &str) -> bool {
    [
        LAST_APPLIED,
        REVISION,
        REVISION_HISTORY,
        DESIRED_REPLICAS,
        MAX_REPLICAS,
        ROLLBACK,
    ]
    .contains(&key)
}

/// Writes the sizes; whether anything changed.
pub(super) fn set_sizes(annotations: &mut BTreeMap<String, String>, desired: i32, max: i32) -> bool {
    let mut changed = false;
    for (key, value) in [(DESIRED_REPLICAS, desired), (MAX_REPLICAS, max)] {
        let value = value.to_string();
        if annotations.get(key) != Some(&value) {
            annotations.insert(key.to_owned(), value);
            changed = true;
        }
    }
    changed
}

/// Brings the annotations of the set of the present template up to date: the deployment's own ones, and the
/// revision with its history. Whether anything changed.
pub(super) fn update(
    annotations: &mut BTreeMap<String, String>,
    deployment: &Deployment,
    new_revision: i64,
) -> bool {
    let mut changed = false;
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !is_private(key) && annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_number = match old.as_deref() {
        None | Some("") => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(number) => number,
            // Somebody wrote over it: not ours to mend.
            Err(_) => return changed,
        },
    };
    if old_number >= new_revision {
        return changed;
    }
    annotations.insert(REVISION.to_owned(), new_revision.to_string());
    if let Some(old) = old {
        let mut history: Vec<String> = annotations
            .get(REVISION_HISTORY)
            .filter(|h| !h.is_empty())
            .map(|h| h.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        history.push(old);
        while history.iter().map(|h| h.len() + 1).sum::<usize>() > HISTORY_LENGTH + 1 {
            history.remove(0);
        }
        annotations.insert(REVISION_HISTORY.to_owned(), history.join(","));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_move_into_the_history() {
        let deployment = Deployment::default();
        let mut annotations = BTreeMap::new();
        assert!(update(&mut annotations, &deployment, 1));
        assert!(!update(&mut annotations, &deployment, 1));
        assert!(update(&mut annotations, &deployment, 3));
        assert!(update(&mut annotations, &deployment, 5));
        assert_eq!(annotations[REVISION], "5");
        assert_eq!(annotations[REVISION_HISTORY], "1,3");
    }
}
