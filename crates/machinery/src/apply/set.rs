//! A set of field paths: what one manager owns of one object.
//!
//! A tree whose nodes are sorted by step, so that every operation is one merge of two sorted lists and
//! most edits happen in place. The words `union`, `difference`, `intersection` mean the sets of *paths*:
//! owning a parent says nothing about its children, as upstream's fieldpath sets.
//!
//! **Invariant:** nodes of one level are strictly ascending by [`name::compare`], and a node that is not a
//! member has at least one child.

use super::name::{self, Name};
use std::cmp::Ordering;

/// A set of field paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: Vec<Node>,
}

/// One step of a path, whether the path that ends here is in the set, and the paths that go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: Name,
    pub member: bool,
    pub children: FieldSet,
}

impl FieldSet {
    pub const fn new() -> Self {
        Self { nodes: Vec::new() }
    }

    /// A set of paths given as FieldsV1 steps: `[["f:spec", "f:replicas"]]`.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a [&'a str]>) -> Self {
        let mut set = Self::new();
        for path in paths {
            set.insert(path);
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many paths are in the set.
    pub fn len(&self) -> usize {
        self.nodes
            .iter()
            .map(|n| usize::from(n.member) + n.children.len())
            .sum()
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A set of nodes in any order; those of one name are merged, those that say nothing dropped.
    pub(super) fn from_nodes(mut nodes: Vec<Node>) -> Self {
        nodes.retain(|node| node.member || !node.children.is_empty());
        if !nodes.is_sorted_by(|a, b| name::compare(&a.name, &b.name) == Ordering::Less) {
            nodes.sort_by(|a, b| name::compare(&a.name, &b.name));
            nodes.dedup_by(|later, earlier| {
                let same = later.name == earlier.name;
                if same {
                    earlier.member |= later.member;
                    earlier.children.add(std::mem::take(&mut later.children));
                }
                same
            });
        }
        Self { nodes }
    }

    pub(super) fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }

    pub(super) fn with_capacity(nodes: usize) -> Self {
        Self {
            nodes: Vec::with_capacity(nodes),
        }
    }

    /// Adds the path (not its parents).
    pub fn insert<S: AsRef<str>>(&mut self, path: &[S]) {
        let Some((first, rest)) = path.split_first() else {
            return; // nobody owns the whole object
        };
        let node = self.entry(first.as_ref());
        if rest.is_empty() {
            node.member = true;
        } else {
            node.children.insert(rest);
        }
    }

    /// Puts a node where it belongs; merges with one of the same name. A node that says nothing is dropped.
    pub(super) fn put(&mut self, name: Name, member: bool, children: FieldSet) {
        if !member && children.is_empty() {
            return;
        }
        match self.nodes.last().map(|last| name::compare(&last.name, &name)) {
            None | Some(Ordering::Less) => self.nodes.push(Node {
                name,
                member,
                children,
            }),
            _ => match self.position(&name) {
                Ok(at) => {
                    let node = &mut self.nodes[at];
                    node.member |= member;
                    node.children.add(children);
                }
                Err(at) => self.nodes.insert(
                    at,
                    Node {
                        name,
                        member,
                        children,
                    },
                ),
            },
        }
    }

    /// The node of that name; made if absent, and then the caller must make it say something.
    fn entry(&mut self, name: &str) -> &mut Node {
        let at = match self.position(name) {
            Ok(at) => at,
            Err(at) => {
                let node = Node {
                    name: Name::from(name),
                    member: false,
                    children: FieldSet::new(),
                };
                self.nodes.insert(at, node);
                at
            }
        };
        &mut self.nodes[at]
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.nodes
            .binary_search_by(|node| name::compare(&node.name, name))
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.position(name).ok().map(|at| &self.nodes[at])
    }

    pub fn contains<S: AsRef<str>>(&self, path: &[S]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            return false;
        };
        match self.node(first.as_ref()) {
            Some(node) if rest.is_empty() => node.member,
            Some(node) => node.children.contains(rest),
            None => false,
        }
    }

