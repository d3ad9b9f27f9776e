//! ResourceClaim.

use crate::KindInfo;
use crate::fields::{fill_number, fill_text, list_mut, object_mut};
use crate::strategy::Strategy;
use machinery::{Map, Value};

pub(crate) struct ResourceClaim;

impl Strategy for ResourceClaim {
    fn default(&self, object: &mut Value) {
        claim_spec(object.get_mut("spec"));
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        false
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }
}

/// Fills a claim's spec, or a template's.
pub(super) fn claim_spec(spec: Option<&mut Value>) {
    let Some(devices) = spec.and_then(|spec| spec.get_mut("devices")) else {
        return;
    };
    for request in list_mut(devices, "requests") {
        if let Some(exact) = object_mut(request, "exactly") {
            device_request(exact);
        }
        for alternative in list_mut(request, "firstAvailable") {
            if let Some(alternative) = alternative.as_object_mut() {
                device_request(alternative);
            }
        }
    }
}

fn device_request(request: &mut Map) {
    fill_text(request, "allocationMode", "ExactCount");
    if request.get("allocationMode").and_then(Value::as_str) == Some("ExactCount") {
        fill_number(request, "count", 1);
    }
}
