//! MutatingAdmissionPolicyBinding.

use super::validating_admission_policy::match_resources;
use crate::KindInfo;
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct MutatingAdmissionPolicyBinding;

impl Strategy for MutatingAdmissionPolicyBinding {
    fn default(&self, object: &mut Value) {
        match_resources(object.get_path_mut(&["spec", "matchResources"]));
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}
