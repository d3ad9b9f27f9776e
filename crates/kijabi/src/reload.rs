//! Files that take effect when they change: their directory is watched, nothing polls.
//!
//! The directory and not the file, because whoever replaces a file well renames a new one over it, and a mounted
//! ConfigMap changes a link beside it.

use linux::watch::DirectoryWatch;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// Hands the file's text to `changed` whenever it is another one than `text`, until `stop`.
pub(crate) fn follow<F, R>(
    path: &Path,
    text: String,
    stop: CancellationToken,
    mut changed: F,
) -> anyhow::Result<()>
where
    F: FnMut(String) -> R + Send + 'static,
    R: Future<Output = anyhow::Result<()>> + Send,
{
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut watch = DirectoryWatch::new(&directory)?;
    let path = path.to_owned();
    tokio::spawn(async move {
        let mut known = text;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = watch.changed() => if let Err(error) = changed {
                    tracing::error!(path = %path.display(), %error, "watching a file; it is not followed any more");
                    return;
                },
            }
            // Between a removal and what takes the file's place there is none.
            let Ok(text) = tokio::fs::read_to_string(&path).await else {
                continue;
            };
            if text == known || text.is_empty() {
                continue;
            }
            known.clone_from(&text);
            match changed(text).await {
                Ok(()) => tracing::info!(path = %path.display(), "a changed file took effect"),
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(path = %path.display(), error, "a changed file is not used; the one before stays in effect");
                }
            }
        }
    });
    Ok(())
}
