//! ResourceQuota.

use crate::pod_spec::resources;
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn default(&self, object: &mut Value) {
        for path in [["spec", "hard"], ["status", "hard"], ["status", "used"]] {
            resources::round(object.get_path_mut(&path));
        }
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }
}
