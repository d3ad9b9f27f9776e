//! The resource table: what is served where, with which verbs and names.
//!
//! ```text
//! G <group|->
//! V <version>                                   versions in order of preference
//! R <resource> <group/version/kind> <verbs> <N|C> <singular> <short names> <categories>
//! S <subresource> <group/version/kind> <verbs>  of the resource above
//! ```

use machinery::gvk::GroupVersionKind;
use std::sync::LazyLock;

/// One API group; the core group's name is empty.
#[derive(Debug)]
pub struct Group {
    pub name: &'static str,
    /// The preferred one first.
    pub versions: Vec<Version>,
}

#[derive(Debug)]
pub struct Version {
    pub name: &'static str,
    pub resources: Vec<Resource>,
}

#[derive(Debug)]
pub struct Resource {
    pub name: &'static str,
    pub kind: GroupVersionKind,
    pub verbs: Vec<&'static str>,
    pub namespaced: bool,
    pub singular: &'static str,
    pub short_names: Vec<&'static str>,
    pub categories: Vec<&'static str>,
    pub subresources: Vec<Subresource>,
}

#[derive(Debug)]
pub struct Subresource {
    pub name: &'static str,
    /// What is sent and answered; of another group for `scale`, `eviction` and `token`.
    pub kind: GroupVersionKind,
    pub verbs: Vec<&'static str>,
}

/// Every group, the core group first, the others in upstream's order.
pub fn groups() -> &'static [Group] {
    static GROUPS: LazyLock<Vec<Group>> = LazyLock::new(|| parse(include_str!("tables/resources.txt")));
    &GROUPS
}

impl Version {
    /// Alphas and betas are served only when asked for (`--runtime-config`).
    pub fn on_by_default(&self) -> bool {
        !self.name.contains("alpha") && !self.name.contains("beta")
    }
}

impl Resource {
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources
            .iter()
            .find(|subresource| subresource.name == name)
    }

    /// Upstream's hash of the stored kind: the first eight bytes of the SHA-256 of `group/version/kind`, in base64.
    pub fn storage_version_hash(&self) -> String {
        use base64::Engine as _;
        use sha2::Digest as _;
        let GroupVersionKind { group, version, kind } = &self.kind;
        let digest = sha2::Sha256::digest(format!("{group}/{version}/{kind}"));
        base64::engine::general_purpose::STANDARD.encode(&digest[..8])
    }
}

/// The table is compiled in and tested whole, so what cannot be read in it is a panic at the first test.
fn parse(table: &'static str) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for line in table.lines() {
        let words: Vec<&'static str> = line.split(' ').collect();
        let version = groups.last_mut().and_then(|group| group.versions.last_mut());
        match (words[..].split_first(), version) {
            (Some((&"G", [name])), _) => groups.push(Group {
                name: dash(name),
                versions: Vec::new(),
            }),
            (Some((&"V", [name])), _) => {
                let group = groups.last_mut().expect("a version is of a group");
                group.versions.push(Version {
                    name,
                    resources: Vec::new(),
                });
            }
            (Some((&"R", [name, kind, verbs, scope, singular, short_names, categories])), Some(version)) => {
                version.resources.push(Resource {
                    name,
                    kind: gvk(kind),
                    verbs: list(verbs),
                    namespaced: *scope == "N",
                    singular: dash(singular),
                    short_names: list(short_names),
                    categories: list(categories),
                    subresources: Vec::new(),
                });
            }
            (Some((&"S", [name, kind, verbs])), Some(version)) => {
                let resource = version
                    .resources
                    .last_mut()
                    .expect("a subresource is of a resource");
                resource.subresources.push(Subresource {
                    name,
                    kind: gvk(kind),
                    verbs: list(verbs),
                });
            }
            _ => panic!("unknown line {line:?}"),
        }
    }
    groups
}

fn gvk(text: &str) -> GroupVersionKind {
    match text.split('/').collect::<Vec<_>>()[..] {
        [group, version, kind] => GroupVersionKind::new(group, version, kind),
        _ => panic!("unknown kind {text:?}"),
    }
}

fn dash(word: &'static str) -> &'static str {
    if word == "-" { "" } else { word }
}

fn list(word: &'static str) -> Vec<&'static str> {
    dash(word).split(',').filter(|word| !word.is_empty()).collect()
}
