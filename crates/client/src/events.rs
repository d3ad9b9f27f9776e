//! Events: said once with a count instead of many times, from a bounded queue that never holds up its caller.
//!
//! Two styles, as upstream's components use them: `v1` events (controllers, kubelet) with aggregation of
//! similar messages, spam filter and counts; `events.k8s.io/v1` events (scheduler) with series.
//! The decision what to write is [`Correlator`], without clock or network; a task carries it out.
//!
//! An event that cannot be written is tried again a few times and then dropped: events are best effort.

use crate::error::ApiErrorExt as _;
use hashbrown::HashMap;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as CoreEvent, EventSource, ObjectReference};
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use machinery::clock::Clock;
use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// An event's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    Normal,
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Who speaks, and in which style.
#[derive(Debug, Clone)]
pub enum Source {
    /// `v1` events with a count.
    Counted { component: String, host: String },
    /// `events.k8s.io/v1` events with a series.
    Series { controller: String, instance: String },
}

impl Source {
    pub fn counted(component: &str) -> Self {
        Self::Counted {
            component: component.to_owned(),
            host: String::new(),
        }
    }
}

/// Something to say about an object.
#[derive(Debug, Clone)]
struct Said {
    about: ObjectReference,
    severity: Severity,
    reason: &'static str,
    action: &'static str,
    message: String,
    at: Timestamp,
}

/// Takes events from a component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Said>,
    clock: Arc<dyn Clock>,
}

/// As many events may wait to be written as upstream's broadcaster queues.
const QUEUE: usize = 1000;

impl Recorder {
    /// Starts the task that writes. Must be called inside a tokio runtime; the task ends with the last clone.
    pub fn new(client: kube::Client, source: Source, clock: Arc<dyn Clock>) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(write_all(client, source, receiver));
        Self { queue, clock }
    }

    /// Says something about an object. Never waits; when the queue is full the event is dropped and counted in the log.
    pub fn event(
        &self,
        about: &ObjectReference,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.event_with_action(about, severity, reason, reason, message);
    }

    /// As [`Self::event`], with the action that a series event names apart from its reason.
    pub fn event_with_action(
        &self,
        about: &ObjectReference,
        severity: Severity,
        reason: &'static str,
        action: &'static str,
        message: impl Into<String>,
    ) {
        let said = Said {
            about: about.clone(),
            severity,
            reason,
            action,
            message: message.into(),
            at: self.clock.now(),
        };
        if self.queue.try_send(said).is_err() {
            tracing::debug!(reason, "event dropped, the queue is full");
        }
    }

    pub fn normal(&self, about: &ObjectReference, reason: &'static str, message: impl Into<String>) {
        self.event(about, Severity::Normal, reason, message);
    }

    pub fn warning(&self, about: &ObjectReference, reason: &'static str, message: impl Into<String>) {
        self.event(about, Severity::Warning, reason, message);
    }
}

/// A reference to an object, as events carry it.
pub fn reference<K: kube::Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference {
        resource_version: object.meta().resource_version.clone(),
        ..object.object_ref(&())
    }
}

/// What to write.
#[derive(Debug, PartialEq)]
enum Write {
    Create {
        key: Key,
        message: String,
    },
    /// The event of this key has been seen so many times.
    Again {
        key: Key,
        name: String,
        message: String,
        count: i32,
        first: Timestamp,
    },
}

/// What makes two events the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    field_path: Option<String>,
    severity: Severity,
    reason: &'static str,
    /// Empty when similar messages are combined, and in series.
    message: String,
    /// In series only: once the object has changed the same may be said anew.
    version: Option<String>,
}

struct Known {
    name: String,
    count: i32,
    first: Timestamp,
    last: Timestamp,
}

/// How many different messages of one kind within [`SIMILAR_WITHIN`] are said one by one.
const SIMILAR: usize = 10;
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
/// Events about one object from one source: this many at once, then one in five minutes.
const BURST: f64 = 25.0;
const REFILL: f64 = 1.0 / 300.0;
/// A series ends when nothing was said for so long.
const SERIES_ENDS: Duration = Duration::from_secs(360);
const REMEMBERED: usize = 4096;

/// Decides for each thing said whether it is new, a repetition, or too much.
struct Correlator {
    series: bool,
    known: Remembered<Key, Known>,
    similar: Remembered<Key, (HashSet<String>, Timestamp)>,
    tokens: Remembered<Key, (f64, Timestamp)>,
}

impl Correlator {
    fn new(series: bool) -> Self {
        Self {
            series,
            known: Remembered::default(),
            similar: Remembered::default(),
            tokens: Remembered::default(),
        }
    }

