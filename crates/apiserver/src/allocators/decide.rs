//! What is to be done about the object of one address.

use jiff::{SignedDuration, Timestamp};

/// Whose objects these are.
pub(super) const MANAGED_BY: &str = "ipallocator.k8s.io";
/// An object nobody was seen to own may be ahead of its Service: another server makes it first. Upstream's number.
const ORPHAN_AGE: SignedDuration = SignedDuration::from_secs(60);

/// A Service, by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub namespace: String,
    pub name: String,
}

/// An IPAddress that stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Standing {
    pub uid: String,
    pub created: Timestamp,
    /// Labelled as the allocator's, with the right family.
    pub managed: bool,
    /// The Service its parent reference names; none if it names something else.
    pub parent: Option<Owner>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Action {
    Nothing,
    Create(Owner),
    /// What stands there is wrong: the one is removed, the other made.
    Replace(Owner),
    Remove,
    /// Look again then.
    Wait(Timestamp),
}

/// `owners`: the Services that hold the address; `released`: one of them was seen to give it up.
pub(super) fn decide(
    owners: &[Owner],
    standing: Option<&Standing>,
    released: bool,
    now: Timestamp,
) -> Action {
    match (owners.first(), standing) {
        (None, None) => Action::Nothing,
        (Some(owner), None) => Action::Create(owner.clone()),
        (Some(owner), Some(standing)) => {
            let right = standing.parent.as_ref().is_some_and(|p| owners.contains(p));
            if right && standing.managed {
                Action::Nothing
            } else {
                Action::Replace(owner.clone())
            }
        }
        (None, Some(standing)) if !standing.managed => Action::Nothing,
        // Nothing but a Service ever stands behind the allocator's own.
        (None, Some(standing)) if released || standing.parent.is_none() => Action::Remove,
        (None, Some(standing)) => match standing.created.checked_add(ORPHAN_AGE) {
            Ok(due) if due > now => Action::Wait(due),
            _ => Action::Remove,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Owner {
        Owner {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    fn standing(parent: Option<&str>, managed: bool) -> Standing {
        Standing {
            uid: "u".to_owned(),
            created: Timestamp::UNIX_EPOCH,
            managed,
            parent: parent.map(owner),
        }
    }

    #[track_caller]
    fn check(owners: &[&str], standing: Option<Standing>, released: bool, seconds: i64, want: Action) {
        let owners: Vec<Owner> = owners.iter().map(|name| owner(name)).collect();
        let now = Timestamp::from_second(seconds).unwrap();
        assert_eq!(decide(&owners, standing.as_ref(), released, now), want);
    }

    #[test]
    fn an_address_that_is_held_has_its_object() {
        check(&["a"], None, false, 0, Action::Create(owner("a")));
        check(&["a"], Some(standing(Some("a"), true)), false, 0, Action::Nothing);
        check(
            &["a", "b"],
            Some(standing(Some("b"), true)),
            false,
            0,
            Action::Nothing,
        );
        check(
            &["a"],
            Some(standing(Some("b"), true)),
            false,
            0,
            Action::Replace(owner("a")),
        );
        check(
            &["a"],
            Some(standing(None, true)),
            false,
            0,
            Action::Replace(owner("a")),
        );
        check(
            &["a"],
            Some(standing(Some("a"), false)),
            false,
            0,
            Action::Replace(owner("a")),
        );
    }

    #[test]
    fn an_address_that_is_free_has_none() {
        check(&[], None, true, 0, Action::Nothing);
        check(&[], Some(standing(Some("a"), true)), true, 0, Action::Remove);
        check(&[], Some(standing(None, true)), false, 0, Action::Remove);
        let due = Timestamp::from_second(60).unwrap();
        check(&[], Some(standing(Some("a"), true)), false, 59, Action::Wait(due));
        check(&[], Some(standing(Some("a"), true)), false, 60, Action::Remove);
    }

    #[test]
    fn objects_of_others_are_left_alone() {
        check(&[], Some(standing(None, false)), false, 1000, Action::Nothing);
        check(&[], Some(standing(Some("a"), false)), true, 1000, Action::Nothing);
    }
}
