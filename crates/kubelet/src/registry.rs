//! Plugins that make themselves known: a socket in `plugins_registry/` whose server says what it is, and hears
//! whether the kubelet takes it.
//!
//! Follows upstream's plugin manager: a socket that comes is asked until it is taken, one that goes takes its plugin
//! with it, one that is made anew counts as both. Names that begin with a dot are not looked at.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::select_all;
use linux::watch::DirectoryWatch;
use parking_lot::Mutex;
use plugins::registration::registration_client::RegistrationClient;
use plugins::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::node::context::NodeContext;

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(122);
/// A registrar that does not answer is asked again.
const PATIENCE: Duration = Duration::from_secs(5);
/// A directory that cannot be watched is looked at this often.
const LOOK: Duration = Duration::from_secs(20);

/// A plugin, as it says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    pub name: String,
    /// Where it is spoken to.
    pub endpoint: String,
    pub versions: Vec<String>,
}

/// What takes plugins of one type.
#[async_trait]
pub trait Handler: Send + Sync {
    /// As in `CSIPlugin`.
    fn kind(&self) -> &'static str;
    async fn register(&self, node: &Arc<NodeContext>, plugin: &Plugin) -> Result<(), String>;
    async fn deregister(&self, node: &Arc<NodeContext>, plugin: &Plugin);
}

/// Called when a plugin came or went.
pub type OnChange = Arc<dyn Fn() + Send + Sync>;

/// Inode and the time of its last change: what tells a socket from an earlier one of its name.
type Identity = (u64, i64, i64);

type Taken = Arc<Mutex<Option<(usize, Plugin)>>>;

/// A socket that is there.
struct Socket {
    identity: Identity,
    taken: Taken,
    _asking: DropGuard,
}

pub struct Registry {
    node: Arc<NodeContext>,
    handlers: Arc<Vec<Arc<dyn Handler>>>,
    on_change: OnChange,
    sockets: BTreeMap<PathBuf, Socket>,
}

impl Registry {
    pub fn new(node: Arc<NodeContext>, handlers: Vec<Arc<dyn Handler>>, on_change: OnChange) -> Self {
        Self {
            node,
            handlers: Arc::new(handlers),
            on_change,
            sockets: BTreeMap::new(),
        }
    }

    /// Runs for ever.
    pub async fn follow(mut self) {
        let root = self.node.paths.plugins_registry();
        if let Err(error) = std::fs::create_dir_all(&root) {
            tracing::warn!(path = %root.display(), %error, "no plugin can register: its directory cannot be made");
            return;
        }
        let mut watches: BTreeMap<PathBuf, DirectoryWatch> = BTreeMap::new();
        loop {
            let (dirs, found) = scan(&root);
            watches.retain(|dir, _| dirs.contains(dir));
            let mut missed = false;
            for dir in dirs {
                let Entry::Vacant(place) = watches.entry(dir) else {
                    continue;
                };
                match DirectoryWatch::new(place.key()) {
                    Ok(watch) => {
                        place.insert(watch);
                        // What came between the look and the watch.
                        missed = true;
                    }
                    Err(error) => {
                        tracing::warn!(dir = %place.key().display(), %error, "cannot watch for plugins");
                    }
                }
            }
            self.compare(found).await;
            if missed {
                continue;
            }
            if watches.is_empty() {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let broken = {
                let heard = watches.iter_mut().map(|(dir, watch)| {
                    async move { watch.changed().await.err().map(|_| dir.clone()) }.boxed()
                });
                select_all(heard).await.0
            };
            if let Some(dir) = broken {
                watches.remove(&dir);
            }
        }
    }

    async fn compare(&mut self, found: BTreeMap<PathBuf, Identity>) {
        let gone: Vec<PathBuf> = self
            .sockets
            .iter()
            .filter(|(path, socket)| found.get(*path) != Some(&socket.identity))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            let Some(socket) = self.sockets.remove(&path) else {
                continue;
            };
            let taken = socket.taken.lock().take();
            if let Some((handler, plugin)) = taken {
                tracing::info!(plugin = plugin.name, "a plugin went");
                self.handlers[handler].deregister(&self.node, &plugin).await;
                (self.on_change)();
            }
        }
        for (path, identity) in found {
            if self.sockets.contains_key(&path) {
                continue;
            }
            let stop = CancellationToken::new();
            let taken = Taken::default();
            let asking = ask_until_taken(
                self.node.clone(),
                self.handlers.clone(),
                path.clone(),
                taken.clone(),
                self.on_change.clone(),
            );
            let until = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = until.cancelled() => {}
                    () = asking => {}
                }
            });
            let socket = Socket {
                identity,
                taken,
                _asking: stop.drop_guard(),
            };
            self.sockets.insert(path, socket);
        }
    }
}