    fn decide(&mut self, said: &Said) -> Option<Write> {
        let mut key = Key {
            kind: said.about.kind.clone(),
            namespace: said.about.namespace.clone(),
            name: said.about.name.clone(),
            uid: said.about.uid.clone(),
            field_path: said.about.field_path.clone(),
            severity: said.severity,
            reason: said.reason,
            message: String::new(),
            version: said.about.resource_version.clone().filter(|_| self.series),
        };
        if self.series {
            return self.decide_series(key, said);
        }
        let mut message = said.message.clone();
        if self.is_similar_to_many(&key, said) {
            message = format!("(combined from similar events): {message}");
        } else {
            key.message.clone_from(&said.message);
        }
        if self.is_spam(&key, said.at) {
            return None;
        }
        Some(match self.known.get_mut(&key) {
            Some(known) => {
                known.count = known.count.saturating_add(1);
                known.last = said.at;
                Write::Again {
                    name: known.name.clone(),
                    message,
                    count: known.count,
                    first: known.first,
                    key,
                }
            }
            None => Write::Create { key, message },
        })
    }

    fn decide_series(&mut self, key: Key, said: &Said) -> Option<Write> {
        let message = said.message.clone();
        let Some(known) = self.known.get_mut(&key) else {
            return Some(Write::Create { key, message });
        };
        let pause = since(said.at, known.last);
        if pause > SERIES_ENDS {
            return Some(Write::Create { key, message });
        }
        known.count = known.count.saturating_add(1);
        known.last = said.at;
        // The first repetition starts the series; later ones are only counted until it is refreshed.
        (known.count == 2 || known.count % 100 == 0).then(|| Write::Again {
            name: known.name.clone(),
            message,
            count: known.count,
            first: known.first,
            key,
        })
    }

    fn is_similar_to_many(&mut self, key: &Key, said: &Said) -> bool {
        let (messages, last) = self.similar.entry(key, || (HashSet::new(), said.at));
        if since(said.at, *last) > SIMILAR_WITHIN {
            messages.clear();
        }
        *last = said.at;
        messages.insert(said.message.clone());
        if messages.len() > SIMILAR {
            // Only that there are many is of interest; not which.
            if let Some(one) = messages.iter().find(|m| **m != said.message).cloned() {
                messages.remove(&one);
            }
            return messages.len() >= SIMILAR;
        }
        false
    }

    fn is_spam(&mut self, key: &Key, at: Timestamp) -> bool {
        let object = Key {
            severity: Severity::Normal,
            reason: "",
            message: String::new(),
            ..key.clone()
        };
        let (tokens, last) = self.tokens.entry(&object, || (BURST, at));
        *tokens = (*tokens + since(at, *last).as_secs_f64() * REFILL).min(BURST);
        *last = at;
        if *tokens < 1.0 {
            return true;
        }
        *tokens -= 1.0;
        false
    }

    fn created(&mut self, key: Key, name: String, at: Timestamp) {
        let known = Known {
            name,
            count: 1,
            first: at,
            last: at,
        };
        *self.known.entry(&key, || Known {
            name: String::new(),
            ..known
        }) = Known {
            name: known.name.clone(),
            ..known
        };
    }
}

fn since(later: Timestamp, earlier: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or(Duration::ZERO)
}

/// A map that forgets the keys it got first.
struct Remembered<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self {
            map: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Eq + Hash + Clone, V> Remembered<K, V> {
    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.map.get_mut(key)
    }

    fn entry(&mut self, key: &K, new: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(key) {
            if self.order.len() >= REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.map.entry(key.clone()).or_insert_with(new)
    }

    fn forget(&mut self, key: &K) {
        if self.map.remove(key).is_some() {
            self.order.retain(|k| k != key);
        }
    }
}

async fn write_all(client: kube::Client, source: Source, mut queue: mpsc::Receiver<Said>) {
    let mut correlator = Correlator::new(matches!(source, Source::Series { .. }));
    let mut stamp = 0;
    while let Some(said) = queue.recv().await {
        let Some(write) = correlator.decide(&said) else {
            continue;
        };
        let mut write = write;
        // Names are made of times, and two things may be said in one moment.
        stamp = said.at.as_nanosecond().max(stamp + 1);
        for attempt in 1..=4u32 {
            match carry_out(&client, &source, &said, stamp, &write).await {
                Ok(name) => {
                    if let (Write::Create { key, .. }, Some(name)) = (&write, name) {
                        correlator.created(key.clone(), name, said.at);
                    }
                    break;
                }
                // The event this repeats has expired: say it anew.
                Err(error) if error.is_not_found() && matches!(write, Write::Again { .. }) => {
                    if let Write::Again { key, message, .. } = write {
                        correlator.known.forget(&key);
                        write = Write::Create { key, message };
                    }
                }
                Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                    tracing::debug!(%status, reason = said.reason, "event refused");
                    break;
                }
                Err(error) => {
                    tracing::debug!(%error, attempt, "event not written");
                    tokio::time::sleep(Duration::from_millis(500) * attempt).await;
                }
            }
        }
    }
}

