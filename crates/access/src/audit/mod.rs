//! Audit: who did what, as a policy wants to know it, to a log or a webhook.
//!
//! ```text
//! filters ──begin──► Record ──stage──► Backend: log (lines of JSON, rotated), webhook (batches)
//! ```
//!
//! Levels, stages and the form of events (`audit.k8s.io/v1`) are upstream's.
//!
//! **Invariant:** a request no rule wants leaves nothing behind: no record is made for it.
//! **Invariant:** a record that was begun is ended: dropped before its answer, it says so itself.

mod event;
mod log;
mod policy;
mod webhook;

pub use event::{Event, ObjectReference, Stage};
pub use log::{Log, LogOptions, Mode};
pub use policy::{Level, Policy, PolicyError};
pub use webhook::{BatchOptions, Webhook};

use crate::authorization::Attributes;
use event::User;
use jiff::Timestamp;
use machinery::clock::Clock;
use machinery::user::UserInfo;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use std::sync::Arc;

/// Where events go.
pub trait Backend: Send + Sync + 'static {
    /// Takes an event; `false` if it is lost.
    fn take(&self, event: &Event) -> bool;

    /// Whether a request may not go on whose first event is lost.
    fn is_strict(&self) -> bool {
        false
    }
}

/// The policy and where it sends.
pub struct Auditor {
    policy: Policy,
    backends: Vec<Arc<dyn Backend>>,
    clock: Arc<dyn Clock>,
}

/// What a record is begun with, beside the attributes.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub audit_id: String,
    pub uri: String,
    pub source_ips: Vec<String>,
    pub user_agent: String,
    pub received: Timestamp,
}

/// One request on its way.
pub struct Record {
    auditor: Arc<Auditor>,
    level: Level,
    omitted: Vec<Stage>,
    omit_managed_fields: bool,
    state: Mutex<State>,
}

struct State {
    event: Event,
    ended: bool,
}

/// The longest User-Agent said in full.
const USER_AGENT_MOST: usize = 1024;

impl Auditor {
    pub fn new(policy: Policy, backends: Vec<Arc<dyn Backend>>, clock: Arc<dyn Clock>) -> Self {
        Self {
            policy,
            backends,
            clock,
        }
    }

    /// A record, if a rule wants one.
    pub fn begin(
        self: &Arc<Self>,
        attributes: &Attributes<'_>,
        request: impl FnOnce() -> Request,
    ) -> Option<Arc<Record>> {
        let wanted = self.policy.evaluate(attributes);
        if wanted.level == Level::None {
            return None;
        }
        let request = request();
        let mut user_agent = request.user_agent;
        if user_agent.len() > USER_AGENT_MOST {
            let end = (0..=USER_AGENT_MOST)
                .rev()
                .find(|end| user_agent.is_char_boundary(*end));
            user_agent.truncate(end.unwrap_or(0));
            user_agent.push_str("...TRUNCATED");
        }
        let object = attributes.is_resource.then(|| ObjectReference {
            resource: attributes.resource.to_owned(),
            namespace: attributes.namespace.to_owned(),
            name: attributes.name.to_owned(),
            api_group: attributes.group.to_owned(),
            api_version: attributes.version.to_owned(),
            subresource: attributes.subresource.to_owned(),
            ..ObjectReference::default()
        });
        Some(Arc::new(Record {
            auditor: Arc::clone(self),
            level: wanted.level,
            omitted: wanted.omit_stages.to_vec(),
            omit_managed_fields: wanted.omit_managed_fields,
            state: Mutex::new(State {
                event: Event {
                    level: wanted.level,
                    audit_id: request.audit_id,
                    request_uri: request.uri,
                    verb: attributes.verb.to_owned(),
                    user: User::from(attributes.user),
                    source_ips: request.source_ips,
                    user_agent,
                    object_ref: object,
                    request_received_timestamp: event::micro_time(request.received),
                    ..Event::default()
                },
                ended: false,
            }),
        }))
    }

    fn send(&self, event: &Event) -> bool {
        let mut go_on = true;
        for backend in &self.backends {
            if !backend.take(event) && backend.is_strict() && event.stage == Stage::RequestReceived {
                go_on = false;
            }
        }
        go_on
    }
}

