//! `kijabi image`: images on the node, through the running instance's runtime.

use crate::cli::{Image, ImageCommand};
use crate::instance::Instance;
use anyhow::{Context, bail};
use bytes::Bytes;
use cri::images::{CheckRequest, ImportRequest, Progress, PullRequest};
use cri::v1;
use futures::StreamExt as _;
use std::path::Path;

/// Data of one message of an import from standard input.
const CHUNK: usize = 1 << 20;

pub(crate) async fn run(command: Image) -> anyhow::Result<()> {
    let mut clients = connect(&command.data_dir.data_dir).await?;
    match command.command {
        ImageCommand::Import { path, name } => {
            let source = if path == Path::new("-") {
                Source::Stdin
            } else {
                Source::Path(
                    path.canonicalize()
                        .with_context(|| format!("cannot open {}", path.display()))?,
                )
            };
            for image in import(&mut clients, source, name.unwrap_or_default(), |line| {
                eprintln!("{line}")
            })
            .await?
            {
                println!("{image}");
            }
        }
        ImageCommand::List => list(&mut clients).await?,
        ImageCommand::Check => check(&mut clients).await?,
        ImageCommand::Pull { image, creds } => {
            let (username, password) = match creds.as_deref().map(|creds| creds.split_once(':')) {
                None => ("", ""),
                Some(Some(pair)) => pair,
                Some(None) => bail!("--creds needs USER:PASSWORD"),
            };
            let request = PullRequest {
                image,
                username: username.to_owned(),
                password: password.to_owned(),
            };
            let answer = clients.kijabi.pull(request).await.map_err(plain)?;
            for image in drain(answer.into_inner(), |line| eprintln!("{line}")).await? {
                println!("{image}");
            }
        }
        ImageCommand::Remove { images } => {
            for image in images {
                let spec = v1::ImageSpec {
                    image: image.clone(),
                    ..v1::ImageSpec::default()
                };
                let known = clients
                    .images
                    .image_status(v1::ImageStatusRequest {
                        image: Some(spec.clone()),
                        verbose: false,
                    })
                    .await
                    .map_err(plain)?;
                if known.into_inner().image.is_none() {
                    bail!("no image {image} on this node");
                }
                clients
                    .images
                    .remove_image(v1::RemoveImageRequest { image: Some(spec) })
                    .await
                    .map_err(plain)?;
                println!("{image}");
            }
        }
    }
    Ok(())
}

/// Where an archive comes from.
pub(crate) enum Source {
    Path(std::path::PathBuf),
    Stdin,
}

/// The clients of a running instance's embedded runtime.
pub(crate) async fn connect(data_dir: &Path) -> anyhow::Result<cri::Clients> {
    let instance = Instance::open(data_dir)?;
    cri::connect(instance.cri_socket()).await.with_context(|| {
        format!(
            "no running kijabi at {}; start it with `kijabi up`",
            data_dir.display()
        )
    })
}

/// Brings an archive in; the names (or ids) of what it held.
pub(crate) async fn import(
    clients: &mut cri::Clients,
    source: Source,
    name: String,
    progress: impl FnMut(&str),
) -> anyhow::Result<Vec<String>> {
    let (head, stdin) = match source {
        Source::Path(path) => {
            let path = path.to_str().context("the path is not UTF-8")?.to_owned();
            (
                ImportRequest {
                    path,
                    data: Bytes::new(),
                    name,
                },
                false,
            )
        }
        Source::Stdin => (
            ImportRequest {
                path: String::new(),
                data: Bytes::new(),
                name,
            },
            true,
        ),
    };
    let data = futures::stream::unfold(stdin, |more| async move {
        if !more {
            return None;
        }
        // What cannot be read ends the archive, which the runtime then finds truncated.
        let data = tokio::task::spawn_blocking(read_chunk).await.ok()?.ok()?;
        (!data.is_empty()).then_some((
            ImportRequest {
                data,
                ..ImportRequest::default()
            },
            true,
        ))
    });
    let requests = futures::stream::once(async { head }).chain(data);
    let answer = clients.kijabi.import(requests).await.map_err(plain)?;
    drain(answer.into_inner(), progress).await
}

/// The next piece of standard input; empty at its end.
fn read_chunk() -> std::io::Result<Bytes> {
    use std::io::Read as _;
    let mut data = Vec::with_capacity(CHUNK);
    std::io::stdin()
        .lock()
        .take(CHUNK as u64)
        .read_to_end(&mut data)?;
    Ok(data.into())
}

async fn drain(
    mut answers: tonic::Streaming<Progress>,
    mut progress: impl FnMut(&str),
) -> anyhow::Result<Vec<String>> {
    let mut images = Vec::new();
    while let Some(answer) = answers.next().await {
        let answer = answer.map_err(plain)?;
        if !answer.line.is_empty() {
            progress(&answer.line);
        }
        images.extend(answer.images);
    }
    Ok(images)
}

/// Prints what was damaged.
async fn check(clients: &mut cri::Clients) -> anyhow::Result<()> {
    let answer = clients.kijabi.check(CheckRequest {}).await.map_err(plain)?;
    let mut messages = answer.into_inner();
    while let Some(message) = messages.message().await.map_err(plain)? {
        if !message.line.is_empty() {
            eprintln!("{}", message.line);
        }
        for finding in message.findings {
            println!("{finding}");
        }
    }
    Ok(())
}

async fn list(clients: &mut cri::Clients) -> anyhow::Result<()> {
    let images = clients
        .images
        .list_images(v1::ListImagesRequest::default())
        .await
        .map_err(plain)?
        .into_inner()
        .images;
    let mut rows: Vec<[String; 3]> = Vec::new();
    for image in images {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
        let names = if image.repo_tags.is_empty() {
            image.repo_digests
        } else {
            image.repo_tags
        };
        let names = if names.is_empty() {
            vec!["<none>".to_owned()]
        } else {
            names
        };
        rows.extend(names.into_iter().map(|name| [name, id.clone(), size(image.size)]));
    }
    rows.sort();
    let width = rows.iter().map(|row| row[0].len()).max().unwrap_or(0).max(5);
    println!("{:width$}  {:12}  SIZE", "IMAGE", "ID");
    for [name, id, size] in rows {
        println!("{name:width$}  {id:12}  {size}");
    }
    Ok(())
}

fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 0.1 {
        format!("{:.1} KiB", bytes as f64 / 1024.0)
    } else {
        format!("{mib:.1} MiB")
    }
}

/// A gRPC answer's message without its wrapping.
fn plain(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
