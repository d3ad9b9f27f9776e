//! What the probes have found, by container id.
//!
//! **Invariant:** a result belongs to one container instance; a restarted container has another id and begins
//! without results.

use std::collections::HashMap;

use parking_lot::RwLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Unknown,
    Success,
    Failure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    /// The word at the beginning of an event's message.
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// Before the first probe of a container has ended.
    pub fn initial(self) -> Outcome {
        match self {
            Self::Startup => Outcome::Unknown,
            Self::Readiness => Outcome::Failure,
            Self::Liveness => Outcome::Success,
        }
    }
}

/// The results of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    outcomes: HashMap<(ProbeKind, String), Outcome>,
}

impl Snapshot {
    pub fn with(mut self, kind: ProbeKind, container_id: &str, outcome: Outcome) -> Self {
        self.outcomes.insert((kind, container_id.to_owned()), outcome);
        self
    }

    pub fn get(&self, kind: ProbeKind, container_id: &str) -> Option<Outcome> {
        self.outcomes.get(&(kind, container_id.to_owned())).copied()
    }

    pub fn startup(&self, id: &str) -> Option<Outcome> {
        self.get(ProbeKind::Startup, id)
    }

    pub fn readiness(&self, id: &str) -> Option<Outcome> {
        self.get(ProbeKind::Readiness, id)
    }

    pub fn liveness(&self, id: &str) -> Option<Outcome> {
        self.get(ProbeKind::Liveness, id)
    }
}

/// The results of one pod, shared by its probes and its worker.
#[derive(Debug, Default)]
pub struct Results {
    inner: RwLock<Snapshot>,
}

impl Results {
    /// Returns whether this was news.
    pub fn set(&self, kind: ProbeKind, container_id: &str, outcome: Outcome) -> bool {
        let mut inner = self.inner.write();
        inner.outcomes.insert((kind, container_id.to_owned()), outcome) != Some(outcome)
    }

    pub fn remove(&self, kind: ProbeKind, container_id: &str) {
        self.inner
            .write()
            .outcomes
            .remove(&(kind, container_id.to_owned()));
    }

    pub fn snapshot(&self) -> Snapshot {
        self.inner.read().clone()
    }
}
