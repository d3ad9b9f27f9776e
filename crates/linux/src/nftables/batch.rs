//! The operations of a batch, in the order they take effect.

use std::fmt;

use super::{Chain, Element, Expr, Set, Table};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    AddTable(Table),
    DeleteTable(Table),
    AddChain(Table, Chain),
    /// Removes the chain's rules.
    FlushChain(Table, String),
    DeleteChain(Table, String),
    /// Appends a rule.
    AddRule(Table, String, Vec<Expr>),
    AddSet(Table, Set),
    FlushSet(Table, String),
    DeleteSet(Table, String),
    AddElements(Table, Set, Vec<Element>),
    DeleteElements(Table, Set, Vec<Element>),
}

/// Changes that take effect together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub ops: Vec<Op>,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    pub fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// Makes the table if it is missing.
    pub fn add_table(&mut self, table: &Table) {
        self.ops.push(Op::AddTable(table.clone()));
    }

    /// Removes the table and all in it, whether it is there or not.
    pub fn remove_table(&mut self, table: &Table) {
        // Deleting what is missing is an error and "delete if there" is newer than the kernels meant here;
        // adding what is there is none.
        self.add_table(table);
        self.ops.push(Op::DeleteTable(table.clone()));
    }

    pub fn add_chain(&mut self, table: &Table, chain: Chain) {
        self.ops.push(Op::AddChain(table.clone(), chain));
    }

    pub fn add_rule(&mut self, table: &Table, chain: &str, rule: Vec<Expr>) {
        self.ops.push(Op::AddRule(table.clone(), chain.to_owned(), rule));
    }

    pub fn add_set(&mut self, table: &Table, set: &Set) {
        self.ops.push(Op::AddSet(table.clone(), set.clone()));
    }

    /// Adding an equal element again is fine; one with the same key and another value is refused.
    pub fn add_elements(&mut self, table: &Table, set: &Set, elements: Vec<Element>) {
        if !elements.is_empty() {
            self.ops
                .push(Op::AddElements(table.clone(), set.clone(), elements));
        }
    }

    /// Deleting a missing element is refused.
    pub fn delete_elements(&mut self, table: &Table, set: &Set, elements: Vec<Element>) {
        if !elements.is_empty() {
            self.ops
                .push(Op::DeleteElements(table.clone(), set.clone(), elements));
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |t: &Table| format!("{:?} {}", t.family, t.name).to_lowercase();
        match self {
            Op::AddTable(t) => write!(f, "add table {}", name(t)),
            Op::DeleteTable(t) => write!(f, "delete table {}", name(t)),
            Op::AddChain(t, chain) => write!(f, "add chain {} {}", name(t), chain.name),
            Op::FlushChain(t, chain) => write!(f, "flush chain {} {chain}", name(t)),
            Op::DeleteChain(t, chain) => write!(f, "delete chain {} {chain}", name(t)),
            Op::AddRule(t, chain, rule) => write!(f, "add rule {} {chain} {rule:?}", name(t)),
            Op::AddSet(t, set) => write!(f, "add set {} {}", name(t), set.name),
            Op::FlushSet(t, set) => write!(f, "flush set {} {set}", name(t)),
            Op::DeleteSet(t, set) => write!(f, "delete set {} {set}", name(t)),
            Op::AddElements(t, set, elements) => {
                write!(f, "add elements {} {} {}", name(t), set.name, Elements(elements))
            }
            Op::DeleteElements(t, set, elements) => {
                write!(
                    f,
                    "delete elements {} {} {}",
                    name(t),
                    set.name,
                    Elements(elements)
                )
            }
        }
    }
}

/// The first few of a list that may be very long.
struct Elements<'a>(&'a [Element]);

impl fmt::Display for Elements<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        for (n, element) in self.0.iter().take(SHOWN).enumerate() {
            let separator = if n == 0 { "" } else { ", " };
            write!(f, "{separator}{:?} {:?}", element.key, element.data)?;
        }
        if self.0.len() > SHOWN {
            write!(f, " and {} more", self.0.len() - SHOWN)?;
        }
        Ok(())
    }
}
