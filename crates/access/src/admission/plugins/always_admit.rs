//! `AlwaysAdmit`: says yes. Kept because configurations name it.

use crate::admission::{Operation, Plugin, Target};
use async_trait::async_trait;

pub(super) struct AlwaysAdmit;

#[async_trait]
impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }

    fn handles(&self, _: Operation, _: &Target<'_>) -> bool {
        false
    }
}
