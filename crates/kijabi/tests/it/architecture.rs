//! Holds the rules of ARCHITECTURE.md that a machine can hold: which crate may use which, and that every
//! file of a family (kinds, controllers, plugins, volume types) stands in that family's one list.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every crate, and those of ours that it may use. Adding an arrow here is a decision of its own commit.
const ARROWS: &[(&str, &[&str])] = &[
    ("machinery", &[]),
    ("api", &["machinery"]),
    ("store", &["machinery"]),
    ("encryption", &["store"]),
    ("linux", &[]),
    ("wire", &["machinery"]),
    ("cri", &[]),
    ("plugins", &[]),
    ("client", &["machinery", "api", "wire"]),
    ("expressions", &["machinery"]),
    ("resources", &["machinery", "api", "expressions"]),
    (
        "access",
        &["machinery", "api", "client", "wire", "resources", "expressions"],
    ),
    (
        "apiserver",
        &[
            "machinery",
            "api",
            "store",
            "encryption",
            "wire",
            "client",
            "resources",
            "access",
        ],
    ),
    ("controllers", &["machinery", "client", "resources"]),
    ("scheduler", &["machinery", "client", "expressions"]),
    (
        "kubelet",
        &[
            "machinery",
            "api",
            "resources",
            "client",
            "cri",
            "plugins",
            "linux",
            "wire",
        ],
    ),
    ("runtime", &["machinery", "cri", "linux", "wire"]),
    ("network", &["machinery", "client", "cri", "linux"]),
    ("dns", &["machinery", "client"]),
];

/// Crates that only put others together.
const WIRING: &[&str] = &["kijabi", "testkit"];

/// Families: the folder whose every file or folder is one item, and the file that lists the items.
const FAMILIES: &[(&str, &str)] = &[
    (
        "crates/access/src/admission/plugins",
        "crates/access/src/admission/plugins/mod.rs",
    ),
    (
        "crates/resources/src/admissionregistration",
        "crates/resources/src/admissionregistration/mod.rs",
    ),
    (
        "crates/resources/src/apiextensions",
        "crates/resources/src/apiextensions/mod.rs",
    ),
    (
        "crates/resources/src/apiregistration",
        "crates/resources/src/apiregistration/mod.rs",
    ),
    ("crates/resources/src/apps", "crates/resources/src/apps/mod.rs"),
    (
        "crates/resources/src/autoscaling",
        "crates/resources/src/autoscaling/mod.rs",
    ),
    ("crates/resources/src/batch", "crates/resources/src/batch/mod.rs"),
    (
        "crates/resources/src/certificates",
        "crates/resources/src/certificates/mod.rs",
    ),
    (
        "crates/resources/src/coordination",
        "crates/resources/src/coordination/mod.rs",
    ),
    ("crates/resources/src/core", "crates/resources/src/core/mod.rs"),
    (
        "crates/resources/src/discovery",
        "crates/resources/src/discovery/mod.rs",
    ),
    (
        "crates/resources/src/events",
        "crates/resources/src/events/mod.rs",
    ),
    (
        "crates/resources/src/flowcontrol",
        "crates/resources/src/flowcontrol/mod.rs",
    ),
    (
        "crates/resources/src/networking",
        "crates/resources/src/networking/mod.rs",
    ),
    ("crates/resources/src/node", "crates/resources/src/node/mod.rs"),
    (
        "crates/resources/src/policy",
        "crates/resources/src/policy/mod.rs",
    ),
    ("crates/resources/src/rbac", "crates/resources/src/rbac/mod.rs"),
    (
        "crates/resources/src/resource",
        "crates/resources/src/resource/mod.rs",
    ),
    (
        "crates/resources/src/scheduling",
        "crates/resources/src/scheduling/mod.rs",
    ),
    (
        "crates/resources/src/storage",
        "crates/resources/src/storage/mod.rs",
    ),
    (
        "crates/scheduler/src/plugins",
        "crates/scheduler/src/plugins/mod.rs",
    ),
    ("crates/kubelet/src/volumes", "crates/kubelet/src/volumes/mod.rs"),
];

/// What stands in a family's folder and is shared by its items.
const SHARED: &[&str] = &[
    "mod",
    "tests",
    "testing",
    // What the kinds of a group, or the parts of one kind, share.
    "status",
    "structural",
    "validation",
    // Volumes.
    "atomic",
    "manager",
    "ownership",
    "payload",
    "subpath",
    "tokens",
    // Admission of certificates.
    "request_file",
    "signers",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The dependency names of one table of a manifest.
fn dependencies(manifest: &str, table: &str) -> BTreeSet<String> {
    manifest
        .split("\n[")
        .find_map(|part| part.strip_prefix(&format!("{table}]")))
        .into_iter()
        .flat_map(str::lines)
        .filter_map(|line| line.split_once(['.', ' ', '=']))
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect()
}

#[test]
fn arrows_point_down() {
    let crates: BTreeSet<String> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let known: BTreeSet<String> = ARROWS
        .iter()
        .map(|(name, _)| *name)
        .chain(WIRING.iter().copied())
        .map(str::to_owned)
        .collect();
    assert_eq!(crates, known, "every crate has its line in ARROWS");
    let mut wrong = Vec::new();
    for (name, allowed) in ARROWS {
        let manifest = read(&root().join("crates").join(name).join("Cargo.toml"));
        for used in dependencies(&manifest, "dependencies").intersection(&crates) {
            if !allowed.contains(&used.as_str()) {
                wrong.push(format!("{name} -> {used}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that ARCHITECTURE.md does not allow: {wrong:?}"
    );
}

#[test]
fn architecture_names_every_crate() {
    let text = read(&root().join("ARCHITECTURE.md"));
    for (name, _) in ARROWS {
        assert!(
            text.contains(&format!("`{name}`")),
            "ARCHITECTURE.md does not name the crate {name}"
        );
    }
}

#[test]
fn every_item_of_a_family_stands_in_its_list() {
    let mut missing = Vec::new();
    for (folder, list) in FAMILIES {
        let text = read(&root().join(list));
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let item = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let unit = path.is_dir() || path.extension().is_some_and(|extension| extension == "rs");
            if !unit || SHARED.contains(&item.as_str()) {
                continue;
            }
            // Declared as a module and named once more, in the list itself.
            let declared = text.contains(&format!("mod {item};"));
            let listed = text.matches(&format!("{item}::")).count() > 0;
            if !(declared && listed) {
                missing.push(format!("{folder}/{item} in {list}"));
            }
        }
    }
    assert!(missing.is_empty(), "items that stand in no list: {missing:#?}");
}

#[test]
fn unsafe_code_stays_in_one_crate() {
    for (name, _) in ARROWS {
        let manifest = read(&root().join("crates").join(name).join("Cargo.toml"));
        let inherits = manifest.contains("[lints]\nworkspace = true");
        assert!(
            inherits || *name == "linux",
            "{name} must inherit the workspace lints, which forbid unsafe code"
        );
    }
}
