//! The second turn of mutating plugins: who changed an object after others had seen it makes those that want to look
//! again.

use machinery::Value;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};

/// What the plugins of one request remember between their turns.
#[derive(Default)]
pub struct Reinvocation {
    again: AtomicBool,
    wanted: AtomicBool,
    plugins: Mutex<HashMap<&'static str, Memory>>,
}

#[derive(Default)]
struct Memory {
    /// The object as the plugin left it, if somebody may want to see it again.
    left: Option<Value>,
    asked: BTreeSet<String>,
    again: BTreeSet<String>,
}

impl Memory {
    fn ask_all_again(&mut self) {
        self.again.append(&mut self.asked);
    }
}

impl Reinvocation {
    pub(crate) fn is_again(&self) -> bool {
        self.again.load(Ordering::Relaxed)
    }

    /// Whether there is to be a second turn; it begins now.
    pub(super) fn begin_again(&self) -> bool {
        let wanted = self.wanted.load(Ordering::Relaxed);
        self.again.store(wanted, Ordering::Relaxed);
        wanted
    }

    /// A plugin's turn begins with this object.
    pub(crate) fn begin(&self, plugin: &'static str, object: Option<&Value>) -> Turn<'_> {
        let mut memory = self.plugins.lock().remove(plugin).unwrap_or_default();
        if self.is_again()
            && let (Some(left), Some(object)) = (&memory.left, object)
            && !left.semantic_eq(object)
        {
            memory.ask_all_again();
        }
        Turn {
            all: self,
            plugin,
            memory,
        }
    }
}

/// One turn of a plugin that asks others.
pub(crate) struct Turn<'a> {
    all: &'a Reinvocation,
    plugin: &'static str,
    memory: Memory,
}

impl Turn<'_> {
    /// Whether somebody has their turn: everybody the first time, later only who must look again.
    pub(crate) fn may_ask(&self, id: &str) -> bool {
        !self.all.is_again() || self.memory.again.contains(id)
    }

    /// Somebody was asked.
    pub(crate) fn asked(&mut self, id: &str, looks_again: bool, changed: bool) {
        if changed {
            self.memory.ask_all_again();
            self.all.wanted.store(true, Ordering::Relaxed);
        }
        if looks_again {
            self.memory.asked.insert(id.to_owned());
        }
    }

    /// The turn ends with this object.
    pub(crate) fn end(mut self, object: Option<&Value>) {
        let interested = !self.memory.asked.is_empty() || !self.memory.again.is_empty();
        self.memory.left = object.filter(|_| interested).cloned();
        self.all.plugins.lock().insert(self.plugin, self.memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_to_looks_again_at_what_others_changed() {
        let all = Reinvocation::default();
        let object = Value::object();
        let mut turn = all.begin("p", Some(&object));
        for (id, looks_again, changed) in [("a", true, false), ("b", false, true), ("c", true, false)] {
            assert!(turn.may_ask(id));
            turn.asked(id, looks_again, changed);
        }
        turn.end(Some(&object));
        assert!(all.begin_again());
        let turn = all.begin("p", Some(&object));
        let asked: Vec<&str> = ["a", "b", "c"]
            .into_iter()
            .filter(|id| turn.may_ask(id))
            .collect();
        assert_eq!(asked, ["a"]);
        turn.end(Some(&object));
        let mut changed = object.clone();
        changed.set_path(&["x"], 1);
        let turn = all.begin("p", Some(&changed));
        assert!(turn.may_ask("c"), "another plugin changed it");
    }

    #[test]
    fn nothing_changed_means_no_second_turn() {
        let all = Reinvocation::default();
        let mut turn = all.begin("p", None);
        turn.asked("a", true, false);
        turn.end(None);
        assert!(!all.begin_again());
    }
}
