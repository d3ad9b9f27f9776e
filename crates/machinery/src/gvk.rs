//! gvk
