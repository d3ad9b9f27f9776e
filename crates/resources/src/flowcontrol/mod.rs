//! The group `flowcontrol.apiserver.k8s.io`.

use crate::Entry;

mod flow_schema;
mod priority_level_configuration;
mod status;
mod validation;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[
    (GROUP, "flowschemas", &flow_schema::FlowSchema),
    (
        GROUP,
        "prioritylevelconfigurations",
        &priority_level_configuration::PriorityLevelConfiguration,
    ),
];
