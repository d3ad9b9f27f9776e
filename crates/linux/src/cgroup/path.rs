//! Names of groups below the hierarchies' roots.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A group's path below the root, as in `kijabi-1a2b3c/kubepods/burstable`.
///
/// **Invariant:** no empty part, no `.` or `..`, no zero byte; the empty path is the root itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupPath(String);

impl CgroupPath {
    pub fn root() -> Self {
        CgroupPath(String::new())
    }

    /// Leading, trailing and doubled slashes do not matter.
    pub fn new(text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        for part in text.split('/').filter(|part| !part.is_empty()) {
            if part == "." || part == ".." || part.contains('\0') {
                return Err(Error::Invalid {
                    operation: "name cgroup",
                    detail: format!("{text:?} is not a plain path"),
                });
            }
            parts.push(part);
        }
        Ok(CgroupPath(parts.join("/")))
    }

    pub fn child(&self, name: &str) -> Result<Self> {
        Self::new(&format!("{}/{name}", self.0))
    }

    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(CgroupPath(
            self.0
                .rsplit_once('/')
                .map_or(String::new(), |(above, _)| above.to_owned()),
        ))
    }

    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or("")
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn under(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }

    /// The group and those above it, outermost first, without the root.
    pub(crate) fn ancestry(&self) -> Vec<CgroupPath> {
        let mut all: Vec<_> = std::iter::successors(Some(self.clone()), CgroupPath::parent)
            .take_while(|step| !step.is_root())
            .collect();
        all.reverse();
        all
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

impl fmt::Debug for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normal_and_cannot_climb() {
        let path = CgroupPath::new("//a/b/c/").unwrap();
        assert_eq!(path.as_str(), "a/b/c");
        assert_eq!(path.to_string(), "/a/b/c");
        assert_eq!(path.name(), "c");
        assert_eq!(path.parent().unwrap().as_str(), "a/b");
        let all: Vec<_> = path.ancestry().iter().map(|p| p.as_str().to_owned()).collect();
        assert_eq!(all, ["a", "a/b", "a/b/c"]);
        assert!(CgroupPath::new("/").unwrap().is_root());
        assert!(CgroupPath::new("a/../b").is_err());
        assert!(path.child("..").is_err());
    }
}
