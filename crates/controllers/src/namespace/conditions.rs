//! What a namespace that is being deleted says about how far that is, in upstream's words.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;

/// What one pass over a namespace's content found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) discovery_failures: Vec<String>,
    pub(super) content_failures: Vec<String>,
    /// `resource.group` and how many are left.
    pub(super) remaining: BTreeMap<String, usize>,
    pub(super) finalizers: BTreeMap<String, usize>,
}

/// Type, reason and message when all is well.
const FINE: [(&str, &str, &str); 5] = [
    (
        "NamespaceDeletionDiscoveryFailure",
        "ResourcesDiscovered",
        "All resources successfully discovered",
    ),
    (
        "NamespaceDeletionGroupVersionParsingFailure",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    (
        "NamespaceContentRemaining",
        "ContentRemoved",
        "All content successfully removed",
    ),
    (
        "NamespaceFinalizersRemaining",
        "ContentHasNoFinalizers",
        "All content-preserving finalizers finished",
    ),
];

impl Findings {
    fn bad(&self) -> [Option<(&'static str, String)>; 5] {
        let counted = |map: &BTreeMap<String, usize>, verb: &str| {
            let words: Vec<String> = map
                .iter()
                .map(|(what, n)| format!("{what} {verb} {n} resource instances"))
                .collect();
            words.join(", ")
        };
        let discovery = (!self.discovery_failures.is_empty()).then(|| {
            let groups = &self.discovery_failures;
            let message = format!(
                "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                groups.len(),
                groups.join(", ")
            );
            ("DiscoveryFailed", message)
        });
        let content = (!self.content_failures.is_empty()).then(|| {
            let mut failures = self.content_failures.clone();
            failures.sort();
            let (count, list) = (failures.len(), failures.join(", "));
            let message = format!("Failed to delete all resource types, {count} remaining: {list}");
            ("ContentDeletionFailed", message)
        });
        let remaining = (!self.remaining.is_empty()).then(|| {
            let list = counted(&self.remaining, "has");
            (
                "SomeResourcesRemain",
                format!("Some resources are remaining: {list}"),
            )
        });
        let finalizers = (!self.finalizers.is_empty()).then(|| {
            let list = counted(&self.finalizers, "in");
            let message = format!("Some content in the namespace has finalizers remaining: {list}");
            ("SomeFinalizersRemain", message)
        });
        [discovery, None, content, remaining, finalizers]
    }

    /// The conditions after these findings; `None` when they are the same as before.
    pub(super) fn conditions(
        &self,
        old: &[NamespaceCondition],
        now: Timestamp,
    ) -> Option<Vec<NamespaceCondition>> {
        let mut conditions = old.to_vec();
        for ((kind, reason, message), bad) in FINE.iter().zip(self.bad()) {
            let (status, reason, message) = match bad {
                Some((reason, message)) => ("True", reason, message),
                None => ("False", *reason, (*message).to_owned()),
            };
            let new = NamespaceCondition {
                type_: (*kind).to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(Time(now)),
            };
            match conditions.iter_mut().find(|c| c.type_ == *kind) {
                None => conditions.push(new),
                Some(known) => {
                    let since = if known.status == new.status {
                        known.last_transition_time.clone()
                    } else {
                        new.last_transition_time.clone()
                    };
                    *known = NamespaceCondition {
                        last_transition_time: since,
                        ..new
                    };
                }
            }
        }
        (conditions != old).then_some(conditions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_is_left() {
        let mut findings = Findings::default();
        let now = Timestamp::UNIX_EPOCH;
        let fine = findings.conditions(&[], now).expect("new");
        assert!(fine.iter().all(|c| c.status == "False"));
        assert!(findings.conditions(&fine, Timestamp::MAX).is_none());
        findings.remaining.insert("pods.".to_owned(), 2);
        findings.finalizers.insert("x.io/keep".to_owned(), 1);
        let left = findings.conditions(&fine, now).expect("changed");
        let message = |at: usize| left[at].message.clone().unwrap_or_default();
        assert_eq!(
            message(3),
            "Some resources are remaining: pods. has 2 resource instances"
        );
        assert_eq!(
            message(4),
            "Some content in the namespace has finalizers remaining: x.io/keep in 1 resource instances"
        );
    }
}
