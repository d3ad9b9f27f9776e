//! MutatingAdmissionPolicy.

use super::validating_admission_policy::policy_defaults;
use crate::KindInfo;
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct MutatingAdmissionPolicy;

impl Strategy for MutatingAdmissionPolicy {
    fn default(&self, object: &mut Value) {
        policy_defaults(object);
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}
