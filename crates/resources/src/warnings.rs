//! Warnings that several kinds give.

use machinery::{Value, meta, names};

/// Names that become part of the pods' hostnames should be labels.
pub(crate) fn hostname(object: &Value) -> Option<String> {
    let wrong = names::dns1123_label(meta::name(object));
    (!wrong.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS \
             label is recommended: [{}]",
            wrong.join(" ")
        )
    })
}
