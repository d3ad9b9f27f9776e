//! `AlwaysDeny`: says no.

use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::Value;
use machinery::status::ApiError;

pub(super) struct AlwaysDeny;

#[async_trait]
impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn handles(&self, _: Operation, _: &Target<'_>) -> bool {
        true
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        Err(attributes.forbidden(object, "admission control is denying all modifications"))
    }
}
