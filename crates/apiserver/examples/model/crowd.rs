//! Many clients at once, and watchers that come and go among them.
//!
//! Clients work in rounds. After each, one more watcher (that missed nothing, or the round would not add up) tells what
//! happened in order, `history` replays it against every answer, and then each watcher must have seen just that.

use super::drive::{JSON, NAMESPACES, Server};
use super::history::{Asked, Op, check};
use super::watcher::Watcher;
use super::world::{Event, Filter, Name, Object, World};
use apiserver::Config;
use http::Method;
use machinery::clock::SystemClock;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use store::suite::model::Dice;
use tokio::sync::watch;

/// Operations of each client in a round.
const ROUND: usize = 40;
const WATCHERS: usize = 6;
/// Few enough that clients meet.
const NAMES: usize = 5;

/// What clients share.
struct Shared {
    server: Server,
    store: Arc<dyn store::Store>,
    /// The newest revision anybody was told.
    told: AtomicI64,
}

struct Client {
    shared: Arc<Shared>,
    number: usize,
    dice: Dice,
    /// Versions it has seen, for its preconditions.
    seen: BTreeMap<Name, i64>,
}

/// What a watcher was told, in order.
struct Seen {
    from: i64,
    filter: Filter,
    events: Vec<Json>,
    watcher: Watcher,
}

/// Runs about so many operations by so many clients; says what was done.
pub(crate) async fn run(
    store: Arc<dyn store::Store>,
    seed: u64,
    operations: usize,
    clients: usize,
) -> String {
    println!("seed {seed}, {operations} operations, {clients} clients");
    let config = Config::new(Arc::clone(&store), Arc::new(SystemClock));
    let server = apiserver::Server::start(config).await.expect("the server starts");
    let version = store.current_revision().await.expect("a revision");
    let shared = Arc::new(Shared {
        server: Server::new(&server),
        store,
        told: AtomicI64::new(version),
    });
    let mut world = World {
        version,
        floor: version,
        ..World::default()
    };
    let mut dice = Dice::new(seed);
    let mut crowd: Vec<Client> = (0..clients)
        .map(|number| Client {
            shared: Arc::clone(&shared),
            number,
            dice: Dice::new(seed.rotate_left(17) ^ (number as u64 + 1)),
            seen: BTreeMap::new(),
        })
        .collect();
    let mut witness = Watcher::from(&shared.server, Filter::default(), version).await;
    let (mut done, mut changes, mut told) = (0, 0, 0);
    let mut round = 0;
    while done < operations {
        round += 1;
        let at = format!("seed {seed}, round {round}");
        let (stop, stopped) = watch::channel(false);
        let watchers: Vec<_> = (0..WATCHERS)
            .map(|_| {
                let (filter, seed) = (any_filter(&mut dice), dice.roll(usize::MAX) as u64);
                tokio::spawn(observe(
                    Arc::clone(&shared),
                    filter,
                    world.version,
                    seed,
                    stopped.clone(),
                ))
            })
            .collect();
        let working: Vec<_> = crowd
            .drain(..)
            .map(|client| tokio::spawn(client.work()))
            .collect();
        let mut asked = Vec::new();
        for client in working {
            let (client, answers) = client.await.expect("a client finishes");
            asked.extend(answers);
            crowd.push(client);
        }
        done += asked.len();
        asked.push(shared.last(round).await);
        let events = witness_all(&mut witness, &world, &asked[asked.len() - 1], &shared).await;
        changes += events.len();
        check(&mut world, &events, asked, &at);
        stop.send_replace(true);
        for watcher in watchers {
            let seen = watcher.await.expect("a watcher finishes");
            told += seen.events.len();
            seen.compare(&world, &at).await;
        }
    }
    server.shutdown();
    format!(
        "seed {seed}: {done} operations of {clients} clients without a difference ({changes} changes, {told} of them told to {WATCHERS} watchers a round, {round} rounds)"
    )
}

fn any_filter(dice: &mut Dice) -> Filter {
    let label = (dice.roll(2) == 0).then(|| (format!("l{}", dice.roll(2)), format!("v{}", dice.roll(2))));
    let everywhere = dice.roll(2) == 0;
    Filter {
        namespace: if everywhere {
            String::new()
        } else {
            NAMESPACES[dice.roll(NAMESPACES.len())].to_owned()
        },
        label,
    }
}

