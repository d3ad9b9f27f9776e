//! Resource claims: counted, and the devices they ask for by device class.

use super::{Amounts, Evaluator, amounts};
use jiff::Timestamp;
use machinery::Value;

const COUNT: &str = "count/resourceclaims.resource.k8s.io";
const BY_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// Devices one claim can hold: what a request for all devices is charged.
const MOST_DEVICES: i64 = 32;

pub(super) struct DeviceClaims;

impl Evaluator for DeviceClaims {
    fn charges(&self, name: &str) -> bool {
        name == COUNT || name.ends_with(BY_CLASS)
    }

    fn usage(&self, claim: &Value, _: Timestamp) -> Amounts {
        let mut used = Amounts::from([(COUNT.to_owned(), amounts::count(1))]);
        let requests = claim
            .get_path(&["spec", "devices", "requests"])
            .and_then(Value::as_array)
            .unwrap_or_default();
        for request in requests {
            // Of alternatives each class is charged the most any of them asks.
            let mut most = Amounts::new();
            let alternatives = request
                .get("firstAvailable")
                .and_then(Value::as_array)
                .unwrap_or_default();
            for wanted in request.get("exactly").into_iter().chain(alternatives) {
                let class = wanted
                    .get("deviceClassName")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                let number = match wanted.get("allocationMode").and_then(Value::as_str) {
                    Some("All") => MOST_DEVICES,
                    _ => wanted.get("count").and_then(Value::as_i64).unwrap_or(1),
                };
                let asked = Amounts::from([(format!("{class}{BY_CLASS}"), amounts::count(number))]);
                amounts::raise(&mut most, &asked);
            }
            amounts::add(&mut used, &most);
        }
        used
    }
}
