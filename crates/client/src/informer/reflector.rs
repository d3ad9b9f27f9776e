//! List and watch with recovery, not knowing the type: bytes go to a [`Sink`].
//!
//! ```text
//!            ┌────────── 410, error event, undecodable stream ──────────┐
//!            ▼                                                          │
//!   Start ─ streaming list (or list) ─► Watching{rv} ── stream ends ──► Watching{rv}
//! ```
//!
//! Follows upstream's reflector: streaming lists (KEP-3157) with a fall-back to a plain list for servers
//! that refuse them, bookmarks, jittered exponential back-off that is reset by progress.

use super::{Representation, Selection};
use crate::error::{Error, Result};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use rand::RngExt as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What receives the objects of a reflection, as JSON text.
pub trait Sink: Send + Sync + 'static {
    /// A list begins: whatever is not put before `end_replace` is gone.
    fn begin_replace(&self);
    /// An object as it is now. Returns its resource version.
    fn put(&self, object: &str) -> Result<u64, serde_json::Error>;
    /// The last state of an object that was deleted. Returns the resource version of the deletion.
    fn delete(&self, object: &str) -> Result<u64, serde_json::Error>;
    /// The list is complete as of this resource version.
    fn end_replace(&self, resource_version: u64);
    /// Everything up to this resource version has been seen.
    fn progress(&self, resource_version: u64);
    /// An object that `put` could not decode exists, so the list's end must not remove its earlier state.
    fn keep(&self, namespace: &str, name: &str);
}

/// One list-and-watch.
pub struct Reflection {
    pub client: kube::Client,
    pub path: String,
    pub selection: Selection,
    pub representation: Representation,
    pub watch_for: Duration,
}

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// An attempt that lived this long starts the back-off anew.
const STEADY: Duration = Duration::from_secs(10);

enum State {
    Start,
    Watching { resource_version: u64 },
}

/// How one stream ended.
enum End {
    /// A plain list is complete; the watch follows at once.
    Listed,
    /// The server closed it, as it does after the time asked for.
    Closed,
    /// The version to go on from is unknown or too old.
    Expired,
}

