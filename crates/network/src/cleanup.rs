//! Taking away all an instance made in the network: what `kijabi down` does, and what a start after a
//! crash may do first.
//!
//! **Invariant:** afterwards links, routes, tables and system settings are as they were before the
//! instance's first start; a second call finds nothing.

use std::path::Path;

use linux::nftables::Batch;

use crate::pod::sysctls;
use crate::{Host, Names};

/// What was found and taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    pub links: Vec<String>,
    pub tables: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error("network clean-up")]
    Kernel(#[from] linux::Error),
    #[error("network clean-up")]
    Tables(#[from] linux::nftables::BatchError),
    #[error("network clean-up: {path}")]
    State {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// What an instance has in the kernel now.
pub fn leftovers(host: &Host, names: &Names) -> Result<Leftovers, CleanupError> {
    let prefix = names.link_prefix();
    let links = host.links.links()?.into_iter().map(|link| link.name);
    let tables = host
        .ruleset
        .tables()?
        .into_iter()
        .filter(|table| names.owns_table(table));
    Ok(Leftovers {
        links: links.filter(|name| name.starts_with(&prefix)).collect(),
        tables: tables
            .map(|table| format!("{:?} {}", table.family, table.name).to_lowercase())
            .collect(),
    })
}

/// Removes links and tables, restores changed settings, forgets addresses. `state` is the directory the
/// pod network was given.
pub fn cleanup(host: &Host, names: &Names, state: &Path) -> Result<Leftovers, CleanupError> {
    let found = leftovers(host, names)?;
    let mut batch = Batch::new();
    for table in host
        .ruleset
        .tables()?
        .iter()
        .filter(|table| names.owns_table(table))
    {
        batch.remove_table(table);
    }
    host.ruleset.commit(&batch)?;
    // Ports before the bridge, though the order does not matter to the kernel.
    for link in found.links.iter().rev() {
        host.links.delete_link(link)?;
    }
    sysctls::restore(host.namespaces.as_ref(), state)?;
    match std::fs::remove_dir_all(state) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(CleanupError::State {
            path: state.display().to_string(),
            source,
        }),
        _ => Ok(found),
    }
}
