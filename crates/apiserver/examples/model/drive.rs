//! Asks at random, and compares every answer.

use super::watcher::{Outcome, Watcher};
use super::world::{Filter, Name, Object, World, owners_of};
use apiserver::{Config, InProcess};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use machinery::clock::SystemClock;
use machinery::user::UserInfo;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::suite::model::Dice;
use wire::body::Body;

pub(crate) const NAMESPACES: [&str; 2] = ["default", "kube-node-lease"];
const WATCHERS: usize = 6;
const PAGES: usize = 8;
pub(crate) const JSON: &str = "application/json";

/// The server that is asked.
pub(crate) struct Server {
    service: InProcess,
    user: Arc<UserInfo>,
}

impl Server {
    pub(crate) fn new(server: &apiserver::Server) -> Self {
        Self {
            service: server.service(),
            user: Arc::new(UserInfo::authenticated("model", &["system:masters"])),
        }
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Option<&Json>,
    ) -> (u16, Json) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind);
        let body = body.map_or_else(Body::empty, |b| Body::from(b.to_string()));
        let request = request.body(body).expect("a request");
        let response = self.service.call_as(Arc::clone(&self.user), request).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        let json = serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{path}: {e}: {bytes:?}"));
        (code, json)
    }

    pub(crate) async fn open(&self, path: &str) -> Body {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = self.service.call_as(Arc::clone(&self.user), request).await;
        assert_eq!(response.status(), 200, "{path}");
        response.into_body()
    }
}

/// A list that is not read to its end.
struct Page {
    filter: Filter,
    token: String,
    version: i64,
    after: Name,
}

struct Driver {
    server: Server,
    store: Arc<dyn store::Store>,
    dice: Dice,
    world: World,
    watchers: Vec<Watcher>,
    pages: Vec<Page>,
    compacted: i64,
    at: String,
}

/// Runs so many operations; says what was done.
pub(crate) async fn run(store: Arc<dyn store::Store>, seed: u64, operations: usize) -> String {
    println!("seed {seed}, {operations} operations");
    let config = Config::new(Arc::clone(&store), Arc::new(SystemClock));
    let server = apiserver::Server::start(config).await.expect("the server starts");
    let version = store.current_revision().await.expect("a revision");
    let mut driver = Driver {
        server: Server::new(&server),
        store,
        dice: Dice::new(seed),
        world: World {
            version,
            floor: version,
            ..World::default()
        },
        watchers: Vec::new(),
        pages: Vec::new(),
        compacted: version,
        at: String::new(),
    };
    let mut done = BTreeMap::<&str, usize>::new();
    for operation in 0..operations {
        driver.at = format!("seed {seed}, operation {operation}");
        let what = driver.step().await;
        *done.entry(what).or_default() += 1;
    }
    driver.watch_all().await;
    server.shutdown();
    let counts: Vec<String> = done
        .iter()
        .map(|(what, count)| format!("{what} {count}"))
        .collect();
    format!(
        "seed {seed}: {operations} operations without a difference ({})",
        counts.join(", ")
    )
}