impl Reflection {
    /// Runs until `stop`.
    pub async fn run(self, sink: Arc<dyn Sink>, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.run_forever(&*sink) => {}
        }
    }

    async fn run_forever(&self, sink: &dyn Sink) {
        let mut state = State::Start;
        let mut streaming_lists = true;
        let mut delay = FIRST_RETRY;
        loop {
            let started = tokio::time::Instant::now();
            let ended = match &mut state {
                State::Start if streaming_lists => self.streaming_list(sink, &mut state).await,
                State::Start => self.list(sink, &mut state).await,
                State::Watching { resource_version } => {
                    let mut resource_version = *resource_version;
                    let ended = self.watch(sink, &mut resource_version).await;
                    state = State::Watching { resource_version };
                    ended
                }
            };
            if started.elapsed() >= STEADY {
                delay = FIRST_RETRY;
            }
            match ended {
                Ok(End::Listed) => continue,
                Ok(End::Closed) if started.elapsed() >= Duration::from_secs(1) => continue,
                Ok(End::Closed) => {}
                Ok(End::Expired) => state = State::Start,
                Err(error) => {
                    if streaming_lists
                        && matches!(state, State::Start)
                        && matches!(error.code(), Some(400 | 422))
                    {
                        tracing::debug!(path = self.path, "streaming list refused, listing instead");
                        streaming_lists = false;
                        continue;
                    }
                    if error.code() == Some(410) {
                        state = State::Start;
                    }
                    tracing::debug!(
                        path = self.path,
                        error = &error as &dyn std::error::Error,
                        "list and watch failed"
                    );
                }
            }
            let jitter = machinery::chance::rng().random_range(1.0..2.0);
            tokio::time::sleep(delay.mul_f64(jitter)).await;
            delay = (delay * 2).min(LAST_RETRY);
        }
    }

    /// One watch that first brings every object, then a bookmark that says so, then changes.
    async fn streaming_list(&self, sink: &dyn Sink, state: &mut State) -> Result<End> {
        let query = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        let mut stream = self.open_watch(query).await?;
        sink.begin_replace();
        let mut resource_version = 0;
        let mut complete = false;
        let ended = self
            .consume(&mut stream, sink, &mut resource_version, &mut complete)
            .await;
        if complete {
            *state = State::Watching { resource_version };
        }
        ended
    }

    async fn list(&self, sink: &dyn Sink, state: &mut State) -> Result<End> {
        let mut query = String::from("?resourceVersion=0");
        self.push_selectors(&mut query);
        let path = format!("{}{query}", self.path);
        let body = self.open(&path).await?;
        let bytes = body.collect().await.map_err(|e| self.read_error(e))?.to_bytes();
        let list: RawList<'_> = serde_json::from_slice(&bytes).map_err(|source| Error::Decode {
            path: path.clone(),
            source,
        })?;
        let resource_version = list.metadata.resource_version.parse().unwrap_or(0);
        sink.begin_replace();
        for item in list.items.iter().flatten() {
            if let Err(error) = sink.put(item.get()) {
                self.report_bad(sink, item.get(), &error);
            }
        }
        sink.end_replace(resource_version);
        *state = State::Watching { resource_version };
        Ok(End::Listed)
    }

    async fn watch(&self, sink: &dyn Sink, resource_version: &mut u64) -> Result<End> {
        let mut stream = self
            .open_watch(&format!("&resourceVersion={resource_version}"))
            .await?;
        self.consume(&mut stream, sink, resource_version, &mut true).await
    }

    async fn consume(
        &self,
        stream: &mut kube::client::Body,
        sink: &dyn Sink,
        resource_version: &mut u64,
        complete: &mut bool,
    ) -> Result<End> {
        let mut rest = BytesMut::new();
        while let Some(frame) = stream.frame().await {
            let frame = frame.map_err(|e| self.read_error(e))?;
            let Ok(data) = frame.into_data() else { continue };
            let mut data: Bytes = data;
            loop {
                let Some(end) = memchr::memchr(b'\n', &data) else {
                    rest.extend_from_slice(&data);
                    break;
                };
                let line = data.split_to(end + 1);
                let ended = if rest.is_empty() {
                    self.line(&line, sink, resource_version, complete)
                } else {
                    rest.extend_from_slice(&line);
                    let whole = rest.split();
                    self.line(&whole, sink, resource_version, complete)
                };
                if let Some(ended) = ended {
                    return ended;
                }
            }
        }
        // A body may end without a final newline; an incomplete last line is dropped with the connection.
        if !rest.is_empty()
            && serde_json::from_slice::<Line<'_>>(&rest).is_ok()
            && let Some(ended) = self.line(&rest, sink, resource_version, complete)
        {
            return ended;
        }
        Ok(End::Closed)
    }

    /// One watch event. `Some` ends the stream.
    fn line(&self, line: &[u8], sink: &dyn Sink, seen: &mut u64, complete: &mut bool) -> Option<Result<End>> {
        if line.trim_ascii().is_empty() {
            return None;
        }
        let event: Line<'_> = match serde_json::from_slice(line) {
            Ok(event) => event,
            Err(source) => {
                return Some(Err(Error::Decode {
                    path: self.path.clone(),
                    source,
                }));
            }
        };
        let object = event.object.get();
        let outcome = match &*event.kind {
            "ADDED" | "MODIFIED" => sink.put(object),
            "DELETED" => sink.delete(object),
            "BOOKMARK" => serde_json::from_str::<Bookmark>(object).map(|bookmark| {
                let version = bookmark.metadata.resource_version.parse().unwrap_or(0);
                if !*complete && bookmark.ends_initial_events() {
                    *complete = true;
                    sink.end_replace(version);
                }
                version
            }),
            "ERROR" => return Some(self.error_event(object)),
            other => {
                tracing::warn!(path = self.path, kind = other, "unknown watch event");
                return None;
            }
        };
        let version = outcome.unwrap_or_else(|error| self.report_bad(sink, object, &error));
        *seen = (*seen).max(version);
        if *complete {
            sink.progress(*seen);
        }
        None
    }

    fn error_event(&self, object: &str) -> Result<End> {
        let status: kube::core::Status = serde_json::from_str(object).map_err(|source| Error::Decode {
            path: self.path.clone(),
            source,
        })?;
        if status.code == 410 {
            return Ok(End::Expired);
        }
        Err(Error::Status {
            path: self.path.clone(),
            status: Box::new(status),
        })
    }

    /// Says which object could not be decoded, and what version it has all the same.
    fn report_bad(&self, sink: &dyn Sink, object: &str, error: &serde_json::Error) -> u64 {
        let meta = serde_json::from_str::<OnlyMeta>(object)
            .map(|o| o.metadata)
            .unwrap_or_else(|_| BareMeta::default());
        tracing::warn!(path = self.path, namespace = meta.namespace, name = meta.name, %error, "undecodable object passed over");
        sink.keep(&meta.namespace, &meta.name);
        meta.resource_version.parse().unwrap_or(0)
    }

    async fn open_watch(&self, more: &str) -> Result<kube::client::Body> {
        let seconds = self
            .watch_for
            .mul_f64(machinery::chance::rng().random_range(0.7..1.0))
            .as_secs();
        let mut query = format!("?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}{more}");
        self.push_selectors(&mut query);
        self.open(&format!("{}{query}", self.path)).await
    }

    async fn open(&self, path: &str) -> Result<kube::client::Body> {
        let accept = match self.representation {
            Representation::Whole => "application/json",
            Representation::Metadata => {
                if path.contains("?watch") {
                    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
                } else {
                    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
                }
            }
        };
        get(&self.client, path, accept).await
    }

    fn push_selectors(&self, query: &mut String) {
        for (name, value) in [
            ("labelSelector", &self.selection.labels),
            ("fieldSelector", &self.selection.fields),
        ] {
            if let Some(value) = value {
                query.push('&');
                query.push_str(name);
                query.push('=');
                push_encoded(query, value);
            }
        }
    }

    fn read_error(&self, error: kube::Error) -> Error {
        Error::Read {
            path: self.path.clone(),
            source: Box::new(error),
        }
    }
}

