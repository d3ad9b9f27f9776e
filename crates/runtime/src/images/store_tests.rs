//! Archives that are whole, and archives that are not.

use std::io::Write;

use super::*;

fn quiet() -> Progress {
    Arc::new(|_| {})
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(u64::from(rustix::process::getuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getgid().as_raw()));
        builder.append_data(&mut header, name, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let value = serde_json::json!({
        "os": "linux",
        "architecture": crate::images::record::architecture(),
        "config": {"Env": ["A=b"], "Cmd": null, "User": "nobody"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&value).unwrap()
}

/// A `docker save` archive of one image with one layer.
fn docker_archive(layer: &[u8], config: &[u8], tag: &str) -> Vec<u8> {
    let name = format!("{}.json", Digest::of(config).hex());
    let manifest = serde_json::json!([{"Config": name, "RepoTags": [tag], "Layers": ["l/layer.tar"]}]);
    tar(&[
        ("l/layer.tar", layer),
        (&name, config),
        ("manifest.json", manifest.to_string().as_bytes()),
    ])
}

/// An OCI layout of one image with one packed layer.
fn oci_layout(layer: &[u8], packed: &[u8], tag: &str) -> Vec<u8> {
    let config = config(&[layer]);
    let descriptor = |data: &[u8], kind: &str| serde_json::json!({"mediaType": kind, "digest": Digest::of(data).to_string(), "size": data.len()});
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": descriptor(&config, "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(packed, "application/vnd.oci.image.layer.v1.tar+gzip")],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor(&manifest, "application/vnd.oci.image.manifest.v1+json");
    entry["annotations"] = serde_json::json!({"io.containerd.image.name": tag});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let member = |data: &[u8]| format!("blobs/sha256/{}", Digest::of(data).hex());
    tar(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json", index.as_bytes()),
        (&member(&manifest), &manifest),
        (&member(&config), &config),
        (&member(packed), packed),
    ])
}

struct Place {
    dir: tempfile::TempDir,
    images: Images,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(&dir.path().join("store"), Registries::default(), Vec::new).unwrap();
    Place { dir, images }
}

impl Place {
    async fn import(&self, archive: &[u8]) -> Result<Vec<ImageRecord>, ImageError> {
        let path = self.dir.path().join("archive");
        fs::write(&path, archive).unwrap();
        self.images.import(&path, None, quiet()).await
    }

    /// Every file under the store but the records.
    fn leftovers(&self) -> Vec<String> {
        fn walk(dir: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                match entry.file_type().unwrap().is_dir() {
                    true => walk(&entry.path(), found),
                    false => found.push(entry.path().display().to_string()),
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.dir.path().join("store"), &mut found);
        found.retain(|name| !name.ends_with("images.json"));
        found
    }
}

#[tokio::test]
async fn archives_become_images() {
    let layer = tar(&[("bin/hello", b"hi")]);
    let packed = gzip(&layer);
    let zstd = zstd::encode_all(layer.as_slice(), 1).unwrap();
    let archives = [
        docker_archive(&layer, &config(&[&layer]), "app:1"),
        gzip(&docker_archive(&layer, &config(&[&layer]), "app:1")),
        docker_archive(&packed, &config(&[&layer]), "app:1"),
        oci_layout(&layer, &packed, "docker.io/library/app:1"),
        oci_layout(&layer, &zstd, "docker.io/library/app:1"),
    ];
    for archive in archives {
        let place = place();
        let taken = place.import(&archive).await.unwrap();
        assert_eq!(taken[0].tags, ["docker.io/library/app:1"]);
        let found = place.images.find("app:1").unwrap();
        assert_eq!(place.images.find(&found.id.to_string()), Some(found.clone()));
        assert_eq!(place.images.find(found.id.hex()), Some(found.clone()));
        assert_eq!(place.images.config(&found).unwrap().env, ["A=b"]);
        assert_eq!(found.user, "nobody");
        let dirs = place.images.lower_dirs(&found.chain);
        assert_eq!(fs::read_to_string(dirs[0].join("bin/hello")).unwrap(), "hi");

        let reopened =
            Images::open(&place.dir.path().join("store"), Registries::default(), Vec::new).unwrap();
        assert_eq!(reopened.list(), [found]);

        place.images.remove("app:1").await.unwrap();
        assert!(place.images.list().is_empty());
        assert_eq!(place.leftovers(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_layer_shared_by_two_images_stays_for_the_other() {
    let place = place();
    let layer = tar(&[("f", b"shared")]);
    place
        .import(&docker_archive(&layer, &config(&[&layer]), "one:1"))
        .await
        .unwrap();
    let mut other = config(&[&layer]);
    other.push(b' ');
    place
        .import(&docker_archive(&layer, &other, "two:1"))
        .await
        .unwrap();
    place.images.remove("one:1").await.unwrap();
    let two = place.images.find("two:1").unwrap();
    assert!(place.images.lower_dirs(&two.chain)[0].join("f").exists());
}

#[tokio::test]
async fn a_tag_moves_to_the_newer_image() {
    let place = place();
    let (old, new) = (tar(&[("f", b"old")]), tar(&[("f", b"new")]));
    place
        .import(&docker_archive(&old, &config(&[&old]), "app:1"))
        .await
        .unwrap();
    place
        .import(&docker_archive(&new, &config(&[&new]), "app:1"))
        .await
        .unwrap();
    let found = place.images.find("app:1").unwrap();
    assert_eq!(
        fs::read_to_string(place.images.lower_dirs(&found.chain)[0].join("f")).unwrap(),
        "new"
    );
    assert_eq!(place.images.list().len(), 2);
}

#[tokio::test]
async fn bad_archives_leave_nothing_behind() {
    let layer = tar(&[("f", b"content")]);
    let good = docker_archive(&layer, &config(&[&layer]), "app:1");
    let wrong_layer = docker_archive(&tar(&[("f", b"CONTENT")]), &config(&[&layer]), "app:1");
    let two_diff_ids = docker_archive(&layer, &config(&[&layer, &layer]), "app:1");
    let packed = gzip(&layer);
    let mut flipped = oci_layout(&layer, &packed, "app:1");
    let at = flipped.windows(packed.len()).position(|w| w == packed).unwrap();
    flipped[at + packed.len() / 2] ^= 1;
    let foreign = String::from_utf8(config(&[&layer]))
        .unwrap()
        .replace("linux", "plan9");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("noise", b"this is no archive at all".repeat(50)),
        ("a tar of something else", tar(&[("readme", b"hello")])),
        ("cut in the head", good[..300].to_vec()),
        ("cut in the layer", good[..900].to_vec()),
        ("cut gzip", {
            let g = gzip(&good);
            g[..g.len() / 2].to_vec()
        }),
        ("a wrong layer", wrong_layer),
        ("too few layers", two_diff_ids),
        ("a flipped bit", flipped),
        (
            "another system",
            docker_archive(&layer, foreign.as_bytes(), "app:1"),
        ),
        (
            "a bad name",
            docker_archive(&layer, &config(&[&layer]), "UPPER CASE"),
        ),
    ];
    for (what, archive) in cases {
        let place = place();
        let error = place.import(&archive).await.expect_err(what);
        assert!(!error.to_string().is_empty());
        assert!(place.images.list().is_empty(), "{what}");
        assert_eq!(place.leftovers(), Vec::<String>::new(), "{what}: {error}");
    }
}

/// A store with one image of two layers, and the image's record.
async fn stored() -> (Place, ImageRecord) {
    let place = place();
    let layer = tar(&[("bin/hello", b"hi"), ("etc/motd", b"welcome")]);
    let archive = docker_archive(&layer, &config(&[&layer]), "app:1");
    let record = place.import(&archive).await.unwrap().remove(0);
    (place, record)
}

fn reopened(place: &Place) -> Images {
    Images::open(&place.dir.path().join("store"), Registries::default(), Vec::new).unwrap()
}

#[tokio::test]
async fn a_damaged_layer_is_unpacked_anew() {
    let damages: [fn(&Path); 5] = [
        |fs| fs::write(fs.join("bin/hello"), "ho").unwrap(),
        |fs| fs::remove_file(fs.join("etc/motd")).unwrap(),
        |fs| fs::write(fs.join("etc/more"), "x").unwrap(),
        |fs| fs::write(fs.parent().unwrap().join("layer.json"), "{").unwrap(),
        |fs| fs::remove_dir_all(fs).unwrap(),
    ];
    for damage in damages {
        let (place, record) = stored().await;
        assert_eq!(place.images.check(quiet()).await.unwrap(), []);
        let dir = place.images.lower_dirs(&record.chain).remove(0);
        damage(&dir);
        let findings = place.images.check(quiet()).await.unwrap();
        assert!(
            matches!(&findings[..], [integrity::Finding::LayerRepaired { .. }]),
            "{findings:?}"
        );
        assert_eq!(fs::read_to_string(dir.join("bin/hello")).unwrap(), "hi");
        assert_eq!(fs::read_to_string(dir.join("etc/motd")).unwrap(), "welcome");
        assert!(!dir.join("etc/more").exists());
        assert_eq!(place.images.check(quiet()).await.unwrap(), []);
    }
}

#[tokio::test]
async fn what_cannot_be_repaired_is_forgotten() {
    for damaged in [0, 1, 2] {
        let (place, record) = stored().await;
        let blob = [&record.id, &record.manifest, &record.blobs[0]][damaged].clone();
        let path = place
            .dir
            .path()
            .join("store/content/blobs/sha256")
            .join(blob.hex());
        fs::write(path, "damaged").unwrap();
        let findings = place.images.check(quiet()).await.unwrap();
        assert!(
            matches!(&findings[..], [integrity::Finding::ImageForgotten { .. }]),
            "{findings:?}"
        );
        place.images.collect().await.unwrap();
        assert!(place.images.find("app:1").is_none());
        assert_eq!(place.leftovers(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_start_restores_what_it_can_and_goes_on_without_the_rest() {
    let (place, record) = stored().await;
    let dir = place.images.lower_dirs(&record.chain).remove(0);
    fs::remove_dir_all(dir.parent().unwrap()).unwrap();
    let images = reopened(&place);
    assert_eq!(images.find("app:1").unwrap().id, record.id);
    assert_eq!(fs::read_to_string(dir.join("bin/hello")).unwrap(), "hi");

    let list = place.dir.path().join("store/images.json");
    fs::write(&list, "[{").unwrap();
    let images = reopened(&place);
    assert_eq!(images.list(), []);
    assert!(list.with_extension("json.damaged").exists());
    assert!(
        place
            .import(&docker_archive(&[0; 1024], &config(&[&[0; 1024]]), "b:1"))
            .await
            .is_ok()
    );
}