    /// Adds every path of `other`.
    pub fn add(&mut self, other: FieldSet) {
        if other.is_empty() {
            return;
        }
        if self.is_empty() {
            *self = other;
            return;
        }
        let ours = std::mem::take(&mut self.nodes);
        self.nodes.reserve(ours.len() + other.nodes.len());
        let mut theirs = other.nodes.into_iter().peekable();
        for mut node in ours {
            while let Some(before) = theirs.next_if(|t| name::compare(&t.name, &node.name) == Ordering::Less)
            {
                self.nodes.push(before);
            }
            if let Some(same) = theirs.next_if(|t| t.name == node.name) {
                node.member |= same.member;
                node.children.add(same.children);
            }
            self.nodes.push(node);
        }
        self.nodes.extend(theirs);
    }

    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut out = self.clone();
        out.add(other.clone());
        out
    }

    /// The paths in both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut out = FieldSet::new();
        merge_join(&self.nodes, &other.nodes, |a, b| {
            let member = a.member && b.member;
            let children = a.children.intersection(&b.children);
            if member || !children.is_empty() {
                out.nodes.push(Node {
                    name: a.name.clone(),
                    member,
                    children,
                });
            }
        });
        out
    }

    pub fn intersects(&self, other: &FieldSet) -> bool {
        let mut hit = false;
        merge_join(&self.nodes, &other.nodes, |a, b| {
            hit = hit || (a.member && b.member) || a.children.intersects(&b.children);
        });
        hit
    }

    /// True if every path of this set is in `other`.
    pub fn is_subset(&self, other: &FieldSet) -> bool {
        let mut matched = 0;
        let mut inside = true;
        merge_join(&self.nodes, &other.nodes, |a, b| {
            matched += 1;
            inside = inside && (!a.member || b.member) && a.children.is_subset(&b.children);
        });
        inside && matched == self.nodes.len()
    }

    /// Takes the paths of `other` out; says whether anything changed.
    pub fn subtract(&mut self, other: &FieldSet) -> bool {
        self.subtract_with(other, false)
    }

    /// Takes the paths of `other` out, and with each everything below it.
    pub fn subtract_recursive(&mut self, other: &FieldSet) -> bool {
        self.subtract_with(other, true)
    }

    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut out = self.clone();
        out.subtract(other);
        out
    }

    fn subtract_with(&mut self, other: &FieldSet, recursive: bool) -> bool {
        if other.is_empty() || self.is_empty() {
            return false;
        }
        let mut changed = false;
        let mut theirs = other.nodes.iter().peekable();
        self.nodes.retain_mut(|ours| {
            while theirs
                .next_if(|t| name::compare(&t.name, &ours.name) == Ordering::Less)
                .is_some()
            {}
            let Some(their) = theirs.next_if(|t| t.name == ours.name) else {
                return true;
            };
            if their.member && recursive {
                changed = true;
                return false;
            }
            if their.member && ours.member {
                ours.member = false;
                changed = true;
            }
            changed |= ours.children.subtract_with(&their.children, recursive);
            ours.member || !ours.children.is_empty()
        });
        changed
    }

    /// Calls `f` with each path of the set, members of a level before what lies below them, as upstream
    /// lists conflicts.
    pub fn for_each<'s>(&'s self, f: &mut dyn FnMut(&[&'s str])) {
        fn walk<'s>(set: &'s FieldSet, path: &mut Vec<&'s str>, f: &mut dyn FnMut(&[&'s str])) {
            for node in set.nodes.iter().filter(|n| n.member) {
                path.push(&node.name);
                f(path);
                path.pop();
            }
            for node in set.nodes.iter().filter(|n| !n.children.is_empty()) {
                path.push(&node.name);
                walk(&node.children, path, f);
                path.pop();
            }
        }
        walk(self, &mut Vec::new(), f);
    }

    /// Every path as people read it.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.for_each(&mut |path| out.push(display_path(path)));
        out
    }
}

