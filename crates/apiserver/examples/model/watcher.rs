//! A client that watches: it must see every change once, in order, across reconnections.

use super::drive::Server;
use super::world::{Filter, Name, Object, World};
use http_body_util::BodyExt as _;
use serde_json::Value as Json;
use std::time::Duration;
use wire::body::Body;

/// How long an event that must come may take.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct Watcher {
    pub(crate) filter: Filter,
    /// Everything up to here has been seen.
    pub(crate) after: i64,
    body: Body,
    rest: Vec<u8>,
}

/// What became of a watch.
pub(crate) enum Outcome {
    CaughtUp,
    /// The server ended it, or no longer knows where it starts.
    Ended,
}

impl Watcher {
    /// Watches from a revision on.
    pub(crate) async fn from(server: &Server, filter: Filter, after: i64) -> Self {
        let query = format!(
            "{}?watch=1&allowWatchBookmarks=true&resourceVersion={after}&{}",
            filter.path(),
            filter.query()
        );
        let body = server.open(&query).await;
        Self {
            filter,
            after,
            body,
            rest: Vec::new(),
        }
    }

    /// Watches what there is and then what comes: a streaming list.
    pub(crate) async fn with_initial(server: &Server, world: &World, filter: Filter) -> Self {
        let query = format!(
            "{}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&{}",
            filter.path(),
            filter.query()
        );
        let body = server.open(&query).await;
        let mut watcher = Self {
            filter,
            after: 0,
            body,
            rest: Vec::new(),
        };
        for (name, object) in world.at(world.version, &watcher.filter) {
            let event = watcher.next().await.expect("an initial event");
            assert_eq!(event["type"], "ADDED", "{event}");
            assert_eq!(Object::read(&event["object"]), (name, object), "an initial event");
        }
        let end = watcher.next().await.expect("the end of the initial events");
        let annotation = &end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"];
        assert_eq!(
            (&end["type"], annotation),
            (&"BOOKMARK".into(), &"true".into()),
            "{end}"
        );
        let (_, object) = Object::read(&end["object"]);
        assert!(object.version >= world.version, "{end} at {}", world.version);
        watcher.after = object.version;
        watcher
    }

    /// Reads everything that has happened, comparing event by event.
    pub(crate) async fn catch_up(&mut self, world: &World) -> Outcome {
        while let Some((kind, name, object)) = world.next_event(self.after, &self.filter) {
            let Some(event) = self.next().await else {
                return Outcome::Ended;
            };
            let (got_name, got): (Name, Object) = Object::read(&event["object"]);
            match event["type"].as_str() {
                Some("BOOKMARK") => {
                    assert!(got.version >= self.after, "a bookmark goes back: {event}");
                    assert!(
                        got.version < object.version,
                        "a bookmark passes over {kind} {name:?} at {}: {event}",
                        object.version
                    );
                    self.after = got.version;
                }
                Some("ERROR") => {
                    assert_eq!(event["object"]["code"], 410, "{event}");
                    assert!(self.after < world.version, "nothing is too old now: {event}");
                    return Outcome::Ended;
                }
                got_kind => {
                    assert_eq!(got_kind, Some(kind), "{name:?} {object:?}: {event}");
                    assert_eq!((got_name, got), (name, object.clone()), "{event}");
                    self.after = object.version;
                }
            }
        }
        Outcome::CaughtUp
    }

    /// The next event; `None` at the end of the watch.
    pub(crate) async fn next(&mut self) -> Option<Json> {
        loop {
            if let Some(at) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).expect("an event is JSON"));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("an event that must come comes")?;
            let data = frame.expect("a frame").into_data().expect("data");
            self.rest.extend_from_slice(&data);
        }
    }
}
