//! `/logs/`: the files below the host's `/var/log`, as a file server shows them.
//!
//! A directory is a page of links, and is asked for with a slash at its end. Symbolic links are followed, as upstream:
//! who may read a node's logs may read what the host links there.

use std::io;
use std::path::{Component, Path, PathBuf};

use futures::TryStreamExt;
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio_util::io::ReaderStream;
use wire::body::Body;

use super::{text, with_type};

const LOGS: &str = "/var/log";

/// `path` as it was asked for, from `/logs` on.
pub(super) async fn answer(path: &str) -> Response<Body> {
    serve(Path::new(LOGS), path).await
}

async fn serve(root: &Path, path: &str) -> Response<Body> {
    let asked = path.strip_prefix("/logs").unwrap_or(path);
    match find(root, asked).await {
        Ok(answer) => answer,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            text(StatusCode::FORBIDDEN, "403 Forbidden\n")
        }
        // A name that cannot be, or a file asked for as a directory.
        Err(_) => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

async fn find(root: &Path, asked: &str) -> io::Result<Response<Body>> {
    let name = super::query::decode_path(asked);
    let relative = beneath(&name).ok_or(io::ErrorKind::NotFound)?;
    let file = root.join(&relative);
    let metadata = tokio::fs::metadata(&file).await?;
    if metadata.is_dir() {
        if !asked.ends_with('/') {
            let last = asked.rsplit('/').next().unwrap_or_default();
            let last = if last.is_empty() { "logs" } else { last };
            return Ok(moved(&format!("{last}/")));
        }
        return listing(&file).await;
    }
    if asked.ends_with('/') || !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let opened = tokio::fs::File::open(&file).await?;
    let frames = ReaderStream::new(opened).map_ok(Frame::data);
    let mut answer = Response::new(Body::stream(StreamBody::new(frames)));
    let kind = match file.extension().and_then(|e| e.to_str()) {
        Some("gz") => "application/gzip",
        Some("json") => "application/json",
        _ => "text/plain; charset=utf-8",
    };
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    Ok(answer)
}

/// Never above the root.
fn beneath(name: &str) -> Option<PathBuf> {
    let mut relative = PathBuf::new();
    for part in Path::new(name.trim_start_matches('/')).components() {
        match part {
            Component::Normal(part) => relative.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(relative)
}

fn moved(to: &str) -> Response<Body> {
    let mut answer = text(StatusCode::MOVED_PERMANENTLY, "");
    if let Ok(place) = header::HeaderValue::from_str(to) {
        answer.headers_mut().insert(header::LOCATION, place);
    }
    answer
}

async fn listing(dir: &Path) -> io::Result<Response<Body>> {
    let mut names = Vec::new();
    let mut entries = tokio::fs::read_dir(dir).await?;
    while let Some(entry) = entries.next_entry().await? {
        let mut name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().await?.is_dir() {
            name.push('/');
        }
        names.push(name);
    }
    names.sort();
    let mut page =
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
    for name in names {
        page.push_str(&format!("<a href=\"{}\">{}</a>\n", link(&name), escape(&name)));
    }
    page.push_str("</pre>\n");
    Ok(with_type(StatusCode::OK, "text/html; charset=utf-8", page.into()))
}

/// A name as a relative link.
fn link(name: &str) -> String {
    let mut link = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                link.push(char::from(byte))
            }
            _ => link.push_str(&format!("%{byte:02X}")),
        }
    }
    link
}

fn escape(name: &str) -> String {
    name.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(root: &Path, path: &str) -> (u16, String) {
        let answer = serve(root, path).await;
        let code = answer.status().as_u16();
        let body = answer.into_body().limited(1 << 20).await.unwrap();
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn files_and_directories_are_shown() {
        let above = tempfile::tempdir().unwrap();
        let root = above.path().join("log");
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::fs::write(root.join("a b<c>.log"), "one\ntwo\n").unwrap();
        std::fs::write(above.path().join("secret"), "x").unwrap();
        let (code, page) = get(&root, "/logs/").await;
        assert_eq!(code, 200);
        assert!(
            page.contains("<a href=\"a%20b%3Cc%3E.log\">a b&lt;c&gt;.log</a>\n<a href=\"pods/\">pods/</a>\n")
        );
        assert_eq!(
            get(&root, "/logs/a%20b%3Cc%3E.log").await,
            (200, "one\ntwo\n".to_owned())
        );
        for (path, code) in [
            ("/logs", 301),
            ("/logs/pods", 301),
            ("/logs/pods/", 200),
            ("/logs/none", 404),
            ("/logs/a%20b%3Cc%3E.log/", 404),
            ("/logs/../secret", 404),
            ("/logs/%2e%2e/secret", 404),
        ] {
            assert_eq!(get(&root, path).await.0, code, "{path}");
        }
    }
}
