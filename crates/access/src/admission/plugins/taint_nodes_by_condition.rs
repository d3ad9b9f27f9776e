//! `TaintNodesByCondition`: a new node takes no pods until it is known to be ready.

use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::Value;
use machinery::status::ApiError;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        operation == Operation::Create && target.is("", "nodes")
    }

    async fn admit(&self, _: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), ApiError> {
        let Some(node) = object else { return Ok(()) };
        let taints = node.make_object().object_entry("spec").entry_or_null("taints");
        if !matches!(taints, Value::Array(_)) {
            *taints = Value::Array(Vec::new());
        }
        if let Some(taints) = taints.as_array_mut() {
            let text =
                |taint: &Value, field: &str| taint.get(field).and_then(Value::as_str).map(str::to_owned);
            let there = |taint: &Value| {
                text(taint, "key").as_deref() == Some(NOT_READY)
                    && text(taint, "effect").as_deref() == Some("NoSchedule")
            };
            if !taints.iter().any(there) {
                taints.push(Value::Object(
                    [("effect", "NoSchedule"), ("key", NOT_READY)]
                        .into_iter()
                        .collect(),
                ));
            }
        }
        Ok(())
    }
}
