//! The packet filter and connection tracking of the recording fake.

use super::{Recorder, refused};
use crate::Result;
use crate::conntrack::{Connection, Conntrack, IpFamily};
use crate::nftables::{Batch, BatchError, Dump, DumpChain, DumpSet, Op, OpError, Ruleset, Table};

impl Recorder {
    /// Puts a connection into the table.
    pub fn add_connection(&self, connection: Connection) {
        self.state.lock().connections.push(connection);
    }
}

impl Ruleset for Recorder {
    fn commit(&self, batch: &Batch) -> std::result::Result<(), BatchError> {
        for (index, op) in batch.ops.iter().enumerate() {
            let outcome = self.call(op.to_string(), |state| {
                apply(&mut state.tables, op);
                Ok(())
            });
            if let Err(error) = outcome {
                return Err(BatchError::Refused(vec![OpError {
                    index: Some(index),
                    operation: op.to_string(),
                    errno: error.errno().unwrap_or(libc::EIO),
                    reason: None,
                }]));
            }
        }
        Ok(())
    }

    fn tables(&self) -> Result<Vec<Table>> {
        Ok(self
            .state
            .lock()
            .tables
            .iter()
            .map(|(table, _)| table.clone())
            .collect())
    }

    fn dump(&self, table: &Table) -> Result<Dump> {
        let state = self.state.lock();
        Ok(state
            .tables
            .iter()
            .find(|(known, _)| known == table)
            .map_or_else(Dump::default, |(_, d)| d.clone()))
    }
}

/// Enough of nf_tables to see what a run of batches leaves behind.
fn apply(tables: &mut Vec<(Table, Dump)>, op: &Op) {
    let (Op::AddTable(table)
    | Op::DeleteTable(table)
    | Op::AddChain(table, _)
    | Op::FlushChain(table, _)
    | Op::DeleteChain(table, _)
    | Op::AddRule(table, ..)
    | Op::AddSet(table, _)
    | Op::FlushSet(table, _)
    | Op::DeleteSet(table, _)
    | Op::AddElements(table, ..)
    | Op::DeleteElements(table, ..)) = op;
    if let Op::DeleteTable(_) = op {
        tables.retain(|(known, _)| known != table);
        return;
    }
    let at = tables
        .iter()
        .position(|(known, _)| known == table)
        .unwrap_or_else(|| {
            tables.push((table.clone(), Dump::default()));
            tables.len() - 1
        });
    let dump = &mut tables[at].1;
    match op {
        Op::AddTable(_) | Op::DeleteTable(_) => {}
        Op::AddChain(_, chain) => {
            if dump.chain(&chain.name).is_none() {
                let hook = chain.base.map(|base| (base.hook as u32, base.priority));
                dump.chains.push(DumpChain {
                    name: chain.name.clone(),
                    hook,
                    rules: Vec::new(),
                });
            }
        }
        Op::FlushChain(_, chain) => {
            dump.chains
                .iter_mut()
                .filter(|c| c.name == *chain)
                .for_each(|c| c.rules.clear());
        }
        Op::DeleteChain(_, chain) => dump.chains.retain(|c| c.name != *chain),
        Op::AddRule(_, chain, rule) => {
            let rule: Vec<String> = rule.iter().map(|e| format!("{e:?}")).collect();
            dump.chains
                .iter_mut()
                .filter(|c| c.name == *chain)
                .for_each(|c| c.rules.push(rule.clone()));
        }
        Op::AddSet(_, set) => {
            if dump.set(&set.name).is_none() {
                dump.sets.push(DumpSet {
                    name: set.name.clone(),
                    elements: Vec::new(),
                });
            }
        }
        Op::FlushSet(_, set) => {
            dump.sets
                .iter_mut()
                .filter(|s| s.name == *set)
                .for_each(|s| s.elements.clear());
        }
        Op::DeleteSet(_, set) => dump.sets.retain(|s| s.name != *set),
        Op::AddElements(_, set, list) => {
            for known in dump.sets.iter_mut().filter(|s| s.name == set.name) {
                known.elements.extend(list.iter().cloned());
                known.elements.sort_by(|a, b| a.key.cmp(&b.key));
                known.elements.dedup();
            }
        }
        Op::DeleteElements(_, set, list) => {
            for known in dump.sets.iter_mut().filter(|s| s.name == set.name) {
                known
                    .elements
                    .retain(|e| !list.iter().any(|gone| gone.key == e.key && gone.end == e.end));
            }
        }
    }
}

impl Conntrack for Recorder {
    fn connections(&self, family: IpFamily) -> Result<Vec<Connection>> {
        let state = self.state.lock();
        let of_family = |c: &&Connection| c.original.source.is_ipv4() == (family == IpFamily::V4);
        Ok(state.connections.iter().filter(of_family).cloned().collect())
    }

    fn delete(&self, connection: &Connection) -> Result<bool> {
        let line = format!("conntrack-delete {} {:?}", connection.proto, connection.original);
        self.call(line.clone(), |state| {
            let at = state.connections.iter().position(|known| known == connection);
            at.map(|at| state.connections.remove(at))
                .map(|_| true)
                .ok_or_else(|| refused(&line, libc::ENOENT))
        })
    }
}
