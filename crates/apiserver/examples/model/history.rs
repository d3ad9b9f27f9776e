//! Whether what many clients were told fits one order.
//!
//! Revisions name the order the server says its writes had, so nothing has to be searched: each write must be what the
//! model makes of the state right before it, and each other answer must be true of a state that stood between its
//! question and itself. Fields that two managers write are settled by that same order.

use super::world::{Event, Filter, Name, Object, Owners, World, owners_of};
use serde_json::Value as Json;
use std::collections::{BTreeMap, VecDeque};

/// What a client asks.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Create {
        name: Name,
        object: Object,
        manager: String,
    },
    /// Replaces labels and data.
    Update {
        name: Name,
        object: Object,
        version: Option<i64>,
        manager: String,
    },
    /// Sets or removes one entry of the data.
    Merge {
        name: Name,
        field: String,
        value: Option<String>,
        version: Option<i64>,
        manager: String,
    },
    Apply {
        name: Name,
        config: BTreeMap<String, String>,
        manager: String,
        force: bool,
    },
    Delete {
        name: Name,
        version: Option<i64>,
    },
    Get {
        name: Name,
    },
    /// Perhaps in pages, whose items the answer holds together.
    List {
        filter: Filter,
    },
}

/// A question and its answer.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) op: Op,
    /// What somebody had been told before it was asked.
    pub(crate) from: i64,
    /// The store's revision after the answer.
    pub(crate) until: i64,
    pub(crate) code: u16,
    pub(crate) json: Json,
}

