//! A running runtime, and taking one's things away.

use std::path::Path;
use std::sync::Arc;

use cri::network::PodNetwork;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::images::Images;
use crate::pods::Engine;
use crate::server::{self, Streaming};
use crate::{Config, RuntimeError};

/// The runtime, serving CRI on its socket. Dropping it stops the serving; pods live on.
#[derive(Debug)]
pub struct Runtime {
    engine: Arc<Engine>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Runtime {
    /// Adopts what an earlier runtime on the same root left running, and serves. When this returns the
    /// socket answers.
    pub async fn start(config: Config, network: Arc<dyn PodNetwork>) -> Result<Runtime, RuntimeError> {
        let failed = |operation| {
            let path = config.root.clone();
            move |source| RuntimeError::Io {
                operation,
                path,
                source,
            }
        };
        std::fs::create_dir_all(&config.root).map_err(failed("create"))?;
        let recover = failed("find the pods under");
        let streams = failed("serve the streams of");
        let engine = Engine::open(config, network)?;
        engine.recover().await.map_err(recover)?;
        engine.images.collect().await?;
        let (stop, stopped) = watch::channel(false);
        let streaming = Streaming::start(engine.clone(), stopped.clone())
            .await
            .map_err(streams)?;
        let server = server::listen(engine.clone(), streaming, stopped)?;
        Ok(Runtime { engine, stop, server })
    }

    /// The image store, for those in the same process.
    pub fn images(&self) -> &Images {
        &self.engine.images
    }

    /// Stops serving. Pods and their shims live on.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        let patience = std::time::Duration::from_secs(2);
        // An event listener may hold its stream open for ever; it gets no more than this.
        if tokio::time::timeout(patience, &mut self.server).await.is_err() {
            self.server.abort();
        }
    }

    /// Stops and removes every pod, then stops serving.
    pub async fn remove_pods(&self) -> Result<(), RuntimeError> {
        self.engine
            .remove_everything()
            .await
            .map_err(|status| RuntimeError::Pods(status.message().to_owned()))
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Removes everything a runtime on `root` has made on the host but the images: pods with their processes,
/// cgroups, mounts and networks. No runtime may be serving there. `network` takes the pods' networks down.
pub async fn cleanup(config: Config, network: Arc<dyn PodNetwork>) -> Result<(), RuntimeError> {
    if !config.root.exists() {
        return Ok(());
    }
    let root = config.root.clone();
    let failed = |operation| {
        let path = root.clone();
        move |source| RuntimeError::Io {
            operation,
            path,
            source,
        }
    };
    let engine = Engine::open(config, network)?;
    engine.recover().await.map_err(failed("find the pods under"))?;
    let removed = engine.remove_everything().await;
    unmount(&root)?;
    for dir in [engine.pods_dir(), root.join("netns")] {
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("remove pods under")(error));
            }
            _ => {}
        }
    }
    removed.map_err(|status| RuntimeError::Pods(status.message().to_owned()))
}

fn unmount(root: &Path) -> Result<(), RuntimeError> {
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    linux::mount::unmount_under(&linux::Kernel, &root)?;
    Ok(())
}
