//! The mount table, as `mountinfo` writes it.

use std::path::PathBuf;

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    pub id: u32,
    pub parent: u32,
    pub device: (u32, u32),
    /// The directory of the filesystem that forms this mount's root.
    pub root: PathBuf,
    pub target: PathBuf,
    /// Per-mount options (`rw`, `nosuid` …).
    pub options: Vec<String>,
    /// `shared:1`, `master:2` …; empty for a private mount.
    pub propagation: Vec<String>,
    pub kind: String,
    pub source: String,
    /// Per-filesystem options.
    pub super_options: Vec<String>,
}

impl MountInfo {
    pub fn is_read_only(&self) -> bool {
        self.options.iter().any(|o| o == "ro")
    }

    pub fn is_shared(&self) -> bool {
        self.propagation.iter().any(|o| o.starts_with("shared:"))
    }
}

/// Parses the text of a `mountinfo` file; lines it cannot read are left out.
pub fn parse_mountinfo(text: &str) -> Vec<MountInfo> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<MountInfo> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let id = left.next()?.parse().ok()?;
    let parent = left.next()?.parse().ok()?;
    let (major, minor) = left.next()?.split_once(':')?;
    let root = unescape(left.next()?);
    let target = unescape(left.next()?);
    let options = list(left.next()?);
    let propagation = left.filter(|s| !s.is_empty()).map(str::to_owned).collect();
    let mut right = right.split(' ');
    Some(MountInfo {
        id,
        parent,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: root.into(),
        target: target.into(),
        options,
        propagation,
        kind: right.next()?.to_owned(),
        source: unescape(right.next()?),
        super_options: list(right.next().unwrap_or("")),
    })
}

fn list(text: &str) -> Vec<String> {
    text.split(',')
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'\\')
            .then(|| text.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
