//! The group `events.k8s.io`, whose events are those of the core group under other names of fields.

use crate::Entry;

mod event;

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[("events.k8s.io", "events", &event::Event)];