/// A GET whose refusal is an error and whose body is not read yet.
pub(crate) async fn get(client: &kube::Client, path: &str, accept: &str) -> Result<kube::client::Body> {
    let request = http::Request::get(path)
        .header(http::header::ACCEPT, accept)
        .body(kube::client::Body::empty())
        .map_err(|source| Error::BuildRequest {
            path: path.to_owned(),
            source,
        })?;
    let response = client.send(request).await.map_err(|source| Error::Request {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    let code = response.status();
    if code.is_success() {
        return Ok(response.into_body());
    }
    let body = response.into_body().collect().await.map_err(|e| Error::Read {
        path: path.to_owned(),
        source: Box::new(e),
    })?;
    let mut status = serde_json::from_slice::<kube::core::Status>(&body.to_bytes())
        .unwrap_or_else(|_| kube::core::Status::failure("the server's answer is no Status", "Unknown"));
    status.code = code.as_u16();
    Err(Error::Status {
        path: path.to_owned(),
        status: Box::new(status),
    })
}

/// Percent-encodes everything that is not unreserved.
fn push_encoded(out: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct RawList<'a> {
    metadata: BareMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct OnlyMeta {
    metadata: BareMeta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct BareMeta {
    namespace: String,
    name: String,
    resource_version: String,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct BookmarkMeta {
    resource_version: String,
    annotations: BTreeMap<String, String>,
}

impl Bookmark {
    fn ends_initial_events(&self) -> bool {
        self.metadata
            .annotations
            .get("k8s.io/initial-events-end")
            .is_some_and(|v| v == "true")
    }
}