/// Everything that happened in a round, as one watcher is told.
async fn witness_all(witness: &mut Watcher, world: &World, last: &Asked, shared: &Shared) -> Vec<Event> {
    let (last_name, last) = Object::read(&last.json);
    let mut objects = world.objects.clone();
    let mut events: Vec<Event> = Vec::new();
    loop {
        let Some(event) = witness.next().await else {
            *witness = Watcher::from(&shared.server, Filter::default(), witness.after).await;
            continue;
        };
        let (name, object) = Object::read(&event["object"]);
        assert!(
            object.version > witness.after || event["type"] == "BOOKMARK",
            "{event}"
        );
        witness.after = object.version;
        let before = objects.remove(&name);
        let (version, after) = match event["type"].as_str() {
            Some("BOOKMARK") => {
                objects.extend(before.map(|before| (name, before)));
                continue;
            }
            Some("DELETED") => (object.version, None),
            Some("ADDED") if before.is_none() => (object.version, Some(object)),
            Some("MODIFIED") if before.is_some() => (object.version, Some(object)),
            _ => panic!("{event} after {before:?}"),
        };
        objects.extend(after.clone().map(|after| (name.clone(), after)));
        let over = name == last_name && version == last.version;
        events.push(Event {
            version,
            name,
            before,
            after,
        });
        if over {
            return events;
        }
    }
}

/// Watches until told to stop, reconnecting now and then from where it was.
async fn observe(
    shared: Arc<Shared>,
    filter: Filter,
    from: i64,
    seed: u64,
    mut stop: watch::Receiver<bool>,
) -> Seen {
    let mut dice = Dice::new(seed);
    let mut watcher = Watcher::from(&shared.server, filter.clone(), from).await;
    let mut events = Vec::new();
    loop {
        let event = tokio::select! {
            // Ends only where it cannot lose an event half read.
            biased;
            event = watcher.next() => event,
            _ = stop.wait_for(|stop| *stop) => {
                return Seen { from, filter, events, watcher };
            }
        };
        let reconnect = match event {
            None => true,
            Some(event) => {
                assert_ne!(event["type"], "ERROR", "{event}");
                let (_, object) = Object::read(&event["object"]);
                watcher.after = object.version;
                if event["type"] != "BOOKMARK" {
                    events.push(event);
                }
                dice.roll(12) == 0
            }
        };
        if reconnect {
            watcher = Watcher::from(&shared.server, filter.clone(), watcher.after).await;
        }
    }
}

impl Seen {
    /// Compares with what happened, and goes on to the end of it.
    async fn compare(mut self, world: &World, at: &str) {
        let mut after = self.from;
        for event in &self.events {
            let wanted = world.next_event(after, &self.filter);
            let (name, object) = Object::read(&event["object"]);
            after = object.version;
            let got = event["type"].as_str().map(|kind| (kind, name, object));
            assert_eq!(got, wanted, "{at}: {:?}", self.filter);
        }
        self.watcher.catch_up(world).await;
    }
}

impl Shared {
    async fn ask(&self, client: usize, op: Op) -> Asked {
        let from = self.told.load(Ordering::Acquire);
        let (code, json) = self.send(&op, client).await;
        let until = self.store.current_revision().await.expect("a revision");
        let version = json["metadata"]["resourceVersion"].as_str();
        let version = version.and_then(|v| v.parse().ok()).unwrap_or(0);
        self.told.fetch_max(version, Ordering::AcqRel);
        Asked {
            op,
            from,
            until,
            code,
            json,
        }
    }

    /// The write that ends a round.
    async fn last(&self, round: usize) -> Asked {
        let config = [("l:base", "v".to_owned()), ("d:base", format!("round {round}"))];
        let op = Op::Apply {
            name: (NAMESPACES[0].to_owned(), "end".to_owned()),
            config: config.map(|(k, v)| (k.to_owned(), v)).into(),
            manager: "a0".to_owned(),
            force: true,
        };
        let asked = self.ask(usize::MAX, op).await;
        assert!(asked.code < 300, "{}", asked.json);
        asked
    }

