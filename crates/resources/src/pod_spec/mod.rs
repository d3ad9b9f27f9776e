//! What everything that holds a pod's spec shares: Pods, and the templates of workloads.

pub mod app_armor;
pub mod defaults;
pub mod disabled;
pub mod image;
pub mod pod_level;
pub mod qos;
pub mod resources;
pub mod validation;
pub mod volume_defaults;
pub mod warnings;

pub use defaults::{pod_spec, pod_template};
pub use disabled::{TEMPLATE, drop_disabled};
pub use warnings::template_warnings;
