//! Layers that mean well and layers that do not.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use tar::{Builder, Header};

use super::*;

/// One entry: kind, name, link target or content, mode.
type Spec<'a> = (EntryType, &'a str, &'a str, u32);

fn layer(entries: &[Spec<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, value, mode) in entries {
        let mut header = Header::new_gnu();
        // Written raw: the builder itself refuses hostile names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(1_000_000);
        header.set_uid(u64::from(rustix::process::getuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getgid().as_raw()));
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        if is_link {
            header.as_old_mut().linkname[..value.len()].copy_from_slice(value.as_bytes());
        }
        let content = if is_link { "" } else { value };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

struct Place {
    root: tempfile::TempDir,
    fs: PathBuf,
}

fn place() -> Place {
    let root = tempfile::tempdir().unwrap();
    let fs = root.path().join("fs");
    fs::create_dir(&fs).unwrap();
    fs::write(root.path().join("secret"), "host").unwrap();
    Place { root, fs }
}

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

#[test]
fn entries_arrive_with_owner_mode_and_time() {
    let place = place();
    let tar = layer(&[
        (DIR, "./", "", 0o755),
        (DIR, "etc/", "", 0o750),
        (FILE, "etc/conf", "hello", 0o4711),
        (LINK, "etc/link", "conf", 0o777),
        (HARD, "etc/hard", "etc/conf", 0),
        (FILE, "/abs/deep/file", "x", 0o644),
    ]);
    let usage = apply(tar.as_slice(), &place.fs, &[]).unwrap();
    assert_eq!(usage.bytes, 6);
    let conf = fs::metadata(place.fs.join("etc/conf")).unwrap();
    assert_eq!(
        (conf.mode() & 0o7777, conf.mtime(), conf.nlink()),
        (0o4711, 1_000_000, 2)
    );
    let etc = fs::metadata(place.fs.join("etc")).unwrap();
    assert_eq!((etc.mode() & 0o7777, etc.mtime()), (0o750, 1_000_000));
    assert_eq!(fs::read_to_string(place.fs.join("abs/deep/file")).unwrap(), "x");
    assert_eq!(
        fs::read_link(place.fs.join("etc/link")).unwrap(),
        Path::new("conf")
    );
}

#[test]
fn no_entry_leaves_the_layer() {
    let cases: &[(&str, &[Spec<'_>])] = &[
        ("upwards", &[(FILE, "../secret", "owned", 0o644)]),
        ("upwards inside", &[(FILE, "a/../../secret", "owned", 0o644)]),
        (
            "through an absolute link",
            &[(LINK, "out", "/", 0), (FILE, "out/secret", "owned", 0o644)],
        ),
        (
            "through a relative link",
            &[(LINK, "out", "..", 0), (FILE, "out/secret", "owned", 0o644)],
        ),
        (
            "through two links",
            &[
                (LINK, "a", "../..", 0),
                (LINK, "b", "a/..", 0),
                (FILE, "b/secret", "owned", 0o644),
            ],
        ),
        (
            "over a link",
            &[(LINK, "x", "../secret", 0), (FILE, "x", "owned", 0o644)],
        ),
        ("by a hard link", &[(HARD, "x", "../secret", 0)]),
        (
            "by a hard link through a link",
            &[(LINK, "out", "..", 0), (HARD, "x", "out/secret", 0)],
        ),
        (
            "by a whiteout",
            &[(LINK, "out", "..", 0), (FILE, "out/.wh.secret", "", 0)],
        ),
        (
            "by an opaque mark",
            &[(LINK, "out", "..", 0), (FILE, "out/.wh..wh..opq", "", 0)],
        ),
        ("a whiteout of the parent", &[(FILE, ".wh...", "", 0)]),
        (
            "links in a circle",
            &[(LINK, "a", "b", 0), (LINK, "b", "a", 0), (FILE, "a/x", "", 0)],
        ),
    ];
    for (what, entries) in cases {
        let place = place();
        let result = apply(layer(entries).as_slice(), &place.fs, &[]);
        let secret = fs::symlink_metadata(place.root.path().join("secret")).unwrap();
        assert_eq!(
            fs::read_to_string(place.root.path().join("secret")).unwrap(),
            "host",
            "{what}: {result:?}"
        );
        assert_eq!(secret.nlink(), 1, "{what}");
        assert_eq!(fs::read_dir(place.root.path()).unwrap().count(), 2, "{what}");
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    let place = place();
    let tar = layer(&[
        (DIR, "d", "", 0o755),
        (FILE, "d/f", "1", 0o644),
        (FILE, "d", "now a file", 0o644),
        (LINK, "l", "d", 0),
        (DIR, "l", "", 0o755),
    ]);
    apply(tar.as_slice(), &place.fs, &[]).unwrap();
    assert_eq!(fs::read_to_string(place.fs.join("d")).unwrap(), "now a file");
    assert!(fs::symlink_metadata(place.fs.join("l")).unwrap().is_dir());
}

#[test]
fn names_lead_through_links_of_the_layers_below() {
    let below = place();
    let tar = layer(&[
        (DIR, "usr/lib", "", 0o711),
        (LINK, "lib", "usr/lib", 0),
        (FILE, "usr/lib/old", "old", 0o600),
    ]);
    apply(tar.as_slice(), &below.fs, &[]).unwrap();
    let above = place();
    let tar = layer(&[
        (FILE, "lib/new", "new", 0o644),
        (HARD, "lib/alias", "usr/lib/old", 0),
    ]);
    apply(tar.as_slice(), &above.fs, std::slice::from_ref(&below.fs)).unwrap();
    assert_eq!(fs::read_to_string(above.fs.join("usr/lib/new")).unwrap(), "new");
    assert_eq!(fs::read_to_string(above.fs.join("usr/lib/alias")).unwrap(), "old");
    assert!(!above.fs.join("lib").exists());
    assert_eq!(
        fs::metadata(above.fs.join("usr/lib")).unwrap().mode() & 0o7777,
        0o711
    );
}

#[test]
fn a_stream_cut_short_is_malformed() {
    let tar = layer(&[(FILE, "big", &"x".repeat(5000), 0o644)]);
    for cut in [100, 512, 700, 4096] {
        let place = place();
        let result = apply(&tar[..cut], &place.fs, &[]);
        assert!(
            matches!(result, Err(ImageError::Malformed(_))),
            "{cut}: {result:?}"
        );
    }
}

#[test]
fn whiteouts_take_the_overlays_form() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: making device nodes needs root");
        return;
    }
    let place = place();
    if let Err(error) = rustix::fs::setxattr(&place.fs, OPAQUE, b"y", XattrFlags::empty()) {
        eprintln!("skipped: attributes of the overlay cannot be set here: {error}");
        return;
    }
    let tar = layer(&[
        (DIR, "etc", "", 0o755),
        (FILE, "etc/.wh.gone", "", 0),
        (FILE, "etc/kept", "x", 0o644),
        (FILE, "etc/.wh.kept", "", 0),
        (FILE, "var/.wh..wh..opq", "", 0),
    ]);
    apply(tar.as_slice(), &place.fs, &[]).unwrap();
    let gone = fs::symlink_metadata(place.fs.join("etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(fs::read_to_string(place.fs.join("etc/kept")).unwrap(), "x");
    let mut value = [0; 4];
    let got = rustix::fs::getxattr(place.fs.join("var"), OPAQUE, &mut value[..]).unwrap();
    assert_eq!(&value[..got], b"y");
}
