//! The group `rbac.authorization.k8s.io`.

use crate::Entry;

mod cluster_role;
mod cluster_role_binding;
mod role;
mod role_binding;
mod validation;

const GROUP: &str = "rbac.authorization.k8s.io";

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[
    (
        GROUP,
        "clusterrolebindings",
        &cluster_role_binding::ClusterRoleBinding,
    ),
    (GROUP, "clusterroles", &cluster_role::ClusterRole),
    (GROUP, "rolebindings", &role_binding::RoleBinding),
    (GROUP, "roles", &role::Role),
];
