//! What happens to an object, given what its owners are.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// What an owner turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// It exists.
    Solid,
    /// It does not, or another object has its name.
    Dangling,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Keep,
    /// Some owners are left: only the references to the others go.
    Disown(Vec<String>),
    Delete {
        propagation: &'static str,
    },
}

/// `has_dependents` says whether others depend on the object; `finalizers` are its own.
pub(super) fn judge(
    owners: &[(&OwnerReference, OwnerState)],
    has_dependents: bool,
    finalizers: &[String],
) -> Verdict {
    let with = |state: OwnerState| owners.iter().filter(move |(_, s)| *s == state);
    if owners.is_empty() {
        return Verdict::Keep;
    }
    if with(OwnerState::Solid).next().is_some() {
        let gone = owners.iter().filter(|(_, s)| *s != OwnerState::Solid);
        let gone: Vec<String> = gone.map(|(o, _)| o.uid.clone()).collect();
        return if gone.is_empty() {
            Verdict::Keep
        } else {
            Verdict::Disown(gone)
        };
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    let propagation = if with(OwnerState::Waiting).next().is_some() && has_dependents {
        // The owner wants everything below it gone before it goes.
        "Foreground"
    } else if has(super::graph::ORPHAN) {
        "Orphan"
    } else if has(super::graph::FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    };
    Verdict::Delete { propagation }
}

#[cfg(test)]
mod tests {
    use super::OwnerState::{Dangling, Solid, Waiting};
    use super::*;

    #[test]
    fn verdicts() {
        let check = |states: &[OwnerState], dependents: bool, finalizers: &[&str], expected: Verdict| {
            let owners: Vec<OwnerReference> = (0..states.len())
                .map(|i| OwnerReference {
                    uid: i.to_string(),
                    ..OwnerReference::default()
                })
                .collect();
            let pairs: Vec<_> = owners.iter().zip(states.iter().copied()).collect();
            let finalizers: Vec<String> = finalizers.iter().map(|f| (*f).to_owned()).collect();
            assert_eq!(judge(&pairs, dependents, &finalizers), expected, "{states:?}");
        };
        let delete = |propagation| Verdict::Delete { propagation };
        check(&[], false, &[], Verdict::Keep);
        check(&[Solid, Solid], false, &[], Verdict::Keep);
        check(
            &[Solid, Dangling, Waiting],
            true,
            &[],
            Verdict::Disown(vec!["1".into(), "2".into()]),
        );
        check(&[Dangling], true, &[], delete("Background"));
        check(&[Dangling], false, &["orphan"], delete("Orphan"));
        check(&[Dangling], false, &["foregroundDeletion"], delete("Foreground"));
        check(&[Waiting], true, &[], delete("Foreground"));
        check(&[Waiting, Dangling], false, &[], delete("Background"));
    }
}
