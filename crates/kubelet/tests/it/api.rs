//! As much of an API server as a kubelet talks to: objects by path, list, watch, patch, delete.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::Body as ClientBody;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use machinery::clock::Clock;
use machinery::user::UserInfo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::BroadcastStream;
use wire::body::Body;

#[derive(Clone)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<Change>,
    revision: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<String, Value>,
    events: Vec<String>,
}

#[derive(Clone)]
struct Change {
    kind: &'static str,
    path: String,
    object: Value,
}

impl Api {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            state: Arc::default(),
            changes: broadcast::channel(10_000).0,
            revision: watch::Sender::new(0),
            clock,
        }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        client::in_process(
            client::api_service(service),
            UserInfo::authenticated("system:node:node", &["system:nodes"]),
        )
    }

    /// Puts an object; its path follows from its kind.
    pub(crate) fn put(&self, object: Value) {
        let path = path_of(&object);
        self.store("ADDED", path, object);
    }

    /// Puts an object of a group other than the core's.
    pub(crate) fn put_at(&self, path: &str, object: Value) {
        self.store("ADDED", path.to_owned(), object);
    }

    /// Changes an object by a merge patch.
    pub(crate) fn change(&self, path: &str, patch: Value) {
        let mut object = self.get(path).expect("the object to change");
        merge(&mut object, &patch);
        self.store("MODIFIED", path.to_owned(), object);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    pub(crate) fn remove(&self, path: &str) {
        let (object, revision) = {
            let mut state = self.state.lock();
            let Some(mut object) = state.objects.remove(path) else {
                return;
            };
            state.revision += 1;
            object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
            (object, state.revision)
        };
        drop(self.changes.send(Change {
            kind: "DELETED",
            path: path.to_owned(),
            object,
        }));
        self.revision.send_replace(revision);
    }

    /// Deletes as a user does: gracefully.
    pub(crate) fn delete(&self, path: &str) {
        let Some(object) = self.get(path) else { return };
        let grace = object["spec"]["terminationGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(30);
        let now = self.clock.now().to_string();
        self.change(
            path,
            json!({"metadata": {"deletionTimestamp": now, "deletionGracePeriodSeconds": grace}}),
        );
    }

    /// `reason: message` of every event so far.
    pub(crate) fn events(&self) -> Vec<String> {
        self.state.lock().events.clone()
    }

    /// Waits until the object at `path` (null when there is none) is as wanted.
    pub(crate) async fn until(&self, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut revision = self.revision.subscribe();
        let look = async {
            loop {
                let object = self.get(path).unwrap_or(Value::Null);
                if wanted(&object) {
                    return object;
                }
                revision.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(Duration::from_secs(1200), look).await {
            Ok(object) => object,
            Err(_) => panic!(
                "{path} never became {what}; it is {:#}\nevents: {:#?}",
                self.get(path).unwrap_or(Value::Null),
                self.events()
            ),
        }
    }

    pub(crate) async fn until_event(&self, part: &str) {
        let mut revision = self.revision.subscribe();
        let look = async {
            while !self.events().iter().any(|e| e.contains(part)) {
                revision.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(1200), look)
            .await
            .is_err()
        {
            panic!("no event {part:?} among {:#?}", self.events());
        }
    }

    fn store(&self, kind: &'static str, path: String, mut object: Value) {
        let revision = {
            let mut state = self.state.lock();
            state.revision += 1;
            let metadata = &mut object["metadata"];
            metadata["resourceVersion"] = json!(state.revision.to_string());
            if metadata["uid"].is_null() {
                metadata["uid"] = json!(format!("uid-{}", state.revision));
            }
            if metadata["creationTimestamp"].is_null() {
                metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            state.objects.insert(path.clone(), object.clone());
            state.revision
        };
        drop(self.changes.send(Change { kind, path, object }));
        self.revision.send_replace(revision);
    }

    async fn answer(&self, request: Request<ClientBody>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let path = parts.uri.path().to_owned();
        let query = parts
            .uri
            .query()
            .unwrap_or_default()
            .replace("%3D", "=")
            .replace("%2F", "/");
        let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if path.ends_with("/token") {
            let expires = self.clock.now() + jiff::SignedDuration::from_secs(3600);
            return answer(
                201,
                &json!({"spec": {"audiences": []}, "status": {"token": "the-token", "expirationTimestamp": expires.to_string()}}),
            );
        }
        if path.contains("/events") {
            let (reason, message) = (body["reason"].as_str(), body["message"].as_str());
            if let (Some(reason), Some(message)) = (reason, message) {
                let revision = {
                    let mut state = self.state.lock();
                    state.events.push(format!("{reason}: {message}"));
                    state.revision += 1;
                    state.revision
                };
                self.revision.send_replace(revision);
            }
            return answer(201, &body);
        }
        let object_path = path.trim_end_matches("/status").to_owned();
        match parts.method {
            Method::GET if query.contains("watch=true") => self.watch(&path, &query),
            Method::GET => match self.get(&path) {
                Some(object) => answer(200, &object),
                None => refuse(404, "NotFound"),
            },
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
                if self.get(&path).is_some() {
                    return refuse(409, "AlreadyExists");
                }
                self.store("ADDED", path.clone(), body);
                answer(201, &self.get(&path).unwrap())
            }
            Method::PUT => {
                self.store("MODIFIED", object_path.clone(), body);
                answer(200, &self.get(&object_path).unwrap())
            }
            Method::PATCH => {
                let Some(mut object) = self.get(&object_path) else {
                    return refuse(404, "NotFound");
                };
                if !body["metadata"]["uid"].is_null() && body["metadata"]["uid"] != object["metadata"]["uid"]
                {
                    return refuse(409, "Conflict");
                }
                merge(&mut object, &body);
                self.store("MODIFIED", object_path.clone(), object);
                answer(200, &self.get(&object_path).unwrap())
            }
            Method::DELETE => {
                self.remove(&object_path);
                answer(200, &json!({"kind": "Status", "status": "Success"}))
            }
            _ => refuse(405, "MethodNotAllowed"),
        }
    }

    fn watch(&self, path: &str, query: &str) -> Response<Body> {
        let field = query
            .split('&')
            .find_map(|p| p.strip_prefix("fieldSelector="))
            .unwrap_or_default()
            .to_owned();
        let collection = path.to_owned();
        let wanted = move |path: &str, object: &Value| {
            let in_collection = match path.strip_prefix(&collection) {
                Some(rest) => rest.starts_with('/') && !rest[1..].contains('/'),
                // All namespaces.
                None => {
                    let kind = collection.rsplit('/').next().unwrap_or_default();
                    path.contains("/namespaces/") && path.rsplit('/').nth(1) == Some(kind)
                }
            };
            let selected = match field.split_once('=') {
                Some(("spec.nodeName", name)) => object["spec"]["nodeName"] == name,
                Some(("metadata.name", name)) => object["metadata"]["name"] == name,
                _ => true,
            };
            in_collection && selected
        };
        let line = |kind: &str, object: &Value| {
            Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
        };
        let receiver = self.changes.subscribe();
        let mut first = Vec::new();
        {
            let state = self.state.lock();
            if query.contains("sendInitialEvents=true") {
                let present = state.objects.iter().filter(|(path, object)| wanted(path, object));
                first.extend(present.map(|(_, object)| line("ADDED", object)));
                let end = json!({"metadata": {"resourceVersion": state.revision.to_string(),
                                 "annotations": {"k8s.io/initial-events-end": "true"}}});
                first.push(line("BOOKMARK", &end));
            }
        }
        let later = BroadcastStream::new(receiver).filter_map(move |change| {
            let change = change.ok().filter(|c| wanted(&c.path, &c.object));
            futures::future::ready(change.map(|c| line(c.kind, &c.object)))
        });
        let stream = futures::stream::iter(first)
            .chain(later)
            .map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        Response::new(Body::stream(StreamBody::new(stream)))
    }
}

fn path_of(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap();
    let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/{plural}/{name}"),
        None => format!("/api/v1/{plural}/{name}"),
    }
}

fn answer(code: u16, value: &Value) -> Response<Body> {
    let mut answer = Response::new(Body::from(value.to_string()));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
        .headers_mut()
        .insert("content-type", "application/json".parse().unwrap());
    answer
}

fn refuse(code: u16, reason: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason});
    answer(code, &status)
}

/// A strategic merge patch, as far as statuses use it.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() || fields.get("$patch") == Some(&json!("replace")) {
        *target = json!({});
    }
    for (key, value) in fields.iter().filter(|(k, _)| *k != "$patch") {
        match value {
            Value::Null => drop(target.as_object_mut().unwrap().remove(key)),
            Value::Array(items) if key == "conditions" => {
                let list = target[key].take();
                let mut list = list.as_array().cloned().unwrap_or_default();
                for item in items {
                    let same = list.iter().position(|i| i["type"] == item["type"]);
                    match (item["$patch"] == "delete", same) {
                        (true, Some(i)) => drop(list.remove(i)),
                        (true, None) => {}
                        (false, Some(i)) => merge(&mut list[i], item),
                        (false, None) => list.push(item.clone()),
                    }
                }
                target[key] = Value::Array(list);
            }
            Value::Array(items) => {
                target[key] = Value::Array(
                    items
                        .iter()
                        .filter(|i| i["$patch"] != "replace")
                        .cloned()
                        .collect(),
                );
            }
            value => merge(&mut target[key], value),
        }
    }
}