    async fn send(&self, op: &Op, client: usize) -> (u16, Json) {
        let path = |name: &Name| format!("/api/v1/namespaces/{}/configmaps/{}", name.0, name.1);
        let with_version = |mut body: Json, version: &Option<i64>| {
            if let Some(version) = version {
                body["metadata"]["resourceVersion"] = version.to_string().into();
            }
            body
        };
        match op {
            Op::Create {
                name,
                object,
                manager,
            } => {
                let path = format!("/api/v1/namespaces/{}/configmaps?fieldManager={manager}", name.0);
                let body = object.json(name);
                self.server.call(Method::POST, &path, JSON, Some(&body)).await
            }
            Op::Update {
                name,
                object,
                version,
                manager,
            } => {
                let path = format!("{}?fieldManager={manager}", path(name));
                let body = with_version(object.json(name), version);
                self.server.call(Method::PUT, &path, JSON, Some(&body)).await
            }
            Op::Merge {
                name,
                field,
                value,
                version,
                manager,
            } => {
                let path = format!("{}?fieldManager={manager}", path(name));
                let body = with_version(json!({"data": {field: value}}), version);
                let kind = [
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                ][client % 2];
                self.server.call(Method::PATCH, &path, kind, Some(&body)).await
            }
            Op::Apply {
                name,
                config,
                manager,
                force,
            } => {
                let path = format!("{}?fieldManager={manager}&force={force}", path(name));
                let of = |prefix: &str| -> BTreeMap<String, String> {
                    let entries = config.iter();
                    let entries =
                        entries.filter_map(|(k, v)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone())));
                    entries.collect()
                };
                let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": of("d:"),
                    "metadata": {"name": name.1, "namespace": name.0, "labels": of("l:")}});
                let kind = "application/apply-patch+yaml";
                self.server.call(Method::PATCH, &path, kind, Some(&body)).await
            }
            Op::Delete { name, version } => {
                let options = match version {
                    Some(version) => json!({"preconditions": {"resourceVersion": version.to_string()}}),
                    None => json!({}),
                };
                self.server
                    .call(Method::DELETE, &path(name), JSON, Some(&options))
                    .await
            }
            Op::Get { name } => self.server.call(Method::GET, &path(name), JSON, None).await,
            Op::List { filter } => self.list(filter, client).await,
        }
    }

    /// A list, by half of the clients in pages.
    async fn list(&self, filter: &Filter, client: usize) -> (u16, Json) {
        let limit = if client.is_multiple_of(2) { 0 } else { 2 };
        let base = format!("{}?limit={limit}&{}", filter.path(), filter.query());
        let (code, mut whole) = self.server.call(Method::GET, &base, JSON, None).await;
        let mut token = whole["metadata"]["continue"].as_str().map(str::to_owned);
        while let Some(page) = token {
            let path = format!("{base}&continue={page}");
            let (code, mut json) = self.server.call(Method::GET, &path, JSON, None).await;
            assert_eq!(code, 200, "{json}");
            assert_eq!(
                json["metadata"]["resourceVersion"], whole["metadata"]["resourceVersion"],
                "every page shows the same moment"
            );
            token = json["metadata"]["continue"].as_str().map(str::to_owned);
            let more = json["items"].as_array_mut().map(std::mem::take);
            if let (Some(items), Some(more)) = (whole["items"].as_array_mut(), more) {
                items.extend(more);
            }
        }
        (code, whole)
    }
}

impl Client {
    async fn work(mut self) -> (Self, Vec<Asked>) {
        let mut answers = Vec::with_capacity(ROUND);
        for _ in 0..ROUND {
            let op = self.next();
            let asked = self.shared.ask(self.number, op).await;
            let (name, object) = Object::read(&asked.json);
            if asked.code < 300 && !name.1.is_empty() {
                self.seen.insert(name, object.version);
            }
            answers.push(asked);
        }
        (self, answers)
    }

    fn next(&mut self) -> Op {
        let name = (
            NAMESPACES[self.dice.roll(NAMESPACES.len())].to_owned(),
            format!("m{}", self.dice.roll(NAMES)),
        );
        let version = self.seen.get(&name).copied().filter(|_| self.dice.roll(2) == 0);
        let updater = format!("u{}", self.dice.roll(3));
        match self.dice.roll(100) {
            0..15 => Op::Create {
                name,
                object: object(self.some("l"), self.some("k")),
                manager: updater,
            },
            15..30 => Op::Update {
                name,
                object: object(self.some("l"), self.some("k")),
                version,
                manager: updater,
            },
            30..45 => Op::Merge {
                name,
                field: format!("k{}", self.dice.roll(3)),
                value: (self.dice.roll(3) > 0).then(|| format!("v{}", self.dice.roll(3))),
                version,
                manager: updater,
            },
            45..63 => {
                let (labels, data) = (self.some("l"), self.some("k"));
                let labels = labels.into_iter().map(|(k, v)| (format!("l:{k}"), v));
                let data = data.into_iter().map(|(k, v)| (format!("d:{k}"), v));
                Op::Apply {
                    name,
                    config: labels.chain(data).collect(),
                    manager: format!("a{}", self.dice.roll(3)),
                    force: self.dice.roll(2) == 0,
                }
            }
            63..73 => Op::Delete { name, version },
            73..88 => Op::Get { name },
            _ => Op::List {
                filter: any_filter(&mut self.dice),
            },
        }
    }

    fn some(&mut self, prefix: &str) -> BTreeMap<String, String> {
        let mut map: BTreeMap<String, String> = (0..self.dice.roll(3))
            .map(|_| {
                (
                    format!("{prefix}{}", self.dice.roll(3)),
                    format!("v{}", self.dice.roll(3)),
                )
            })
            .collect();
        map.insert("base".to_owned(), "v".to_owned());
        map
    }
}

fn object(labels: BTreeMap<String, String>, data: BTreeMap<String, String>) -> Object {
    Object {
        uid: String::new(),
        version: 0,
        labels,
        data,
        finalizers: BTreeSet::new(),
        deleting: false,
    }
}
