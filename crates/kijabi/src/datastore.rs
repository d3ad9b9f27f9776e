//! Where the cluster is kept: on this machine's disk, or in an etcd. Flags are k3s' and upstream's.

use crate::cli::Up;
use crate::instance::Instance;
use anyhow::{Context, bail};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::{Elsewhere, Etcd, EtcdTls, Store};

/// How long etcd may take to answer at the start.
const PATIENCE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(500);
/// What upstream's keys begin with, unless told otherwise.
const USUAL_PREFIX: &str = "/registry";

pub(crate) async fn open(options: &Up, instance: &Instance) -> anyhow::Result<Arc<dyn Store>> {
    if options.datastore_endpoint.is_empty() {
        return Ok(Arc::new(embedded(instance).await?));
    }
    etcd(options).await
}

async fn etcd(options: &Up) -> anyhow::Result<Arc<dyn Store>> {
    let endpoints = &options.datastore_endpoint;
    let strange = endpoints
        .iter()
        .find(|e| !e.starts_with("http://") && !e.starts_with("https://"));
    if let Some(endpoint) = strange {
        bail!(
            "--datastore-endpoint {endpoint}: only etcd is known, as http://HOST:PORT or https://HOST:PORT"
        );
    }
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let tls = EtcdTls {
        authority: options.datastore_cafile.as_deref().map(read).transpose()?,
        identity: match (&options.datastore_certfile, &options.datastore_keyfile) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => None,
        },
    };
    let etcd = Etcd::connect_with(endpoints, &tls)
        .with_context(|| format!("cannot use etcd at {}", endpoints.join(", ")))?;
    // etcd may be starting at the same time.
    let answers = async {
        loop {
            match tokio::time::timeout(PATIENCE, etcd.current_revision()).await {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "etcd does not answer yet"),
                Err(_) => tracing::warn!("etcd does not answer yet"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    if tokio::time::timeout(PATIENCE, answers).await.is_err() {
        bail!(
            "etcd at {} does not answer; is it running, and are --datastore-cafile, --datastore-certfile and --datastore-keyfile right?",
            endpoints.join(", ")
        );
    }
    let etcd: Arc<dyn Store> = Arc::new(etcd);
    Ok(
        if options.etcd_prefix.trim_matches('/') == USUAL_PREFIX.trim_matches('/') {
            etcd
        } else {
            Arc::new(Elsewhere::new(etcd, &options.etcd_prefix))
        },
    )
}

async fn embedded(instance: &Instance) -> anyhow::Result<store::Embedded> {
    let directory = instance.server().join("db");
    std::fs::create_dir_all(&directory).with_context(|| {
        format!(
            "cannot create {}; is the disk full or read-only?",
            directory.display()
        )
    })?;
    store::Embedded::open(&directory, store::embedded::Options::default())
        .await
        .with_context(|| format!("cannot open the store in {}", directory.display()))
}
