//! The group `admissionregistration.k8s.io`.

use crate::Entry;

mod mutating_admission_policy;
mod mutating_admission_policy_binding;
mod mutating_webhook_configuration;
mod validating_admission_policy;
mod validating_admission_policy_binding;
mod validating_webhook_configuration;
mod validation;

pub(crate) use validation::client_config;

const GROUP: &str = "admissionregistration.k8s.io";

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[
    (
        GROUP,
        "mutatingadmissionpolicies",
        &mutating_admission_policy::MutatingAdmissionPolicy,
    ),
    (
        GROUP,
        "mutatingadmissionpolicybindings",
        &mutating_admission_policy_binding::MutatingAdmissionPolicyBinding,
    ),
    (
        GROUP,
        "mutatingwebhookconfigurations",
        &mutating_webhook_configuration::MutatingWebhookConfiguration,
    ),
    (
        GROUP,
        "validatingadmissionpolicies",
        &validating_admission_policy::ValidatingAdmissionPolicy,
    ),
    (
        GROUP,
        "validatingadmissionpolicybindings",
        &validating_admission_policy_binding::ValidatingAdmissionPolicyBinding,
    ),
    (
        GROUP,
        "validatingwebhookconfigurations",
        &validating_webhook_configuration::ValidatingWebhookConfiguration,
    ),
];
