//! ControllerRevision: a snapshot of a workload's template, never changed once it is made.

use crate::strategy::Strategy;

pub(crate) struct ControllerRevision;

impl Strategy for ControllerRevision {}
