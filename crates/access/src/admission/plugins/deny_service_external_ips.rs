//! `DenyServiceExternalIPs`: no Service takes external addresses it did not have.

use crate::admission::{Attributes, Operation, Plugin, Target};
use async_trait::async_trait;
use machinery::Value;
use machinery::status::ApiError;

pub(super) struct DenyServiceExternalIPs;

#[async_trait]
impl Plugin for DenyServiceExternalIPs {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, operation: Operation, target: &Target<'_>) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && target.is("", "services")
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let old = addresses(attributes.old);
        if addresses(object).iter().all(|address| old.contains(address)) {
            return Ok(());
        }
        Err(attributes.forbidden(object, "Use of external IPs is denied by admission control"))
    }
}

fn addresses(service: Option<&Value>) -> &[Value] {
    service
        .and_then(|service| service.get_path(&["spec", "externalIPs"]))
        .and_then(Value::as_array)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Ask, object};
    use super::*;

    #[test]
    fn addresses_can_only_go() {
        let old = r#"{"spec":{"externalIPs":["1.2.3.4","1.2.3.5"]}}"#;
        for (new, allowed) in [
            (r#"{"spec":{}}"#, true),
            (r#"{"spec":{"externalIPs":["1.2.3.4"]}}"#, true),
            (r#"{"spec":{"externalIPs":["1.2.3.6"]}}"#, false),
        ] {
            let asked = Ask::update(("", "services", "ns"), old);
            let said = asked.of(&DenyServiceExternalIPs, Vec::new(), &mut object(new));
            assert_eq!(said.is_ok(), allowed, "{new}");
        }
    }
}
