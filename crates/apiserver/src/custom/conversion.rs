//! Conversion of custom objects between versions by a webhook.
//!
//! What the store holds in another version than the one asked for is sent to the webhook, many objects in one review
//! where many are wanted; what it made is remembered for as long as the stored object is the same. Handlers
//! [`prepare`](Conversion::prepare) what they are about to answer. Where an object is needed in the midst of work that
//! does not wait, the thread does, and its other tasks go on elsewhere.
//!
//! **Invariant:** a webhook changes nothing of an object's identity, and of its metadata only labels and annotations;
//! it costs one request at most [`TIMEOUT`]. Filling the cache never asks it.

use access::Objects;
use access::admission::endpoint::{Call as _, Endpoint, Https};
use compact_str::CompactString;
use hashbrown::HashMap;
use machinery::{Map, Value, codec, meta};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};

/// How long a webhook may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Converted objects kept.
const MOST_KEPT: usize = 4096;
const GROUP: &str = "apiextensions.k8s.io";
/// Reviews we speak.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// An object at a revision, in a version.
type Key = (CompactString, u64, CompactString);

/// How a kind's objects are converted.
pub(crate) struct Conversion {
    endpoint: Endpoint,
    review: Option<&'static str>,
    https: Https,
    objects: Arc<dyn Objects>,
    kept: Mutex<HashMap<Key, Arc<Value>>>,
}

impl Conversion {
    /// Reads a definition's `spec.conversion.webhook`.
    pub(super) fn new(webhook: &Value, objects: Arc<dyn Objects>) -> Self {
        let versions = webhook
            .get("conversionReviewVersions")
            .and_then(Value::as_array)
            .unwrap_or_default();
        let mut versions = versions.iter().filter_map(Value::as_str);
        Self {
            endpoint: Endpoint::read(webhook.get("clientConfig")),
            review: versions.find_map(|wanted| REVIEWS.into_iter().find(|known| *known == wanted)),
            https: Https::default(),
            objects,
            kept: Mutex::default(),
        }
    }

