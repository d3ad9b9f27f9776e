//! Images assembled from programs that Debian's packages put on this machine, so that real software is the
//! payload and no registry is needed. A program that is not installed makes the caller skip, by name.

use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What goes into an image: a docker-archive of one layer.
#[derive(Debug, Default)]
pub(crate) struct Image {
    name: String,
    entrypoint: Vec<String>,
    /// Path in the image, mode, content.
    files: Vec<(String, u32, Vec<u8>)>,
    links: Vec<(String, String)>,
    directories: Vec<(String, u32)>,
}

impl Image {
    pub(crate) fn new(name: &str, entrypoint: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            entrypoint: entrypoint.iter().map(|word| (*word).to_owned()).collect(),
            directories: vec![
                ("tmp".to_owned(), 0o1777),
                ("etc".to_owned(), 0o755),
                ("var/run".to_owned(), 0o755),
            ],
            ..Self::default()
        }
    }

    pub(crate) fn file(mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.to_owned(), mode, content.into()));
        self
    }

    pub(crate) fn directory(mut self, path: &str, mode: u32) -> Self {
        self.directories.push((path.to_owned(), mode));
        self
    }

    /// A program with every shared library it loads; `None` when it is not installed.
    pub(crate) fn program(mut self, path: &str) -> Option<Self> {
        let source = Path::new(path);
        self.files
            .push((path[1..].to_owned(), 0o755, std::fs::read(source).ok()?));
        for library in libraries(source) {
            let content = std::fs::read(&library).ok()?;
            self.files
                .push((library.to_string_lossy()[1..].to_owned(), 0o755, content));
        }
        Some(self)
    }

    /// Busybox with its shell, and a link in `/bin` for each of its commands.
    pub(crate) fn busybox(mut self) -> Option<Self> {
        let busybox = std::fs::read("/bin/busybox")
            .or_else(|_| std::fs::read("/usr/bin/busybox"))
            .ok()?;
        self.files.push(("bin/busybox".to_owned(), 0o755, busybox));
        let list = Command::new("busybox").arg("--list").output().ok()?;
        for command in String::from_utf8_lossy(&list.stdout)
            .split_whitespace()
            .filter(|name| *name != "busybox")
        {
            self.links
                .push((format!("bin/{command}"), "/bin/busybox".to_owned()));
        }
        Some(self)
    }

    /// Writes the archive that `docker save` would write.
    pub(crate) fn write(&self, path: &Path) {
        let layer = self.layer();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&layer)));
        let config = serde_json::to_vec(&serde_json::json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [digest]},
        }))
        .expect("JSON");
        let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
        let manifest = serde_json::to_vec(&serde_json::json!([{
            "Config": config_name, "RepoTags": [self.name], "Layers": ["layer.tar"],
        }]))
        .expect("JSON");
        let mut archive = tar::Builder::new(std::fs::File::create(path).expect("archive"));
        for (name, content) in [
            ("layer.tar", &layer),
            (config_name.as_str(), &config),
            ("manifest.json", &manifest),
        ] {
            archive
                .append_data(&mut header(0o644, content.len() as u64), name, &content[..])
                .expect("entry");
        }
        archive.into_inner().expect("archive").flush().expect("archive");
    }

    fn layer(&self) -> Vec<u8> {
        let mut layer = tar::Builder::new(Vec::new());
        for (path, mode) in &self.directories {
            let mut entry = header(*mode, 0);
            entry.set_entry_type(tar::EntryType::Directory);
            layer
                .append_data(&mut entry, path, std::io::empty())
                .expect("directory");
        }
        for (path, mode, content) in &self.files {
            layer
                .append_data(&mut header(*mode, content.len() as u64), path, &content[..])
                .expect("file");
        }
        for (path, target) in &self.links {
            let mut entry = header(0o777, 0);
            entry.set_entry_type(tar::EntryType::Symlink);
            layer.append_link(&mut entry, path, target).expect("link");
        }
        layer.into_inner().expect("layer")
    }
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// The shared libraries, and the loader, that a program names; empty for a static one.
fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    let Ok(output) = Command::new("ldd").arg(program).output() else {
        return BTreeSet::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            line.split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(PathBuf::from)
        })
        .collect()
}
