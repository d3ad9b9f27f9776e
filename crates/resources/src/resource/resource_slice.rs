//! ResourceSlice.

use crate::KindInfo;
use crate::fields::text_at;
use crate::strategy::Strategy;
use machinery::Value;

pub(crate) struct ResourceSlice;

impl Strategy for ResourceSlice {
    fn tracks_generation(&self, _kind: &KindInfo) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.nodeName", "spec.driver"]
    }

    fn select(&self, object: &Value) -> Vec<compact_str::CompactString> {
        ["nodeName", "driver"]
            .map(|field| text_at(object, &["spec", field]).into())
            .to_vec()
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }
}