impl Driver {
    async fn step(&mut self) -> &'static str {
        match self.dice.roll(1000) {
            0..200 => self.create().await,
            200..340 => self.update().await,
            340..440 => self.merge_patch().await,
            440..480 => self.json_patch().await,
            480..640 => self.apply().await,
            640..740 => self.delete().await,
            740..745 => self.delete_collection().await,
            745..800 => self.get().await,
            800..860 => self.list().await,
            860..930 => self.page().await,
            930..998 => self.watch().await,
            _ => self.compact().await,
        }
    }

    fn name(&mut self) -> Name {
        let namespace = NAMESPACES[self.dice.roll(NAMESPACES.len())].to_owned();
        (namespace, format!("m{}", self.dice.roll(12)))
    }

    fn pick(&mut self, prefix: &str, sides: usize) -> String {
        format!("{prefix}{}", self.dice.roll(sides))
    }

    /// Entries of a map, with one that never goes: whose a map without entries is, and what an object without any
    /// manager is, are rules of their own.
    fn some(&mut self, prefix: &str) -> BTreeMap<String, String> {
        let mut map: BTreeMap<String, String> = (0..self.dice.roll(4))
            .map(|_| (self.pick(prefix, 4), self.pick("v", 3)))
            .collect();
        map.insert("base".to_owned(), "v".to_owned());
        map
    }

    fn filter(&mut self) -> Filter {
        let label = (self.dice.roll(2) == 0).then(|| (self.pick("l", 4), self.pick("v", 3)));
        let everywhere = label.is_some() && self.dice.roll(2) == 0;
        Filter {
            namespace: if everywhere {
                String::new()
            } else {
                NAMESPACES[self.dice.roll(NAMESPACES.len())].to_owned()
            },
            label,
        }
    }

    /// The query of a write: a manager, and perhaps a dry run.
    fn writes(&mut self, kind: &str) -> (String, String, bool) {
        let manager = self.pick(kind, 3);
        let dry_run = self.dice.roll(10) == 0;
        let query = format!(
            "fieldManager={manager}{}",
            if dry_run { "&dryRun=All" } else { "" }
        );
        (manager, query, dry_run)
    }

    fn path(name: &Name) -> String {
        format!("/api/v1/namespaces/{}/configmaps/{}", name.0, name.1)
    }

    #[track_caller]
    fn refused(&self, (code, json): &(u16, Json), want: u16, reason: &str) {
        let got = json["reason"].as_str().unwrap_or_default();
        assert_eq!((*code, got), (want, reason), "{}: {json}", self.at);
    }

    /// Takes in a write that was to leave `wanted` behind.
    #[track_caller]
    fn written(&mut self, name: &Name, answer: &(u16, Json), wanted: &Object, manager: &str, dry_run: bool) {
        let (code, json) = answer;
        assert!(*code == 200 || *code == 201, "{}: {code} {json}", self.at);
        let (got_name, got) = Object::read(json);
        let before = self.world.objects.get(name).cloned();
        let wanted = Object {
            uid: before.as_ref().map_or_else(|| got.uid.clone(), |b| b.uid.clone()),
            ..wanted.clone()
        };
        assert!(
            got_name == *name && got.same_content(&wanted),
            "{}: wanted {wanted:?}, got {json}",
            self.at
        );
        if dry_run {
            return;
        }
        let same = before.as_ref().is_some_and(|b| b.same_content(&wanted));
        if same {
            assert_eq!(
                Some(got.version),
                before.map(|b| b.version),
                "{}: nothing changed: {json}",
                self.at
            );
        } else {
            self.world.credit(name, before.as_ref(), &wanted, manager);
            self.world.change(name, got.version, Some(got));
        }
        assert_eq!(
            self.world.owners.get(name),
            Some(&owners_of(json)),
            "{}: {json}",
            self.at
        );
    }

    /// The object is gone after a write.
    async fn gone(&mut self, name: &Name) {
        let version = self.store.current_revision().await.expect("a revision");
        self.world.change(name, version, None);
    }

    async fn create(&mut self) -> &'static str {
        let name = self.name();
        let (manager, query, dry_run) = self.writes("u");
        let held = self.dice.roll(8) == 0;
        let object = Object {
            uid: String::new(),
            version: 0,
            labels: self.some("l"),
            data: self.some("k"),
            finalizers: if held {
                BTreeSet::from(["x.io/hold".to_owned()])
            } else {
                BTreeSet::new()
            },
            deleting: false,
        };
        let path = format!("/api/v1/namespaces/{}/configmaps?{query}", name.0);
        let body = object.json(&name);
        let answer = self.server.call(Method::POST, &path, JSON, Some(&body)).await;
        if self.world.objects.contains_key(&name) {
            self.refused(&answer, 409, "AlreadyExists");
        } else {
            assert_eq!(answer.0, 201, "{}", self.at);
            self.written(&name, &answer, &object, &manager, dry_run);
        }
        "create"
    }

    async fn update(&mut self) -> &'static str {
        let name = self.name();
        let (manager, query, dry_run) = self.writes("u");
        let path = format!("{}?{query}", Self::path(&name));
        let Some(live) = self.world.objects.get(&name).cloned() else {
            let body = json!({"metadata": {"name": name.1}});
            let answer = self.server.call(Method::PUT, &path, JSON, Some(&body)).await;
            self.refused(&answer, 404, "NotFound");
            return "update";
        };
        let mut wanted = live.clone();
        match self.dice.roll(5) {
            0 => wanted.labels = self.some("l"),
            1 | 2 => wanted.data = self.some("k"),
            3 => wanted.finalizers.clear(),
            _ => {}
        }
        let mut body = wanted.json(&name);
        let stale = self.dice.roll(4);
        match stale {
            0 => body["metadata"]["resourceVersion"] = (live.version - 1).to_string().into(),
            1 => body["metadata"]["resourceVersion"] = live.version.to_string().into(),
            2 if self.dice.roll(4) == 0 => {
                body["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
                let answer = self.server.call(Method::PUT, &path, JSON, Some(&body)).await;
                self.refused(&answer, 409, "Conflict");
                return "update";
            }
            _ => {}
        }
        let answer = self.server.call(Method::PUT, &path, JSON, Some(&body)).await;
        if stale == 0 {
            self.refused(&answer, 409, "Conflict");
        } else {
            self.settled(&name, &answer, &wanted, &manager, dry_run).await;
        }
        "update"
    }

    /// A write to an object that may have held on only by its finalizers.
    async fn settled(
        &mut self,
        name: &Name,
        answer: &(u16, Json),
        wanted: &Object,
        manager: &str,
        dry_run: bool,
    ) {
        if wanted.deleting && wanted.finalizers.is_empty() {
            assert_eq!(answer.0, 200, "{}: {}", self.at, answer.1);
            if !dry_run {
                self.gone(name).await;
            }
            return;
        }
        self.written(name, answer, wanted, manager, dry_run);
    }

    async fn merge_patch(&mut self) -> &'static str {
        let name = self.name();
        let (manager, query, dry_run) = self.writes("u");
        let kind = ["merge", "strategic-merge"][self.dice.roll(2)];
        let (field, value) = (self.pick("k", 4), self.pick("v", 3));
        let remove = self.dice.roll(3) == 0;
        let label = self.dice.roll(3) == 0;
        let value = (!remove).then_some(value);
        let mut body = if label {
            json!({"metadata": {"labels": {field.replace('k', "l"): value}}})
        } else {
            json!({"data": {&field: value}})
        };
        let mut stale = false;
        let live = self.world.objects.get(&name).cloned();
        if let Some(live) = &live
            && self.dice.roll(4) == 0
        {
            stale = self.dice.roll(2) == 0;
            let version = if stale { live.version - 1 } else { live.version };
            body["metadata"]["resourceVersion"] = version.to_string().into();
        }
        let path = format!("{}?{query}", Self::path(&name));
        let kind = format!("application/{kind}-patch+json");
        let answer = self.server.call(Method::PATCH, &path, &kind, Some(&body)).await;
        let Some(live) = live else {
            self.refused(&answer, 404, "NotFound");
            return "merge patch";
        };
        if stale {
            self.refused(&answer, 409, "Conflict");
            return "merge patch";
        }
        let mut wanted = live;
        let (map, key) = if label {
            (&mut wanted.labels, field.replace('k', "l"))
        } else {
            (&mut wanted.data, field)
        };
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
        self.settled(&name, &answer, &wanted, &manager, dry_run).await;
        "merge patch"
    }

    async fn json_patch(&mut self) -> &'static str {
        let name = self.name();
        let (manager, query, dry_run) = self.writes("u");
        let (field, value, new) = (self.pick("k", 4), self.pick("v", 3), self.pick("v", 3));
        let at = format!("/data/{field}");
        let body =
            json!([{"op": "test", "path": at, "value": value}, {"op": "replace", "path": at, "value": new}]);
        let path = format!("{}?{query}", Self::path(&name));
        let kind = "application/json-patch+json";
        let answer = self.server.call(Method::PATCH, &path, kind, Some(&body)).await;
        let Some(mut wanted) = self.world.objects.get(&name).cloned() else {
            self.refused(&answer, 404, "NotFound");
            return "json patch";
        };
        if wanted.data.get(&field) != Some(&value) {
            self.refused(&answer, 422, "Invalid");
            return "json patch";
        }
        wanted.data.insert(field, new);
        self.settled(&name, &answer, &wanted, &manager, dry_run).await;
        "json patch"
    }

    async fn apply(&mut self) -> &'static str {
        let name = self.name();
        let (manager, query, dry_run) = self.writes("a");
        let force = self.dice.roll(2) == 0;
        let (labels, data) = (self.some("l"), self.some("k"));
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": name.1, "namespace": name.0, "labels": labels}});
        let fields = labels.iter().map(|(k, v)| (format!("l:{k}"), v.clone()));
        let config: BTreeMap<String, String> = fields
            .chain(data.iter().map(|(k, v)| (format!("d:{k}"), v.clone())))
            .collect();
        let path = format!("{}?{query}&force={force}", Self::path(&name));
        let kind = "application/apply-patch+yaml";
        let answer = self.server.call(Method::PATCH, &path, kind, Some(&body)).await;
        let (wanted, owners) = match self.world.apply(&name, &config, &manager, force) {
            Ok(applied) => applied,
            Err(contested) => {
                self.refused(&answer, 409, "Conflict");
                let causes = answer.1["details"]["causes"].as_array().into_iter().flatten();
                let named: BTreeSet<String> = causes
                    .filter_map(|cause| cause["field"].as_str())
                    .map(|f| f.replace(".metadata.labels.", "l:").replace(".data.", "d:"))
                    .collect();
                assert_eq!(named, contested, "{}: {}", self.at, answer.1);
                return "apply";
            }
        };
        let (_, got) = Object::read(&answer.1);
        let before = self.world.objects.get(&name).cloned();
        let wanted = Object {
            uid: got.uid.clone(),
            version: got.version,
            ..wanted
        };
        assert_eq!(
            answer.0,
            if before.is_some() { 200 } else { 201 },
            "{}: {}",
            self.at,
            answer.1
        );
        assert_eq!(got, wanted, "{}", self.at);
        assert_eq!(owners_of(&answer.1), owners, "{}: {}", self.at, answer.1);
        if dry_run {
            return "apply";
        }
        let same = before.as_ref().is_some_and(|b| b.same_content(&wanted));
        let moved = before.as_ref().is_none_or(|b| b.version != got.version);
        // Whose the containers of fields are is not modelled: a version may move for that alone.
        let must_move = !same || self.world.owners.get(&name) != Some(&owners);
        assert!(moved || !must_move, "{}: {} stayed", self.at, got.version);
        self.world.owners.insert(name.clone(), owners);
        if moved {
            self.world.change(&name, got.version, Some(got));
        }
        "apply"
    }

    async fn delete(&mut self) -> &'static str {
        let name = self.name();
        let dry_run = self.dice.roll(10) == 0;
        let live = self.world.objects.get(&name).cloned();
        let mut options = json!({});
        let mut wrong = false;
        if let Some(live) = &live {
            match self.dice.roll(6) {
                0 => options["preconditions"] = json!({"uid": live.uid}),
                1 => options["preconditions"] = json!({"resourceVersion": live.version.to_string()}),
                2 => {
                    wrong = true;
                    options["preconditions"] = json!({"resourceVersion": (live.version - 1).to_string()});
                }
                _ => {}
            }
        }
        if dry_run {
            options["dryRun"] = json!(["All"]);
        }
        let answer = self
            .server
            .call(Method::DELETE, &Self::path(&name), JSON, Some(&options))
            .await;
        match live {
            None => self.refused(&answer, 404, "NotFound"),
            Some(_) if wrong => self.refused(&answer, 409, "Conflict"),
            Some(live) => {
                assert_eq!(answer.0, 200, "{}: {}", self.at, answer.1);
                if !dry_run {
                    self.deleted(&name, live).await;
                }
            }
        }
        "delete"
    }

    /// An object was asked to go.
    async fn deleted(&mut self, name: &Name, live: Object) {
        if live.finalizers.is_empty() {
            self.gone(name).await;
        } else if !live.deleting {
            let (_, json) = self.server.call(Method::GET, &Self::path(name), JSON, None).await;
            let (_, now) = Object::read(&json);
            let wanted = Object {
                deleting: true,
                version: now.version,
                ..live
            };
            assert_eq!(now, wanted, "{}", self.at);
            self.world.change(name, now.version, Some(now));
        }
    }

    async fn delete_collection(&mut self) -> &'static str {
        let mut filter = self.filter();
        filter.namespace = NAMESPACES[self.dice.roll(NAMESPACES.len())].to_owned();
        let going = self.world.at(self.world.version, &filter);
        let path = format!("{}?{}", filter.path(), filter.query());
        let base = self.store.current_revision().await.expect("a revision");
        let (code, json) = self.server.call(Method::DELETE, &path, JSON, None).await;
        assert_eq!(code, 200, "{}: {json}", self.at);
        let mut version = base;
        for (name, live) in going {
            if live.finalizers.is_empty() {
                version += 1;
                self.world.change(&name, version, None);
            } else if !live.deleting {
                version += 1;
                let marked = Object {
                    deleting: true,
                    version,
                    ..live
                };
                self.world.change(&name, version, Some(marked));
            }
        }
        assert_eq!(
            self.store.current_revision().await.expect("a revision"),
            version,
            "{}",
            self.at
        );
        "deletecollection"
    }

    async fn get(&mut self) -> &'static str {
        let name = self.name();
        let answer = self
            .server
            .call(Method::GET, &Self::path(&name), JSON, None)
            .await;
        match self.world.objects.get(&name) {
            None => self.refused(&answer, 404, "NotFound"),
            Some(live) => {
                assert_eq!(
                    Object::read(&answer.1),
                    (name.clone(), live.clone()),
                    "{}",
                    self.at
                );
                assert_eq!(
                    self.world.owners.get(&name),
                    Some(&owners_of(&answer.1)),
                    "{}",
                    self.at
                );
            }
        }
        "get"
    }

    /// Checks a list against the state it says it shows.
    #[track_caller]
    fn listed(&self, json: &Json, filter: &Filter, wanted_at: i64, after: Option<&Name>) -> Vec<Name> {
        let items = json["items"].as_array().map_or(&[][..], Vec::as_slice);
        let got: Vec<(Name, Object)> = items.iter().map(Object::read).collect();
        let wanted: Vec<(Name, Object)> = self
            .world
            .at(wanted_at, filter)
            .into_iter()
            .filter(|(name, _)| after.is_none_or(|after| name > after))
            .take(if json["metadata"]["continue"].is_null() {
                usize::MAX
            } else {
                got.len()
            })
            .collect();
        assert_eq!(got, wanted, "{}: {filter:?} at {wanted_at}", self.at);
        got.into_iter().map(|(name, _)| name).collect()
    }

    fn version_of(json: &Json) -> i64 {
        let version = json["metadata"]["resourceVersion"].as_str();
        version.and_then(|v| v.parse().ok()).unwrap_or(-1)
    }

    async fn list(&mut self) -> &'static str {
        let filter = self.filter();
        let oldest = self.world.floor.max(self.compacted);
        let span = usize::try_from(self.world.version - oldest).unwrap_or(0);
        let past = self.world.version - self.dice.roll(span.min(400) + 1) as i64;
        let (version, exact) = match self.dice.roll(4) {
            0 => (
                format!("&resourceVersion={past}&resourceVersionMatch=Exact"),
                true,
            ),
            1 => (
                format!("&resourceVersion={past}&resourceVersionMatch=NotOlderThan"),
                false,
            ),
            2 => ("&resourceVersion=0".to_owned(), false),
            _ => (String::new(), false),
        };
        let path = format!("{}?{}{version}", filter.path(), filter.query());
        let (code, json) = self.server.call(Method::GET, &path, JSON, None).await;
        assert_eq!(code, 200, "{}: {path} {json}", self.at);
        let shown = Self::version_of(&json);
        if exact {
            assert_eq!(shown, past, "{}", self.at);
        } else if version.is_empty() {
            assert!(shown >= self.world.version, "{}: {shown}", self.at);
        } else if version != "&resourceVersion=0" {
            assert!(shown >= past, "{}: {shown}", self.at);
        }
        if shown >= oldest {
            self.listed(&json, &filter, shown, None);
        }
        "list"
    }

    async fn page(&mut self) -> &'static str {
        if self.pages.len() < PAGES && self.dice.roll(2) == 0 || self.pages.is_empty() {
            let filter = self.filter();
            let path = format!(
                "{}?limit={}&{}",
                filter.path(),
                1 + self.dice.roll(3),
                filter.query()
            );
            let (code, json) = self.server.call(Method::GET, &path, JSON, None).await;
            assert_eq!(code, 200, "{}: {json}", self.at);
            let version = Self::version_of(&json);
            let names = self.listed(&json, &filter, version, None);
            self.keep(&json, filter, version, names);
            return "first page";
        }
        let at = self.dice.roll(self.pages.len());
        let page = self.pages.swap_remove(at);
        let path = format!(
            "{}?limit={}&continue={}&{}",
            page.filter.path(),
            1 + self.dice.roll(5),
            page.token,
            page.filter.query()
        );
        let (code, json) = self.server.call(Method::GET, &path, JSON, None).await;
        if code == 410 {
            assert!(page.version < self.world.version, "{}: {json}", self.at);
            let token = json["metadata"]["continue"]
                .as_str()
                .expect("a token to go on with");
            let path = format!("{}?continue={token}&{}", page.filter.path(), page.filter.query());
            let (code, json) = self.server.call(Method::GET, &path, JSON, None).await;
            assert_eq!(code, 200, "{}: {json}", self.at);
            self.listed(&json, &page.filter, self.world.version, Some(&page.after));
            return "expired page";
        }
        assert_eq!(code, 200, "{}: {json}", self.at);
        assert_eq!(Self::version_of(&json), page.version, "{}", self.at);
        if page.version >= self.world.floor {
            let names = self.listed(&json, &page.filter, page.version, Some(&page.after));
            self.keep(&json, page.filter, page.version, names);
        }
        "next page"
    }

    fn keep(&mut self, json: &Json, filter: Filter, version: i64, names: Vec<Name>) {
        if let (Some(token), Some(after)) = (json["metadata"]["continue"].as_str(), names.last()) {
            self.pages.push(Page {
                filter,
                token: token.to_owned(),
                version,
                after: after.clone(),
            });
        }
    }

    async fn watch(&mut self) -> &'static str {
        if self.watchers.len() < WATCHERS {
            let filter = self.filter();
            let watcher = if self.dice.roll(2) == 0 {
                Watcher::with_initial(&self.server, &self.world, filter).await
            } else {
                Watcher::from(&self.server, filter, self.world.version).await
            };
            self.watchers.push(watcher);
            return "watch begun";
        }
        let at = self.dice.roll(self.watchers.len());
        let mut watcher = self.watchers.swap_remove(at);
        if watcher.after < self.world.floor {
            return "watch given up";
        }
        if let Outcome::Ended = watcher.catch_up(&self.world).await {
            return "watch ended";
        }
        match self.dice.roll(10) {
            0 => return "watch closed",
            // From where it was, and from some way back.
            1 | 2 => watcher = Watcher::from(&self.server, watcher.filter, watcher.after).await,
            3 => {
                let oldest = self.world.floor.max(self.compacted);
                let back = usize::try_from(self.world.version - oldest).unwrap_or(0).min(80);
                let from = self.world.version - self.dice.roll(back + 1) as i64;
                watcher = Watcher::from(&self.server, watcher.filter, from).await;
            }
            _ => {}
        }
        self.watchers.push(watcher);
        "watch read"
    }

    async fn watch_all(&mut self) {
        for watcher in &mut self.watchers {
            if watcher.after >= self.world.floor {
                watcher.catch_up(&self.world).await;
            }
        }
    }

    async fn compact(&mut self) -> &'static str {
        let to = self.world.version - self.dice.roll(50) as i64;
        if to > self.compacted {
            self.store.compact(to).await.expect("compacts");
            self.compacted = to;
        }
        "compact"
    }
}
