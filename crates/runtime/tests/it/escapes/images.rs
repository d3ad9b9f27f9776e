//! The attempts an image makes: while it is unpacked, and by what its files are when a container starts.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use cri::v1::*;

use crate::place::{Pod, import_archive, security, with_runtime};

pub(crate) struct Attempt {
    pub(crate) what: &'static str,
    pub(crate) stopped_by: &'static str,
    /// The layers, each a list of entries; `{host}` is a directory of the host with a file `secret`.
    layers: &'static [&'static [Entry]],
    outcome: Outcome,
}

/// One entry of a layer's tar.
enum Entry {
    Dir(&'static str),
    File(&'static str, &'static str),
    Symlink(&'static str, &'static str),
    HardLink(&'static str, &'static str),
    /// A block device 8:0.
    Disk(&'static str),
    /// A file that says it is larger than it is.
    Lie(&'static str),
}

enum Outcome {
    /// The import fails with this in its message.
    Refused(&'static str),
    /// The import may do what it likes inside; a container then sees this.
    Seen(&'static str, &'static str),
    /// The image is taken in, and a container of it cannot be had.
    NoContainer(&'static str),
}

use Entry::{Dir, Disk, File, HardLink, Lie, Symlink};
use Outcome::{NoContainer, Refused, Seen};

pub(crate) const ATTEMPTS: &[Attempt] = &[
    Attempt {
        what: "an entry named `../../x`",
        stopped_by: "names that lead upwards are refused",
        layers: &[&[File("../../../../../../../..{host}/made", "x")]],
        outcome: Refused("a name that leads upwards"),
    },
    Attempt {
        what: "an entry with an absolute name",
        stopped_by: "it counts from the image's root",
        layers: &[&[File("{host}/made", "inside")]],
        outcome: Seen("cat {host}/made", "inside"),
    },
    Attempt {
        what: "a file through a symbolic link to the host",
        stopped_by: "links are followed inside the image only",
        layers: &[&[Symlink("out", "{host}"), File("out/made", "inside")]],
        outcome: Seen("cat {host}/made", "inside"),
    },
    Attempt {
        what: "a file through a link of a lower layer that climbs",
        stopped_by: "links are followed inside the image only",
        layers: &[
            &[Symlink("out", "../../../../../../../../..{host}")],
            &[File("out/made", "inside")],
        ],
        outcome: Seen("cat {host}/made", "inside"),
    },
    Attempt {
        what: "a hard link to the host's file",
        stopped_by: "its target is looked up inside the image",
        layers: &[&[HardLink("stolen", "{host}/secret")]],
        outcome: Refused("a hard link to a missing file"),
    },
    Attempt {
        what: "a hard link through a symbolic link to the host",
        stopped_by: "its target is looked up inside the image",
        layers: &[&[Symlink("out", "{host}"), HardLink("stolen", "out/secret")]],
        outcome: Refused("a hard link to a missing file"),
    },
    Attempt {
        what: "a whiteout of `..`",
        stopped_by: "it is refused",
        layers: &[&[File(".wh...", "")]],
        outcome: Refused("a whiteout of nothing"),
    },
    Attempt {
        what: "a whiteout through a link to the host",
        stopped_by: "links are followed inside the image only",
        layers: &[&[Symlink("out", "{host}"), File("out/.wh.secret", "")]],
        outcome: Seen("ls {host}/secret 2>&1 || true", "No such file"),
    },
    Attempt {
        what: "a disk's device node in a layer",
        stopped_by: "the device cgroup",
        layers: &[&[Disk("disk")]],
        outcome: Seen("head -c 1 /disk 2>&1 || true", "Operation not permitted"),
    },
    Attempt {
        what: "an entry that says it holds an exabyte",
        stopped_by: "what the archive does not have is not made",
        layers: &[&[Lie("bomb")]],
        outcome: Refused("unexpected end of file"),
    },
    Attempt {
        what: "links in a circle",
        stopped_by: "forty links are followed, as in the kernel",
        layers: &[&[Symlink("a", "b"), Symlink("b", "a"), File("a/made", "x")]],
        outcome: Refused("symbolic links"),
    },
    Attempt {
        what: "/etc/passwd that is a link to the host's",
        stopped_by: "accounts are read inside the image only",
        layers: &[&[Dir("etc"), Symlink("etc/passwd", "{host}/passwd")]],
        outcome: NoContainer("unable to find user stranger"),
    },
];

pub(crate) fn escapes_from_images() {
    with_runtime(|place, clients| async move {
        let host = place.dir.path().join("host");
        std::fs::create_dir_all(&host).unwrap();
        std::fs::write(host.join("secret"), "the host's").unwrap();
        std::fs::write(host.join("passwd"), "stranger:x:77:77::/:\n").unwrap();
        let host_text = host.display().to_string();
        let pod = Pod::run(&place, &clients, |_| ()).await;
        let mut failures = Vec::new();
        for (at, attempt) in ATTEMPTS.iter().enumerate() {
            let name = format!("docker.io/library/hostile:{at}");
            let layers: Vec<Vec<u8>> = attempt
                .layers
                .iter()
                .map(|entries| layer(entries, &host_text))
                .collect();
            let imported = import_archive(&place, &clients, &name, &layers).await;
            let container = format!("hostile-{at}");
            let got = match (&attempt.outcome, imported) {
                (Refused(word), Err(status)) if status.message().contains(word) => continue,
                (Refused(word), other) => format!("not refused with {word:?}: {other:?}"),
                (_, Err(status)) => format!("not taken in: {status}"),
                (Seen(script, word), Ok(())) => {
                    let script = script.replace("{host}", &host_text);
                    let use_it =
                        |config: &mut ContainerConfig| config.image.as_mut().unwrap().image = name.clone();
                    let (_, said) = pod.output(&place, &container, &script, use_it).await;
                    match said.contains(word) {
                        true => continue,
                        false => format!("a container says {said:?}, not {word:?}"),
                    }
                }
                (NoContainer(word), Ok(())) => {
                    let made = pod
                        .try_create(&container, "true", |config| {
                            config.image.as_mut().unwrap().image = name.clone();
                            security(config, |s| s.run_as_username = "stranger".into());
                        })
                        .await;
                    match made {
                        Err(status) if status.message().contains(word) => continue,
                        other => format!("not refused with {word:?}: {other:?}"),
                    }
                }
            };
            failures.push(format!("{}: {got}", attempt.what));
        }
        assert!(failures.is_empty(), "{failures:#?}");
        let mut left: Vec<_> = std::fs::read_dir(&host)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["passwd", "secret"], "the host's directory is as it was");
        assert_eq!(
            std::fs::read_to_string(host.join("secret")).unwrap(),
            "the host's"
        );
        assert!(!Path::new("/disk").exists_as_device());
    });
}

trait ExistsAsDevice {
    fn exists_as_device(&self) -> bool;
}

impl ExistsAsDevice for Path {
    fn exists_as_device(&self) -> bool {
        std::fs::symlink_metadata(self).is_ok_and(|metadata| metadata.file_type().is_block_device())
    }
}

/// A tar of the entries, names taken as they are: a builder would refuse most of them.
fn layer(entries: &[Entry], host: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let (name, kind, target, data, size) = match entry {
            Dir(name) => (*name, tar::EntryType::Directory, "", "", 0),
            File(name, data) => (*name, tar::EntryType::Regular, "", *data, data.len() as u64),
            Symlink(name, target) => (*name, tar::EntryType::Symlink, *target, "", 0),
            HardLink(name, target) => (*name, tar::EntryType::Link, *target, "", 0),
            Disk(name) => (*name, tar::EntryType::Block, "", "", 0),
            Lie(name) => (*name, tar::EntryType::Regular, "", "lie", 1 << 60),
        };
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(size);
        if kind == tar::EntryType::Block {
            header.set_device_major(8).unwrap();
            header.set_device_minor(0).unwrap();
        }
        let (name, target) = (name.replace("{host}", host), target.replace("{host}", host));
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(data.as_bytes());
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}
