//! The reading side of one watch: its queue while it keeps up, history while it does not.

use super::engine::Shared;
use super::hub::{Taken, Watcher};
use super::record::{Position, Record};
use super::storage::Fault;
use crate::{Batch, Error, Event, ProgressHandle, Result, Watch, WatchRequest};
use bytes::Bytes;
use futures::stream;
use std::ops::ControlFlow;
use std::sync::Arc;

/// How much of history is read in one go: records looked at, and bytes taken.
const CHUNK_RECORDS: usize = 4096;
const CHUNK_BYTES: usize = 1 << 20;

struct Feed {
    shared: Arc<Shared>,
    watcher: Arc<Watcher>,
    request: WatchRequest,
    ended: bool,
}

/// A piece of history: what concerns a watch, and up to which revision that is everything.
struct Piece {
    records: Vec<Arc<Record>>,
    up_to: i64,
}

pub(crate) fn watch(shared: &Arc<Shared>, request: WatchRequest) -> Result<Watch> {
    let watcher = shared
        .hub
        .register(&request.range, request.from_revision, request.progress)
        .ok_or(Error::Closed)?;
    let progress = ProgressHandle::new({
        let (hub, watcher, wanted) = (shared.hub.clone(), watcher.clone(), request.progress);
        move || {
            if wanted {
                hub.ask_progress(&watcher);
            }
        }
    });
    let feed = Feed {
        shared: shared.clone(),
        watcher,
        request,
        ended: false,
    };
    Ok(Watch::new(Box::pin(stream::unfold(feed, Feed::step)), progress))
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.hub.unregister(&self.request.range, &self.watcher);
    }
}

impl Feed {
    async fn step(mut self) -> Option<(Result<Batch>, Self)> {
        if self.ended {
            return None;
        }
        let batch = self.next().await.transpose()?;
        self.ended = batch.is_err();
        Some((batch, self))
    }

    async fn next(&mut self) -> Result<Option<Batch>> {
        loop {
            match self.shared.hub.take(&self.watcher) {
                Taken::Records { records, up_to } => return self.batch(&records, up_to).await.map(Some),
                Taken::Progress { up_to } => {
                    return Ok(Some(Batch {
                        revision: up_to,
                        events: Vec::new(),
                    }));
                }
                Taken::Nothing => self.watcher.changed.notified().await,
                Taken::Closed => return Ok(None),
                Taken::Lagging { from } => {
                    let piece = self.piece(from).await?;
                    self.shared.hub.resume(&self.watcher, piece.up_to);
                    if !piece.records.is_empty() {
                        return self.batch(&piece.records, piece.up_to).await.map(Some);
                    }
                }
            }
        }
    }

    /// The next piece of history, from memory if that goes back far enough.
    async fn piece(&self, from: i64) -> Result<Piece> {
        let range = &self.request.range;
        {
            let index = self.shared.index.read();
            if from < index.compact_revision {
                let compact_revision = index.compact_revision;
                return Err(Error::Compacted {
                    requested: from,
                    compact_revision,
                });
            }
            if let Some(recent) = index.recent_from(from) {
                let records = recent
                    .filter(|record| range.contains(&record.key))
                    .cloned()
                    .collect();
                return Ok(Piece {
                    records,
                    up_to: index.revision,
                });
            }
        }
        let (shared, range) = (self.shared.clone(), range.clone());
        self.shared
            .blocking(move || shared.read(|| read_piece(&shared, &range, from)))
            .await
    }

    async fn batch(&self, records: &[Arc<Record>], up_to: i64) -> Result<Batch> {
        let mut events = Vec::with_capacity(records.len());
        for record in records {
            events.push(self.event(record)?);
        }
        Ok(Batch {
            revision: up_to,
            events,
        })
    }

    fn event(&self, record: &Record) -> Result<Event> {
        let prev = record
            .prev
            .filter(|prev| self.request.prev_kv && !prev.is_deletion());
        let Some(prev) = prev else {
            return Ok(record.event(None));
        };
        let value = self.shared.read(|| {
            let index = self.shared.index.read();
            if let Some(found) = index.recent(prev.position) {
                return Ok(Some(found.value.clone()));
            }
            let snapshot = self.shared.storage.snapshot()?;
            let (revision, compact_revision) = (record.revision(), index.compact_revision);
            drop(index);
            match snapshot.value(prev.position)? {
                Some(value) => Ok(Some(value)),
                None if revision < compact_revision => Err(Error::Compacted {
                    requested: revision,
                    compact_revision,
                }
                .into()),
                None => Err(snapshot.lost(prev.position)),
            }
        })?;
        Ok(record.event(value.map(|value| prev.with(record.key.clone(), value))))
    }
}

/// Reads history from disk: whole revisions, at least one if there is one.
fn read_piece(shared: &Shared, range: &crate::KeyRange, from: i64) -> Result<Piece, Fault> {
    let (snapshot, newest) = {
        let index = shared.index.read();
        if from < index.compact_revision {
            let compact_revision = index.compact_revision;
            return Err(Error::Compacted {
                requested: from,
                compact_revision,
            }
            .into());
        }
        (shared.storage.snapshot()?, index.saved_to.revision())
    };
    let mut records = Vec::new();
    let (mut looked_at, mut bytes, mut up_to) = (0, 0, newest);
    let mut revision = 0;
    snapshot.walk(Position::start_of(from), |entry| {
        let next = entry.at.position.revision();
        if next > newest {
            // Saved after we looked; memory has it.
            return ControlFlow::Break(());
        }
        if next != revision && (looked_at >= CHUNK_RECORDS || bytes >= CHUNK_BYTES) {
            up_to = revision;
            return ControlFlow::Break(());
        }
        revision = next;
        looked_at += 1;
        if range.contains(entry.key) {
            bytes += entry.key.len() + entry.value_len as usize;
            records.push(Record {
                key: Bytes::copy_from_slice(entry.key),
                value: Bytes::new(),
                at: entry.at,
                prev: entry.prev,
            });
        }
        ControlFlow::Continue(())
    })?;
    for record in records.iter_mut().filter(|record| !record.at.is_deletion()) {
        record.value = snapshot.required(record.at.position)?;
    }
    Ok(Piece {
        records: records.into_iter().map(Arc::new).collect(),
        up_to,
    })
}