/// What a write must do to a state: the object and its owners, nothing (it is gone), or a refusal.
type Effect = Result<Option<(Object, Owners)>, (u16, &'static str)>;

impl Asked {
    fn is_write(&self) -> bool {
        !matches!(self.op, Op::Get { .. } | Op::List { .. }) && self.code < 300
    }

    fn name(&self) -> Option<&Name> {
        match &self.op {
            Op::Create { name, .. }
            | Op::Update { name, .. }
            | Op::Merge { name, .. }
            | Op::Apply { name, .. }
            | Op::Delete { name, .. }
            | Op::Get { name } => Some(name),
            Op::List { .. } => None,
        }
    }

    /// Whether it may be done on one version only.
    fn names_a_version(&self) -> bool {
        match &self.op {
            Op::Update { version, .. } | Op::Merge { version, .. } | Op::Delete { version, .. } => {
                version.is_some()
            }
            _ => false,
        }
    }

    /// Whether the answer is true of a state that nothing is written to.
    fn is_true_of(&self, world: &World, next: i64) -> bool {
        let read = |json: &Json| Object::read(json);
        match &self.op {
            Op::Get { name } => match world.objects.get(name) {
                None => self.code == 404,
                Some(live) => {
                    self.code == 200
                        && read(&self.json) == (name.clone(), live.clone())
                        && world.owners.get(name) == Some(&owners_of(&self.json))
                }
            },
            Op::List { filter } => {
                let shown = self.version();
                let items = self.json["items"].as_array().into_iter().flatten();
                self.code == 200
                    && (world.version..next).contains(&shown)
                    && shown >= self.from
                    && items.map(read).eq(world.at(world.version, filter))
            }
            _ => match world.effect(&self.op) {
                Err((code, reason)) => self.code == code && self.json["reason"] == reason,
                // That something went is seen by its event.
                Ok(None) => false,
                Ok(Some((object, owners))) => {
                    let (name, got) = read(&self.json);
                    self.code == 200
                        && world.objects.get(&name) == Some(&got)
                        && got.same_content(&object)
                        && owners_of(&self.json) == owners
                }
            },
        }
    }

    /// Whether this is the write an event tells of, on the state before it.
    fn wrote(&self, world: &World, event: &Event) -> Option<Owners> {
        if !self.is_write() || event.version <= self.from || event.version > self.until {
            return None;
        }
        let before = world.objects.get(&event.name);
        match (world.effect(&self.op), &event.after) {
            (Ok(None), None) => {
                let Op::Delete { name, .. } = &self.op else {
                    return None;
                };
                let uid = self.json["details"]["uid"].as_str();
                (*name == event.name && uid == before.map(|b| b.uid.as_str())).then(Owners::new)
            }
            (Ok(Some((object, owners))), Some(after)) => {
                let code = if before.is_some() { 200 } else { 201 };
                let (name, got) = Object::read(&self.json);
                let fits = self.code == code
                    && name == event.name
                    && got == *after
                    && got.same_content(&Object {
                        uid: before.map_or_else(|| got.uid.clone(), |b| b.uid.clone()),
                        ..object
                    })
                    && owners_of(&self.json) == owners;
                fits.then_some(owners)
            }
            _ => None,
        }
    }

    fn version(&self) -> i64 {
        let version = self.json["metadata"]["resourceVersion"].as_str();
        version.and_then(|v| v.parse().ok()).unwrap_or(-1)
    }
}

impl World {
    fn effect(&self, op: &Op) -> Effect {
        let live = |name: &Name, version: Option<i64>| {
            let live = self.objects.get(name).ok_or((404, "NotFound"))?;
            match version {
                Some(version) if version != live.version => Err((409, "Conflict")),
                _ => Ok(live),
            }
        };
        match op {
            Op::Create {
                name,
                object,
                manager,
            } => {
                if self.objects.contains_key(name) {
                    return Err((409, "AlreadyExists"));
                }
                let owners = self.credited(name, None, object, manager);
                Ok(Some((object.clone(), owners)))
            }
            Op::Update {
                name,
                object,
                version,
                manager,
            } => {
                let live = live(name, *version)?;
                let object = Object {
                    uid: live.uid.clone(),
                    ..object.clone()
                };
                let owners = self.credited(name, Some(live), &object, manager);
                Ok(Some((object, owners)))
            }
            Op::Merge {
                name,
                field,
                value,
                version,
                manager,
            } => {
                let live = live(name, *version)?;
                let mut object = live.clone();
                match value {
                    Some(value) => object.data.insert(field.clone(), value.clone()),
                    None => object.data.remove(field),
                };
                let owners = self.credited(name, Some(live), &object, manager);
                Ok(Some((object, owners)))
            }
            Op::Apply {
                name,
                config,
                manager,
                force,
            } => match self.apply(name, config, manager, *force) {
                Ok(applied) => Ok(Some(applied)),
                Err(_) => Err((409, "Conflict")),
            },
            Op::Delete { name, version } => live(name, *version).map(|_| None),
            Op::Get { .. } | Op::List { .. } => Ok(None),
        }
    }
}

/// Replays what happened; panics where an answer fits nowhere.
pub(crate) fn check(world: &mut World, events: &[Event], asked: Vec<Asked>, at: &str) {
    let (writes, mut open): (Vec<Asked>, Vec<Asked>) = asked.into_iter().partition(Asked::is_write);
    // A write that changed nothing answers with the revision of one that did; which it was shows on the way.
    let mut by_version: BTreeMap<i64, Vec<Asked>> = BTreeMap::new();
    let mut deletions: Vec<Asked> = Vec::new();
    for write in writes {
        match write.op {
            Op::Delete { .. } => deletions.push(write),
            _ => by_version.entry(write.version()).or_default().push(write),
        }
    }
    // Those that found the state of before the first event as they wanted it.
    let first = events.first().map_or(i64::MAX, |event| event.version);
    let earlier = by_version.keys().copied().take_while(|version| *version < first);
    for version in earlier.collect::<Vec<_>>() {
        open.extend(by_version.remove(&version).into_iter().flatten());
    }
    let mut events: VecDeque<&Event> = events.iter().collect();
    loop {
        let next = events.front().map_or(i64::MAX, |event| event.version);
        open.retain(|asked| {
            let stood = world.version <= asked.until && next > asked.from;
            !(stood && asked.is_true_of(world, next))
        });
        let Some(event) = events.pop_front() else { break };
        let candidates = if event.after.is_some() {
            by_version.get_mut(&event.version)
        } else {
            Some(&mut deletions)
        };
        let writer = candidates.and_then(|candidates| {
            let found = candidates.iter().enumerate();
            // A write that asked for less could also have found what another one made, and changed nothing.
            let (index, owners) = found
                .filter_map(|(index, asked)| Some((index, asked.wrote(world, event)?)))
                .max_by_key(|(index, _)| candidates[*index].names_a_version())?;
            candidates.swap_remove(index);
            Some(owners)
        });
        let Some(owners) = writer else {
            let others: Vec<&Asked> = open
                .iter()
                .chain(by_version.values().flatten())
                .chain(&deletions)
                .filter(|asked| {
                    asked.name() == Some(&event.name)
                        && asked.from < event.version
                        && asked.until >= event.version
                })
                .collect();
            panic!(
                "{at}: nobody's write: {event:?}\non {:?}\nclaimed by {:?}\nasked meanwhile: {others:#?}",
                world.objects.get(&event.name),
                by_version.get(&event.version)
            );
        };
        world.change(&event.name, event.version, event.after.clone());
        if event.after.is_some() {
            world.owners.insert(event.name.clone(), owners);
        }
        open.extend(by_version.remove(&event.version).into_iter().flatten());
    }
    open.extend(deletions);
    open.extend(by_version.into_values().flatten());
    assert!(
        open.is_empty(),
        "{at}: {} answers fit nowhere, such as {:#?}",
        open.len(),
        open[0]
    );
}
