//! The group `storage.k8s.io`.

use crate::Entry;

mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod storage_class;
mod volume_attachment;
mod volume_attributes_class;

const GROUP: &str = "storage.k8s.io";

/// The group's kinds.
pub(crate) const ALL: &[Entry] = &[
    (GROUP, "csidrivers", &csi_driver::CsiDriver),
    (GROUP, "csinodes", &csi_node::CsiNode),
    (
        GROUP,
        "csistoragecapacities",
        &csi_storage_capacity::CsiStorageCapacity,
    ),
    (GROUP, "storageclasses", &storage_class::StorageClass),
    (GROUP, "volumeattachments", &volume_attachment::VolumeAttachment),
    (
        GROUP,
        "volumeattributesclasses",
        &volume_attributes_class::VolumeAttributesClass,
    ),
];