    /// Converts stored objects beforehand, all in one review.
    pub(crate) async fn prepare(&self, stored: Vec<(Value, u64)>, to: &str) -> Result<(), String> {
        let missing: Vec<(Value, u64)> = stored
            .into_iter()
            .filter(|(object, revision)| {
                crate::object::text(object, "apiVersion") != to
                    && !self.kept.lock().contains_key(&key(object, *revision, to))
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let keys: Vec<Key> = missing
            .iter()
            .map(|(object, revision)| key(object, *revision, to))
            .collect();
        let objects: Vec<Value> = missing.into_iter().map(|(object, _)| object).collect();
        let converted = self.convert(objects, to).await?;
        let mut kept = self.kept.lock();
        if kept.len() + converted.len() > MOST_KEPT {
            kept.clear();
        }
        kept.extend(keys.into_iter().zip(converted.into_iter().map(Arc::new)));
        Ok(())
    }

    /// A stored object in another version.
    pub(crate) fn stored(&self, object: Value, revision: u64, to: &str) -> Result<Value, String> {
        let key = key(&object, revision, to);
        if let Some(known) = self.kept.lock().get(&key) {
            return Ok(Value::clone(known));
        }
        let converted = self.now(object, to)?;
        let mut kept = self.kept.lock();
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.insert(key, Arc::new(converted.clone()));
        Ok(converted)
    }

    /// An object in another version, where nobody can wait but the thread.
    pub(crate) fn now(&self, object: Value, to: &str) -> Result<Value, String> {
        let handle = Handle::try_current().map_err(|error| error.to_string())?;
        if handle.runtime_flavor() != RuntimeFlavor::MultiThread {
            return Err("a webhook cannot be asked from here".to_owned());
        }
        let converted = tokio::task::block_in_place(|| handle.block_on(self.convert(vec![object], to)))?;
        converted
            .into_iter()
            .next()
            .ok_or_else(|| "no objects returned".to_owned())
    }

    /// Objects of one kind in another version.
    async fn convert(&self, objects: Vec<Value>, to: &str) -> Result<Vec<Value>, String> {
        let kind = objects.first().map_or_else(String::new, |object| {
            let text = |field: &str| crate::object::text(object, field);
            format!("{}, Kind={}", text("apiVersion"), text("kind"))
        });
        let failed = |why: String| format!("conversion webhook for {kind} failed: {why}");
        let review = self
            .review
            .ok_or_else(|| failed("no supported conversion review versions".to_owned()))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let asked = self.https.post(
            &self.endpoint,
            &*self.objects,
            "timeout=30s",
            request(review, &uid, to, &objects),
        );
        let url = self.endpoint.url("timeout=30s");
        let said = tokio::time::timeout(TIMEOUT, asked)
            .await
            .map_err(|_| "context deadline exceeded".to_owned())
            .and_then(|said| said.map_err(|error| error.to_string()));
        let (code, body) = said.map_err(|why| failed(format!("Post {url:?}: {why}")))?;
        if !(200..300).contains(&code) {
            let text = String::from_utf8_lossy(&body[..body.len().min(2048)]).into_owned();
            return Err(failed(format!("the server answered {code}: {text}")));
        }
        let converted = answer(&body, review, &uid).map_err(failed)?;
        if converted.len() != objects.len() {
            return Err(format!(
                "conversion webhook for {kind} returned {} objects, expected {}",
                converted.len(),
                objects.len()
            ));
        }
        let pairs = objects.iter().zip(converted).enumerate();
        pairs
            .map(|(index, (original, converted))| {
                settled(original, converted, to).map_err(|why| {
                    format!(
                        "conversion webhook for {kind} returned invalid converted object at index {index}: {why}"
                    )
                })
            })
            .collect()
    }
}

fn key(object: &Value, revision: u64, to: &str) -> Key {
    (meta::uid(object).into(), revision, to.into())
}

fn request(review: &str, uid: &str, to: &str, objects: &[Value]) -> Vec<u8> {
    let request: Map = [
        ("desiredAPIVersion", Value::from(to)),
        ("objects", Value::Array(objects.to_vec())),
        ("uid", uid.into()),
    ]
    .into_iter()
    .collect();
    let review: Map = [
        ("apiVersion", Value::from(format!("{GROUP}/{review}"))),
        ("kind", "ConversionReview".into()),
        ("request", request.into()),
    ]
    .into_iter()
    .collect();
    codec::json::to_vec(&Value::Object(review))
}

/// The objects of an answer, if it is one to our review.
fn answer(body: &[u8], review: &str, uid: &str) -> Result<Vec<Value>, String> {
    let mut answer = codec::json::decode_any(body)
        .map_err(|error| error.to_string())?
        .value;
    let text = |answer: &Value, path: &[&str]| answer.get_str_path(path).unwrap_or_default().to_owned();
    let (version, kind) = (text(&answer, &["apiVersion"]), text(&answer, &["kind"]));
    if version != format!("{GROUP}/{review}") || kind != "ConversionReview" {
        return Err(format!(
            "expected webhook response of {GROUP}/{review}, Kind=ConversionReview, got {version}, Kind={kind}"
        ));
    }
    if answer.get("response").is_none_or(Value::is_null) {
        return Err("no response provided".to_owned());
    }
    let said = text(&answer, &["response", "uid"]);
    if said != uid {
        return Err(format!("expected response.uid={uid:?}, got {said:?}"));
    }
    let status = text(&answer, &["response", "result", "status"]);
    if status != "Success" {
        let message = text(&answer, &["response", "result", "message"]);
        return Err(if message.is_empty() {
            format!("response.result.status was '{status}', not 'Success'")
        } else {
            message
        });
    }
    match answer
        .get_path_mut(&["response", "convertedObjects"])
        .map(std::mem::take)
    {
        Some(Value::Array(objects)) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// A converted object with the metadata of the original, but for labels and annotations.
fn settled(original: &Value, mut converted: Value, to: &str) -> Result<Value, String> {
    let text = |of: &Value, path: &[&str]| of.get_str_path(path).unwrap_or_default().to_owned();
    let version = text(&converted, &["apiVersion"]);
    if version != to {
        return Err(format!(
            "invalid groupVersion (expected {to}, received {version})"
        ));
    }
    let (expected, kind) = (text(original, &["kind"]), text(&converted, &["kind"]));
    if expected != kind {
        return Err(format!("invalid kind (expected {expected}, received {kind})"));
    }
    if converted
        .get("metadata")
        .is_none_or(|metadata| metadata.as_object().is_none())
    {
        return Err("missing metadata in converted object".to_owned());
    }
    for (field, name) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (ours, theirs) = (
            text(original, &["metadata", field]),
            text(&converted, &["metadata", field]),
        );
        if ours != theirs {
            return Err(format!("must have the same {name}: {ours} != {theirs}"));
        }
    }
    let mut metadata = original.get("metadata").cloned().unwrap_or_else(Value::object);
    for field in ["labels", "annotations"] {
        let theirs = converted
            .get_path(&["metadata", field])
            .filter(|value| !value.is_null());
        let entries = theirs.and_then(Value::as_object).into_iter().flatten();
        if let Some((key, _)) = entries.into_iter().find(|(_, value)| value.as_str().is_none()) {
            return Err(format!(
                "metadata.{field}[{key}] must be a string in converted object"
            ));
        }
        let map = metadata.make_object();
        match theirs {
            Some(theirs) => {
                map.insert(field, theirs.clone());
            }
            None => {
                map.remove(field);
            }
        }
    }
    converted.make_object().insert("metadata", metadata);
    Ok(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Value {
        codec::json::decode_any(text.as_bytes()).unwrap().value
    }

    #[test]
    fn identity_is_not_a_webhooks_to_change() {
        let original = object(
            r#"{"apiVersion":"g/v1","kind":"K","metadata":{"name":"a","uid":"u","generation":3,"labels":{"a":"b"}}}"#,
        );
        let check = |converted: &str| settled(&original, object(converted), "g/v2");
        let labelled = check(
            r#"{"apiVersion":"g/v2","kind":"K","metadata":{"name":"a","uid":"u","generation":9,"annotations":{"x":"y"}},"spec":1}"#,
        );
        assert_eq!(
            labelled,
            Ok(object(
                r#"{"apiVersion":"g/v2","kind":"K","metadata":{"name":"a","uid":"u","generation":3,"annotations":{"x":"y"}},"spec":1}"#
            ))
        );
        for (converted, why) in [
            (
                r#"{"apiVersion":"g/v1","kind":"K","metadata":{"name":"a","uid":"u"}}"#,
                "invalid groupVersion",
            ),
            (
                r#"{"apiVersion":"g/v2","kind":"L","metadata":{"name":"a","uid":"u"}}"#,
                "invalid kind",
            ),
            (r#"{"apiVersion":"g/v2","kind":"K"}"#, "missing metadata"),
            (
                r#"{"apiVersion":"g/v2","kind":"K","metadata":{"name":"b","uid":"u"}}"#,
                "must have the same name",
            ),
            (
                r#"{"apiVersion":"g/v2","kind":"K","metadata":{"name":"a"}}"#,
                "must have the same UID",
            ),
            (
                r#"{"apiVersion":"g/v2","kind":"K","metadata":{"name":"a","uid":"u","labels":{"n":1}}}"#,
                "must be a string",
            ),
        ] {
            let said = check(converted).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn only_answers_to_our_review_count() {
        let check = |text: &str| answer(text.as_bytes(), "v1", "u").map(|objects| objects.len());
        let of = |response: &str| {
            format!(
                r#"{{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview","response":{response}}}"#
            )
        };
        assert_eq!(
            check(&of(
                r#"{"uid":"u","result":{"status":"Success"},"convertedObjects":[{}]}"#
            )),
            Ok(1)
        );
        for (text, why) in [
            ("not json".to_owned(), ""),
            (of("null"), "no response provided"),
            (of(r#"{"uid":"x"}"#), "expected response.uid"),
            (
                of(r#"{"uid":"u","result":{"status":"Failure","message":"no way"}}"#),
                "no way",
            ),
            (of(r#"{"uid":"u"}"#), "not 'Success'"),
            ("{}".to_owned(), "expected webhook response of"),
        ] {
            assert!(check(&text).unwrap_err().contains(why), "{text}");
        }
    }
}
