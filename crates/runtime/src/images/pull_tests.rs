//! Pulls from a registry made here, on loopback.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;
use crate::images::Registries;

/// What a registry holds, by path, and whom it lets in.
#[derive(Default)]
struct Registry {
    things: HashMap<String, (String, Vec<u8>)>,
    /// `Basic …`, when a password is asked for.
    password: Option<String>,
    blobs_sent: AtomicUsize,
}

impl Registry {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let status = |code: StatusCode, body: &str| {
            let mut response = Response::new(Full::new(Bytes::from(body.to_owned())));
            *response.status_mut() = code;
            response
        };
        let given = request
            .headers()
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        if self.password.is_some() && given != self.password.as_deref() {
            let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
            let mut response = status(StatusCode::UNAUTHORIZED, body);
            let challenge = http::HeaderValue::from_static("Basic realm=\"test\"");
            response.headers_mut().insert("www-authenticate", challenge);
            return response;
        }
        let path = request.uri().path();
        if path == "/v2/" {
            return status(StatusCode::OK, "{}");
        }
        let Some((kind, data)) = self.things.get(path) else {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            return status(StatusCode::NOT_FOUND, body);
        };
        if path.contains("/blobs/") {
            self.blobs_sent.fetch_add(1, Ordering::SeqCst);
        }
        let mut response = Response::new(Full::new(Bytes::from(data.clone())));
        let kind = http::HeaderValue::from_str(kind).unwrap();
        response.headers_mut().insert("content-type", kind);
        response
    }

    async fn serve(self) -> (String, Arc<Registry>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let registry = Arc::new(self);
        let shared = registry.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let registry = shared.clone();
                let service = service_fn(move |request| {
                    let response = registry.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        (host, registry)
    }
}

fn layer(name: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(name.len() as u64);
    header.set_mode(0o644);
    header.set_uid(u64::from(rustix::process::getuid().as_raw()));
    header.set_gid(u64::from(rustix::process::getgid().as_raw()));
    builder.append_data(&mut header, name, name.as_bytes()).unwrap();
    builder.into_inner().unwrap()
}

/// An image `app:1` of two layers behind an index; `spoil` may change what a layer's blob is sent as.
fn registry(spoil: impl Fn(&[u8]) -> Vec<u8>) -> Registry {
    let layers = [layer("one"), layer("two")];
    let digest = |data: &[u8]| Digest::of(data).to_string();
    let architecture = crate::images::record::architecture();
    let config = serde_json::json!({
        "os": "linux",
        "architecture": architecture,
        "config": {"User": "1000:1000"},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| digest(l)).collect::<Vec<_>>()},
    })
    .to_string()
    .into_bytes();
    let descriptor = |kind: &str, data: &[u8]| serde_json::json!({"mediaType": kind, "digest": digest(data), "size": data.len()});
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": kind,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(|l| descriptor("application/vnd.oci.image.layer.v1.tar", l)).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes();
    let index_kind = "application/vnd.oci.image.index.v1+json";
    let mut ours = descriptor(kind, &manifest);
    ours["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
    let mut other = descriptor(kind, b"{}");
    other["platform"] = serde_json::json!({"os": "plan9", "architecture": "mips"});
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": index_kind, "manifests": [other, ours]});
    let mut registry = Registry::default();
    let mut put = |place: String, kind: &str, data: Vec<u8>| {
        registry
            .things
            .insert(format!("/v2/app/{place}"), (kind.to_owned(), data));
    };
    put("manifests/1".into(), index_kind, index.to_string().into_bytes());
    put(format!("manifests/{}", digest(&manifest)), kind, manifest);
    put(
        format!("blobs/{}", digest(&config)),
        "application/octet-stream",
        config,
    );
    for layer in layers {
        put(
            format!("blobs/{}", digest(&layer)),
            "application/octet-stream",
            spoil(&layer),
        );
    }
    registry
}

fn store() -> (tempfile::TempDir, Images) {
    let dir = tempfile::tempdir().unwrap();
    // The binary installs it at its start; here whoever comes first does.
    rustls::crypto::ring::default_provider().install_default().ok();
    let images = Images::open(dir.path(), Registries::default(), Vec::new).unwrap();
    (dir, images)
}

fn quiet() -> Progress {
    Arc::new(|_| {})
}

