//! Decoding objects as tolerantly as upstream's clients do: what is absent or null is zero.
//!
//! The types of `k8s-openapi` refuse an object in which a required time is missing, as the `lastTransitionTime` of a
//! condition may be: the API takes such objects, and Go reads them. An object that is refused is therefore read once
//! more, every required field that is absent or null counting as its type's zero. Objects that are whole, which is
//! nearly all, are decoded once and pay nothing.

use serde::de::value::{BorrowedStrDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde_json::Value;

type Error = serde_json::Error;

/// Decodes JSON text.
pub fn from_str<K: DeserializeOwned>(text: &str) -> Result<K, Error> {
    serde_json::from_str(text).or_else(|strict| {
        if !strict.is_data() {
            return Err(strict);
        }
        let value: Value = serde_json::from_str(text)?;
        K::deserialize(Lenient(&value)).map_err(|_| strict)
    })
}

/// A value; null stands for whatever is absent.
#[derive(Clone, Copy)]
struct Lenient<'a>(&'a Value);

/// The zero of Go's times.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// What a required type is when nothing is said.
macro_rules! zero {
    ($($method:ident => $visit:ident($zero:expr);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0 {
                Value::Null => visitor.$visit($zero),
                value => value.$method(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Lenient<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
            value => value.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match (name, self.0) {
            ("Time" | "MicroTime", Value::Null) => {
                visitor.visit_newtype_struct(BorrowedStrDeserializer::new(ZERO_TIME))
            }
            ("Quantity", Value::Null) => visitor.visit_newtype_struct(BorrowedStrDeserializer::new("0")),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items = match self.0 {
            Value::Null => &[][..],
            Value::Array(items) => items,
            value => return value.deserialize_seq(visitor),
        };
        visitor.visit_seq(SeqDeserializer::new(items.iter().map(Lenient)))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_struct("", &[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let object = match self.0 {
            Value::Null => None,
            Value::Object(object) => Some(object),
            value => return value.deserialize_map(visitor),
        };
        let said = object.into_iter().flatten();
        let said = said.map(|(key, value)| (key.as_str(), Lenient(value)));
        // What kind an object is has no zero: it may be left unsaid.
        let absent = fields.iter().filter(|field| {
            !matches!(**field, "apiVersion" | "kind") && object.is_none_or(|o| !o.contains_key(**field))
        });
        let absent = absent.map(|field| (*field, Lenient(&Value::Null)));
        visitor.visit_map(MapDeserializer::new(said.chain(absent)))
    }

    zero! {
        deserialize_bool => visit_bool(false);
        deserialize_i8 => visit_i8(0);
        deserialize_i16 => visit_i16(0);
        deserialize_i32 => visit_i32(0);
        deserialize_i64 => visit_i64(0);
        deserialize_u8 => visit_u8(0);
        deserialize_u16 => visit_u16(0);
        deserialize_u32 => visit_u32(0);
        deserialize_u64 => visit_u64(0);
        deserialize_f32 => visit_f32(0.0);
        deserialize_f64 => visit_f64(0.0);
        deserialize_str => visit_borrowed_str("");
        deserialize_string => visit_borrowed_str("");
        deserialize_bytes => visit_borrowed_bytes(b"");
        deserialize_byte_buf => visit_borrowed_bytes(b"");
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Lenient<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Pod, Service};
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    use serde_json::json;

    #[test]
    fn conditions_without_a_time_are_read() {
        let check = |time: Value| {
            let mut condition = json!({"type": "T", "status": "True", "reason": "R", "message": "m"});
            if time != json!("absent") {
                condition["lastTransitionTime"] = time.clone();
            }
            let budget = json!({
                "metadata": {"name": "b", "labels": {"a": "b"}, "creationTimestamp": null},
                "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"x": "y"}}},
                "status": {"conditions": [condition], "currentHealthy": 1, "disruptionsAllowed": 2,
                    "desiredHealthy": 3, "expectedPods": 4, "disruptedPods": {"p": "2026-01-01T00:00:00Z"}},
            });
            let read: PodDisruptionBudget = from_str(&budget.to_string()).expect("budget");
            let status = read.status.expect("status");
            assert_eq!(status.disruptions_allowed, Some(2));
            assert_eq!(status.disrupted_pods.expect("pods").len(), 1);
            let condition = &status.conditions.expect("conditions")[0];
            assert_eq!(condition.last_transition_time.0.to_string(), ZERO_TIME, "{time}");
            assert_eq!((condition.type_.as_str(), condition.reason.as_str()), ("T", "R"));
            assert_eq!(read.metadata.labels.expect("labels")["a"], "b");
            let spec = read.spec.expect("spec");
            assert_eq!(
                serde_json::to_value(spec.min_available).expect("json"),
                json!("50%")
            );
        };
        check(json!("absent"));
        check(Value::Null);
    }

    #[test]
    fn other_kinds_of_values_survive_the_second_reading() {
        let service = json!({
            "metadata": {"name": "s", "annotations": {"k": "v"}},
            "spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8081}], "clusterIPs": ["1.2.3.4"]},
            "status": {"conditions": [{"type": "T", "status": "True"}]},
        });
        let read: Service = from_str(&service.to_string()).expect("service");
        let ports = read.spec.expect("spec").ports.expect("ports");
        let targets = serde_json::to_value(ports.iter().map(|p| &p.target_port).collect::<Vec<_>>());
        assert_eq!(targets.expect("json"), json!(["http", 8081]));
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        let check = |text: &str, expected: &str| {
            let error = from_str::<Pod>(text).expect_err("an error").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(r#"{"metadata": {"name": 5}}"#, "invalid type");
        check(r#"{"metadata": "#, "EOF");
    }
}