async fn ask_until_taken(
    node: Arc<NodeContext>,
    handlers: Arc<Vec<Arc<dyn Handler>>>,
    path: PathBuf,
    taken: Taken,
    on_change: OnChange,
) {
    let mut delay = FIRST_RETRY;
    loop {
        match ask(&node, &handlers, &path, &taken).await {
            Ok(()) => {
                on_change();
                return;
            }
            Err(problem) => {
                tracing::warn!(socket = %path.display(), problem, "a plugin is not taken, will retry")
            }
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(LAST_RETRY);
    }
}

async fn ask(
    node: &Arc<NodeContext>,
    handlers: &[Arc<dyn Handler>],
    path: &Path,
    taken: &Taken,
) -> Result<(), String> {
    let channel = plugins::connect(&path.to_string_lossy())
        .await
        .map_err(|e| e.to_string())?;
    let mut client = RegistrationClient::new(channel);
    let info = tokio::time::timeout(PATIENCE, client.get_info(InfoRequest {}))
        .await
        .map_err(|_| "it does not say what it is".to_owned())?
        .map_err(|status| format!("failed to get plugin info: {}", status.message()))?
        .into_inner();
    let verdict = consider(node, handlers, path, info, taken).await;
    let told = client.notify_registration_status(RegistrationStatus {
        plugin_registered: verdict.is_ok(),
        error: verdict.clone().err().unwrap_or_default(),
    });
    match tokio::time::timeout(PATIENCE, told).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) => {
            tracing::warn!(socket = %path.display(), error = status.message(), "cannot answer a plugin")
        }
        Err(_) => tracing::warn!(socket = %path.display(), "a plugin does not hear its answer"),
    }
    verdict
}

async fn consider(
    node: &Arc<NodeContext>,
    handlers: &[Arc<dyn Handler>],
    path: &Path,
    info: PluginInfo,
    taken: &Taken,
) -> Result<(), String> {
    let (index, handler) = handlers
        .iter()
        .enumerate()
        .find(|(_, handler)| handler.kind() == info.r#type)
        .ok_or_else(|| {
            format!(
                "no handler registered for plugin type: {} at socket {}",
                info.r#type,
                path.display()
            )
        })?;
    let own = path.to_string_lossy().into_owned();
    let plugin = Plugin {
        name: info.name,
        endpoint: if info.endpoint.is_empty() {
            own
        } else {
            info.endpoint
        },
        versions: info.supported_versions,
    };
    handler.register(node, &plugin).await?;
    tracing::info!(plugin = plugin.name, kind = handler.kind(), "a plugin is taken");
    *taken.lock() = Some((index, plugin));
    Ok(())
}

/// The directories, and the sockets with what tells one from another of the same name.
fn scan(root: &Path) -> (Vec<PathBuf>, BTreeMap<PathBuf, Identity>) {
    let (mut dirs, mut sockets) = (vec![root.to_owned()], BTreeMap::new());
    let mut next = 0;
    while let Some(dir) = dirs.get(next).cloned() {
        next += 1;
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.filter_map(|e| e.ok()) {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else if metadata.file_type().is_socket() {
                let identity = (metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
                sockets.insert(entry.path(), identity);
            }
        }
    }
    (dirs, sockets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn sockets_are_found_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a");
        std::fs::create_dir(&deep).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let socket = deep.join("x.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let _hidden = UnixListener::bind(dir.path().join(".y.sock")).unwrap();
        let (dirs, first) = scan(dir.path());
        assert_eq!((dirs.len(), first.keys().collect::<Vec<_>>()), (2, vec![&socket]));
        drop(listener);
        std::fs::remove_file(&socket).unwrap();
        let _other = UnixListener::bind(&socket).unwrap();
        assert_ne!(scan(dir.path()).1, first, "another socket of the same name");
    }
}