/// A path as people read it: `.spec.ports[port=80]`.
pub fn display_path(path: &[&str]) -> String {
    let mut out = String::new();
    for step in path {
        name::display(step, &mut out);
    }
    out
}

fn merge_join<'n>(a: &'n [Node], b: &'n [Node], mut both: impl FnMut(&'n Node, &'n Node)) {
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        match name::compare(&x.name, &y.name) {
            Ordering::Less => i += 1,
            Ordering::Greater => j += 1,
            Ordering::Equal => {
                both(x, y);
                i += 1;
                j += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    type Path = Vec<&'static str>;

    fn paths() -> impl Strategy<Value = BTreeSet<Path>> {
        let step = prop::sample::select(vec![
            "f:a",
            "f:b",
            "f:c",
            r#"k:{"p":9}"#,
            r#"k:{"p":10}"#,
            r#"v:"x""#,
            "i:2",
            "i:10",
        ]);
        prop::collection::btree_set(prop::collection::vec(step, 1..4), 0..12)
    }

    fn build(paths: &BTreeSet<Path>) -> FieldSet {
        FieldSet::of(paths.iter().map(Vec::as_slice))
    }

    fn flat(set: &FieldSet) -> BTreeSet<Path> {
        fn check(set: &FieldSet) {
            for pair in set.nodes.windows(2) {
                assert_eq!(name::compare(&pair[0].name, &pair[1].name), Ordering::Less);
            }
            for node in &set.nodes {
                assert!(node.member || !node.children.is_empty());
                check(&node.children);
            }
        }
        check(set);
        let names = [
            "f:a",
            "f:b",
            "f:c",
            r#"k:{"p":9}"#,
            r#"k:{"p":10}"#,
            r#"v:"x""#,
            "i:2",
            "i:10",
        ];
        let mut out = BTreeSet::new();
        set.for_each(&mut |path| {
            let path = path
                .iter()
                .map(|s| *names.iter().find(|n| *n == s).unwrap())
                .collect();
            out.insert(path);
        });
        out
    }

    proptest! {
        #[test]
        fn set_operations_are_those_of_sets_of_paths(a in paths(), b in paths()) {
            let (x, y) = (build(&a), build(&b));
            prop_assert_eq!(flat(&x), a.clone());
            prop_assert_eq!(x.len(), a.len());
            prop_assert_eq!(flat(&x.union(&y)), a.union(&b).cloned().collect::<BTreeSet<_>>());
            prop_assert_eq!(flat(&x.intersection(&y)), a.intersection(&b).cloned().collect::<BTreeSet<_>>());
            prop_assert_eq!(flat(&x.difference(&y)), a.difference(&b).cloned().collect::<BTreeSet<_>>());
            prop_assert_eq!(x.intersects(&y), a.intersection(&b).next().is_some());
            prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
            let mut z = x.clone();
            prop_assert_eq!(z.subtract(&y), z != x);
            let mut r = x.clone();
            r.subtract_recursive(&y);
            let expected: BTreeSet<Path> =
                a.iter().filter(|p| !b.iter().any(|q| p.starts_with(q))).cloned().collect();
            prop_assert_eq!(flat(&r), expected);
            for path in &a {
                prop_assert!(x.contains(path));
                prop_assert_eq!(y.contains(path), b.contains(path));
            }
        }
    }

    #[test]
    fn paths_are_listed_members_first() {
        let set = FieldSet::of([
            &["f:spec", "f:a", "f:x"][..],
            &["f:spec", "f:b"],
            &["f:spec"],
            &["f:spec", r#"k:{"name":"n"}"#],
        ]);
        assert_eq!(
            set.paths(),
            [".spec", ".spec.b", ".spec[name=\"n\"]", ".spec.a.x"]
        );
    }
}
