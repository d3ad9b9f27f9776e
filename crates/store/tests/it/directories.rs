//! Real directories: in use, read-only, full, damaged, not ours; and what is left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use store::embedded::Options;
use store::{Embedded, Error, KeyRange, RangeRequest, Store, Txn};

async fn open(dir: &Path) -> Result<Embedded, Error> {
    Embedded::open(dir, Options::default()).await
}

#[tokio::test]
async fn one_store_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("deep/down");
    let store = open(&dir).await.expect("open");
    let error = open(&dir).await.expect_err("in use");
    assert!(
        matches!(&error, Error::Locked { path } if *path == dir),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        format!("{} is in use by another process", dir.display())
    );
    store.txn(Txn::put("/a", "1")).await.expect("put");
    store.close().await.expect("close");
    let again = open(&dir).await.expect("closed is free");
    drop(store);
    assert!(matches!(open(&dir).await, Err(Error::Locked { .. })));
    drop(again);
    let again = open(&dir).await.expect("dropped is free");
    assert_eq!(
        again.get(b"/a").await.expect("get").kv.expect("the key").value,
        "1"
    );
}

#[tokio::test]
async fn nobody_else_can_read_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("store");
    let _store = open(&dir).await.expect("open");
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in fs::read_dir(&dir).expect("the directory") {
        let path = file.expect("a file").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn places_where_it_cannot_be() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "not a directory").expect("write");
    let error = open(&file).await.expect_err("a file");
    assert!(
        matches!(&error, Error::Io { path, .. } if *path == file),
        "{error:?}"
    );
    let below = Path::new("/proc/store");
    assert!(matches!(open(below).await, Err(Error::Io { .. })));
}

#[tokio::test]
async fn damaged_files_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    open(dir.path())
        .await
        .expect("open")
        .close()
        .await
        .expect("close");
    let path = dir.path().join("store.redb");
    let whole = fs::read(&path).expect("the file");
    let mut bad = whole.clone();
    bad[..64].fill(b'x');
    for contents in [b"hello".to_vec(), bad, whole[..whole.len() / 2].to_vec()] {
        fs::write(&path, contents).expect("write");
        let error = open(dir.path()).await.expect_err("damaged");
        assert!(
            matches!(&error, Error::Corrupt { path: named, .. } if *named == path),
            "{error:?}"
        );
        assert!(
            error
                .to_string()
                .contains("restore the data directory from a backup"),
            "{error}"
        );
    }
    fs::write(&path, whole).expect("write");
    open(dir.path()).await.expect("whole again");
}

/// A crash between making the tables and making the log, and while either is being made.
#[tokio::test]
async fn half_made_directories() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("store.redb.new"), "half").expect("write");
    fs::write(dir.path().join("log.1.new"), "half").expect("write");
    let store = open(dir.path()).await.expect("open");
    store.txn(Txn::put("/a", "1")).await.expect("put");
    store.close().await.expect("close");
    assert!(!dir.path().join("store.redb.new").exists());
}

/// Mounts of a test, unmounted when it ends however it ends.
struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    fn mount(dir: &'a Path, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir)
            .output()
            .ok()?;
        done.status.success().then(|| Self(dir))
    }

    fn remount(&self, option: &str) {
        let options = format!("remount,{option}");
        let done = Command::new("mount")
            .args(["-o", &options])
            .arg(self.0)
            .status()
            .expect("mount");
        assert!(done.success(), "remount {option}");
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let done = Command::new("umount")
            .arg("-l")
            .arg(self.0)
            .status()
            .expect("umount");
        assert!(done.success(), "umount");
    }
}

#[tokio::test]
async fn a_small_file_system() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(tmpfs) = Tmpfs::mount(dir.path(), "16m") else {
        println!("skipped: cannot mount a tmpfs here");
        return;
    };
    let store = open(dir.path()).await.expect("open");
    let mut written = 0;
    let error = loop {
        match store
            .txn(Txn::create(format!("/{written}"), vec![b'x'; 100_000], 0))
            .await
        {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "16 MiB are full");
    };
    assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    assert!(written > 30, "only {written}");
    let listed = store
        .range(RangeRequest::new(KeyRange::all()))
        .await
        .expect("reads go on");
    assert_eq!(listed.kvs.len(), written);
    for _ in 0..5 {
        assert!(matches!(
            store.txn(Txn::put("/no", vec![b'x'; 100_000])).await,
            Err(Error::NoSpace { .. })
        ));
    }
    tmpfs.remount("size=64m");
    store
        .txn(Txn::put("/yes", vec![b'x'; 100_000]))
        .await
        .expect("works again");
    store.close().await.expect("close");
    drop(store);
    let store = open(dir.path()).await.expect("open");
    assert_eq!(store.status().await.expect("status").keys, written as u64 + 1);
    store.close().await.expect("close");
    tmpfs.remount("ro");
    let error = open(dir.path()).await.expect_err("read-only");
    assert!(
        matches!(&error, Error::Io { path, .. } if path.starts_with(dir.path())),
        "{error:?}"
    );
    assert!(
        std::error::Error::source(&error)
            .expect("a cause")
            .to_string()
            .contains("Read-only"),
        "{error:?}"
    );
}