#[tokio::test]
async fn an_image_is_pulled_once() {
    let (host, registry) = registry(<[u8]>::to_vec).serve().await;
    let (_dir, images) = store();
    let name = format!("{host}/app:1");
    let record = images.pull(&name, Credentials::Anonymous, quiet()).await.unwrap();
    assert_eq!(record.tags, std::slice::from_ref(&name));
    assert!(record.digests[0].starts_with(&format!("{host}/app@sha256:")));
    assert_eq!(record.user, "1000:1000");
    let dirs = images.lower_dirs(&record.chain);
    assert_eq!(std::fs::read_to_string(dirs[0].join("two")).unwrap(), "two");
    assert_eq!(std::fs::read_to_string(dirs[1].join("one")).unwrap(), "one");
    let sent = registry.blobs_sent.load(Ordering::SeqCst);
    assert_eq!(sent, 3);
    let again = images
        .pull(&record.digests[0], Credentials::Anonymous, quiet())
        .await;
    // By digest the registry has to be asked for that very manifest, which this one does not keep by it.
    assert!(matches!(
        again,
        Err(ImageError::Pull {
            kind: PullFailure::NotFound,
            ..
        })
    ));
    assert_eq!(
        images
            .pull(&name, Credentials::Anonymous, quiet())
            .await
            .unwrap()
            .id,
        record.id
    );
    assert_eq!(registry.blobs_sent.load(Ordering::SeqCst), sent);
    assert_eq!(images.find(&record.digests[0]).unwrap().id, record.id);
}

#[tokio::test]
async fn failures_are_told_apart() {
    let mut guarded = registry(<[u8]>::to_vec);
    guarded.password = Some("Basic dTpw".into());
    let (host, _registry) = guarded.serve().await;
    let (_dir, images) = store();
    let basic = |password: &str| Credentials::Basic {
        username: "u".into(),
        password: password.into(),
    };
    let pull = async |name: &str, credentials| {
        let error = images
            .pull(&format!("{host}/{name}"), credentials, quiet())
            .await
            .unwrap_err();
        match &error {
            ImageError::Pull { kind, .. } => (*kind, error.to_string()),
            _ => panic!("{error}"),
        }
    };
    for credentials in [Credentials::Anonymous, basic("wrong")] {
        let (kind, text) = pull("app:1", credentials).await;
        assert_eq!(kind, PullFailure::Denied, "{text}");
        assert!(
            text.contains("pull access denied, repository does not exist or may require authorization"),
            "{text}"
        );
    }
    let (kind, text) = pull("nope:1", basic("p")).await;
    assert_eq!(kind, PullFailure::NotFound);
    let name = format!("{host}/nope:1");
    assert_eq!(
        text,
        format!(
            "failed to pull and unpack image {name:?}: failed to resolve reference {name:?}: {name}: not found"
        )
    );
    assert!(
        images
            .pull(&format!("{host}/app:1"), basic("p"), quiet())
            .await
            .is_ok()
    );
    let dead = images
        .pull("127.0.0.1:1/app:1", Credentials::Anonymous, quiet())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        dead.contains("dial tcp 127.0.0.1:1: connect: connection refused"),
        "{dead}"
    );
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_registry_last() {
    let flip: fn(&[u8]) -> Vec<u8> = |data| {
        let mut data = data.to_vec();
        if let Some(byte) = data.get_mut(600) {
            *byte ^= 1;
        }
        data
    };
    let (spoiled, spoiled_registry) = registry(flip).serve().await;
    let mut guarded = registry(<[u8]>::to_vec);
    guarded.password = Some("Basic dTpw".into());
    let (server, server_registry) = guarded.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("certs.d");
    std::fs::create_dir_all(hosts.join("registry.lan")).unwrap();
    let text =
        format!("server = \"http://{server}\"\n[host.\"http://127.0.0.1:1\"]\n[host.\"http://{spoiled}\"]\n");
    std::fs::write(hosts.join("registry.lan/hosts.toml"), text).unwrap();
    rustls::crypto::ring::default_provider().install_default().ok();
    let registries = Registries {
        hosts: Some(hosts),
        ..Registries::default()
    };
    let images = Images::open(&dir.path().join("store"), registries, Vec::new).unwrap();
    let credentials = Credentials::Basic {
        username: "u".into(),
        password: "p".into(),
    };
    let record = images
        .pull("registry.lan/app:1", credentials, quiet())
        .await
        .unwrap();
    // The dead mirror is passed over; the spoiled one gives manifests and configuration, the registry the layers.
    assert_eq!(record.tags, ["registry.lan/app:1"]);
    assert_eq!(spoiled_registry.blobs_sent.load(Ordering::SeqCst), 3);
    assert_eq!(server_registry.blobs_sent.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn spoiled_layers_leave_nothing_behind() {
    let flip: fn(&[u8]) -> Vec<u8> = |data| {
        let mut data = data.to_vec();
        data[600] ^= 1;
        data
    };
    let cut: fn(&[u8]) -> Vec<u8> = |data| data[..700].to_vec();
    for spoil in [flip, cut] {
        let (host, _registry) = registry(spoil).serve().await;
        let (dir, images) = store();
        let name = format!("{host}/app:1");
        images
            .pull(&name, Credentials::Anonymous, quiet())
            .await
            .unwrap_err();
        assert!(images.list().is_empty());
        for place in ["content/blobs/sha256", "content/ingest", "layers"] {
            assert_eq!(
                std::fs::read_dir(dir.path().join(place)).unwrap().count(),
                0,
                "{place}"
            );
        }
    }
}