/// Writes; the name of a created event.
async fn carry_out(
    client: &kube::Client,
    source: &Source,
    said: &Said,
    stamp: i128,
    write: &Write,
) -> Result<Option<String>, kube::Error> {
    let namespace = match said.about.namespace.as_deref() {
        None | Some("") => "default",
        Some(namespace) => namespace,
    };
    let name = format!("{}.{:016x}", said.about.name.as_deref().unwrap_or(""), stamp);
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    };
    match (source, write) {
        (Source::Counted { component, host }, Write::Create { message, .. }) => {
            let event = CoreEvent {
                metadata,
                involved_object: said.about.clone(),
                reason: Some(said.reason.to_owned()),
                message: Some(message.clone()),
                type_: Some(said.severity.as_str().to_owned()),
                count: Some(1),
                first_timestamp: Some(Time(said.at)),
                last_timestamp: Some(Time(said.at)),
                source: Some(EventSource {
                    component: Some(component.clone()),
                    host: Some(host.clone()).filter(|h| !h.is_empty()),
                }),
                reporting_component: Some(component.clone()),
                reporting_instance: Some(host.clone()),
                ..CoreEvent::default()
            };
            let api = Api::<CoreEvent>::namespaced(client.clone(), namespace);
            Ok(api.create(&PostParams::default(), &event).await?.metadata.name)
        }
        (
            Source::Counted { .. },
            Write::Again {
                name, message, count, ..
            },
        ) => {
            let patch =
                serde_json::json!({"count": count, "lastTimestamp": Time(said.at), "message": message});
            let api = Api::<CoreEvent>::namespaced(client.clone(), namespace);
            api.patch(name, &PatchParams::default(), &Patch::Strategic(patch))
                .await?;
            Ok(None)
        }
        (Source::Series { controller, instance }, Write::Create { message, .. }) => {
            let event = Event {
                metadata,
                event_time: Some(MicroTime(said.at)),
                regarding: Some(said.about.clone()),
                reason: Some(said.reason.to_owned()),
                action: Some(said.action.to_owned()),
                note: Some(message.clone()),
                type_: Some(said.severity.as_str().to_owned()),
                reporting_controller: Some(controller.clone()),
                reporting_instance: Some(instance.clone()),
                ..Event::default()
            };
            let api = Api::<Event>::namespaced(client.clone(), namespace);
            Ok(api.create(&PostParams::default(), &event).await?.metadata.name)
        }
        (Source::Series { .. }, Write::Again { name, count, .. }) => {
            let series = EventSeries {
                count: *count,
                last_observed_time: MicroTime(said.at),
            };
            let api = Api::<Event>::namespaced(client.clone(), namespace);
            let patch = serde_json::json!({ "series": series });
            api.patch(name, &PatchParams::default(), &Patch::Strategic(patch))
                .await?;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(object: &str, message: &str, second: i64) -> Said {
        Said {
            about: ObjectReference {
                name: Some(object.to_owned()),
                ..ObjectReference::default()
            },
            severity: Severity::Normal,
            reason: "R",
            action: "A",
            message: message.to_owned(),
            at: Timestamp::from_second(1_000_000 + second).expect("time"),
        }
    }

    /// What is written for a row of things said: `new`, the count, or `-`.
    fn written(series: bool, row: &[Said]) -> Vec<String> {
        let mut correlator = Correlator::new(series);
        row.iter()
            .map(|said| match correlator.decide(said) {
                None => "-".to_owned(),
                Some(Write::Again { count, .. }) => count.to_string(),
                Some(Write::Create { key, message }) => {
                    let combined = message.starts_with("(combined");
                    correlator.created(key, "n".to_owned(), said.at);
                    if combined { "combined" } else { "new" }.to_owned()
                }
            })
            .collect()
    }

    #[test]
    fn repetitions_are_counted() {
        let row = [
            said("a", "x", 0),
            said("a", "x", 1),
            said("b", "x", 2),
            said("a", "x", 3),
        ];
        assert_eq!(written(false, &row), ["new", "2", "new", "3"]);
    }

    #[test]
    fn the_eleventh_different_message_is_combined() {
        let row: Vec<_> = (0..13).map(|i| said("a", &format!("m{i}"), i)).collect();
        let words = written(false, &row);
        assert!(words[..10].iter().all(|w| w == "new"), "{words:?}");
        assert_eq!(words[10..], ["combined", "2", "3"]);
    }

    #[test]
    fn one_object_may_not_flood() {
        let row: Vec<_> = (0..30)
            .map(|_| said("a", "x", 0))
            .chain([said("a", "x", 300)])
            .collect();
        let words = written(false, &row);
        assert_eq!(words[24..27], ["25", "-", "-"]);
        assert_eq!(words[30], "26");
    }

    #[test]
    fn a_series_starts_with_the_second_and_ends_in_silence() {
        let row = [
            said("a", "x", 0),
            said("a", "y", 1),
            said("a", "z", 2),
            said("a", "x", 1000),
        ];
        assert_eq!(written(true, &row), ["new", "2", "-", "new"]);
    }
}