impl Record {
    /// Whether the event is to hold what was sent.
    pub fn wants_request(&self) -> bool {
        self.level >= Level::Request
    }

    /// Whether the event is to hold what was answered.
    pub fn wants_response(&self) -> bool {
        self.level >= Level::RequestResponse
    }

    /// Says that a stage is reached. `false`: the request may not go on.
    pub fn stage(&self, stage: Stage) -> bool {
        let mut state = self.state.lock();
        if matches!(stage, Stage::ResponseComplete | Stage::Panic) {
            if state.ended {
                return true;
            }
            state.ended = true;
        }
        if self.omitted.contains(&stage) {
            return true;
        }
        state.event.stage = stage;
        state.event.stage_timestamp = event::micro_time(self.auditor.clock.now());
        let event = &state.event;
        self.auditor.send(event)
    }

    /// Nothing more is said.
    pub fn forget(&self) {
        self.state.lock().ended = true;
    }

    /// The caller acts as somebody else.
    pub fn impersonates(&self, user: &UserInfo, constraint: &str) {
        let mut state = self.state.lock();
        state.event.impersonated_user = Some(User::from(user));
        if !constraint.is_empty() {
            state.event.authentication_metadata = Some(event::AuthenticationMetadata {
                impersonation_constraint: constraint.to_owned(),
            });
        }
    }

    pub fn annotate(&self, key: &str, value: impl Into<String>) {
        let mut state = self.state.lock();
        // The first to say something is believed, as upstream.
        state
            .event
            .annotations
            .entry(key.to_owned())
            .or_insert_with(|| value.into());
    }

    /// What was sent, as JSON.
    pub fn request_object(&self, json: &[u8]) {
        let Some(object) = self.object(json) else { return };
        let mut state = self.state.lock();
        let metadata: Option<event::SentMetadata> = serde_json::from_str(object.get()).ok();
        if let (Some(reference), Some(sent)) = (&mut state.event.object_ref, metadata) {
            let fill = |place: &mut String, value: String| {
                if place.is_empty() {
                    *place = value;
                }
            };
            fill(&mut reference.namespace, sent.metadata.namespace);
            fill(&mut reference.name, sent.metadata.name);
            fill(&mut reference.uid, sent.metadata.uid);
            fill(&mut reference.resource_version, sent.metadata.resource_version);
        }
        if self.wants_request() {
            state.event.request_object = Some(object);
        }
    }

    /// What was answered, as JSON.
    pub fn response_object(&self, json: &[u8]) {
        if let Some(object) = self.object(json).filter(|_| self.wants_response()) {
            self.state.lock().event.response_object = Some(object);
        }
    }

    /// The answer's code, and if it is a `Status` what it says.
    pub fn response_status(&self, code: u16, status: Option<&[u8]>) {
        let mut answered = status
            .and_then(|json| serde_json::from_slice::<event::ResponseStatus>(json).ok())
            .unwrap_or_default();
        answered.code = code.into();
        self.state.lock().event.response_status = Some(answered);
    }

    fn object(&self, json: &[u8]) -> Option<Box<RawValue>> {
        if !self.omit_managed_fields {
            return serde_json::from_slice(json).ok();
        }
        let mut value: serde_json::Value = serde_json::from_slice(json).ok()?;
        forget_managers(&mut value);
        for list in ["items", "rows"] {
            for item in value
                .get_mut(list)
                .and_then(|items| items.as_array_mut())
                .into_iter()
                .flatten()
            {
                forget_managers(if list == "rows" { &mut item["object"] } else { item });
            }
        }
        serde_json::value::to_raw_value(&value).ok()
    }
}

fn forget_managers(object: &mut serde_json::Value) {
    if let Some(metadata) = object
        .get_mut("metadata")
        .and_then(|metadata| metadata.as_object_mut())
    {
        metadata.remove("managedFields");
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.state.get_mut().ended {
            return;
        }
        if std::thread::panicking() {
            self.response_status(
                500,
                Some(br#"{"status":"Failure","reason":"InternalError","message":"APIServer panic'd"}"#),
            );
            self.stage(Stage::Panic);
            return;
        }
        if self.state.get_mut().event.response_status.is_none() {
            self.response_status(
                200,
                Some(br#"{"status":"Success","message":"Connection closed early"}"#),
            );
        }
        self.stage(Stage::ResponseComplete);
    }
}
