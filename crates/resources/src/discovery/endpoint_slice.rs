//! EndpointSlice.

use crate::KindInfo;
use crate::fields::{fill, list_mut, same};
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn default(&self, object: &mut Value) {
        for port in list_mut(object, "ports") {
            if let Some(port) = port.as_object_mut() {
                fill(port, "name", "");
                fill(port, "protocol", "TCP");
            }
        }
    }

    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    /// Everything but the metadata counts, and the labels.
    fn spec_changed(&self, new: &Value, old: &Value) -> bool {
        let parts = [
            &["addressType"][..],
            &["endpoints"],
            &["ports"],
            &["metadata", "labels"],
        ];
        parts.iter().any(|path| !same(new, old, path))
    }
}
