//! The real packet filter of one network namespace.

use parking_lot::Mutex;
use rustix::net::netlink::NETFILTER;

use super::decode;
use super::encode::{
    self, GET_CHAIN, GET_ELEMENT, GET_RULE, GET_SET, GET_TABLE, NEW_CHAIN, NEW_ELEMENT, NEW_RULE, NEW_SET,
    NEW_TABLE, SUBSYSTEM,
};
use super::{Batch, BatchError, Dump, DumpChain, DumpSet, OpError, Ruleset, Table};
use crate::namespace::Net;
use crate::netlink::socket::{Answer, Flow, Socket};
use crate::netlink::wire::{NLM_F_DUMP, Writer};
use crate::{Error, Result};

/// How often a dump that another writer disturbed is begun again.
const ATTEMPTS: usize = 10;

/// A connection to nf_tables.
#[derive(Debug)]
pub struct Nftables {
    socket: Mutex<Socket>,
}

impl Nftables {
    /// Of the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Self::open_net(&Net::Own)
    }

    pub fn open_net(net: &Net) -> Result<Self> {
        Ok(Nftables {
            socket: Mutex::new(Socket::open(Some(NETFILTER), net)?),
        })
    }

    /// Lists things of one kind, as the attributes of each.
    fn list(
        &self,
        get: u16,
        new: u16,
        family: u8,
        what: &'static str,
        fill: impl Fn(&mut Writer),
        mut see: impl FnMut(u8, &[u8]),
    ) -> Result<()> {
        let mut socket = self.socket.lock();
        for _ in 0..ATTEMPTS {
            let sequence = socket.next_sequence();
            let request = decode::request(get, NLM_F_DUMP, family, sequence, &fill);
            let mut answers = Vec::new();
            let outcome = socket.request(&request, sequence, |message| {
                if message.kind == SUBSYSTEM << 8 | new {
                    answers.push(message.payload.to_vec());
                }
            })?;
            match outcome {
                Ok(()) => {
                    for answer in &answers {
                        see(answer.first().copied().unwrap_or(0), decode::body(answer));
                    }
                    return Ok(());
                }
                // The ruleset changed under the dump.
                Err(refusal) if refusal.errno == libc::EINTR => {}
                Err(refusal) => return Err(refusal.into_error("list nf_tables", what)),
            }
        }
        Err(Error::answer("list nf_tables", what, "the ruleset kept changing"))
    }
}

impl Ruleset for Nftables {
    fn commit(&self, batch: &Batch) -> std::result::Result<(), BatchError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut socket = self.socket.lock();
        let first = socket.next_sequence();
        let encoded = encode::batch(batch, first);
        for _ in 0..=encoded.messages() {
            socket.next_sequence();
        }
        if encoded.bytes.len() > 64 << 10 {
            socket.widen(encoded.bytes.len() * 2);
        }
        socket.send(&encoded.bytes).map_err(BatchError::Transport)?;
        // The kernel has answered by the time the send returns: what is queued now is all there is.
        let mut refused = Vec::new();
        socket
            .drain(|answer| {
                if let Answer::Refused(refusal) = answer {
                    let index = encoded.op_of(refusal.sequence);
                    refused.push(OpError {
                        index,
                        operation: index
                            .map_or_else(|| "the batch".to_owned(), |index| batch.ops[index].to_string()),
                        errno: refusal.errno,
                        reason: refusal.reason,
                    });
                }
                Flow::More
            })
            .map_err(BatchError::Transport)?;
        if refused.is_empty() {
            Ok(())
        } else {
            Err(BatchError::Refused(refused))
        }
    }

    fn tables(&self) -> Result<Vec<Table>> {
        let mut found = Vec::new();
        self.list(
            GET_TABLE,
            NEW_TABLE,
            0,
            "tables",
            |_| (),
            |family, body| {
                if let Some(family) = encode::read_family(family) {
                    found.push(Table {
                        family,
                        name: decode::named(body, 1),
                    });
                }
            },
        )?;
        Ok(found)
    }

    fn dump(&self, table: &Table) -> Result<Dump> {
        let mut dump = Dump::default();
        if !self.tables()?.contains(table) {
            return Ok(dump);
        }
        let family = encode::family(table.family);
        let mine = |body: &[u8]| decode::named(body, 1) == table.name;
        self.list(
            GET_CHAIN,
            NEW_CHAIN,
            family,
            "chains",
            |_| (),
            |_, body| {
                if mine(body) {
                    let (name, hook) = (decode::named(body, 3), decode::read_hook(body));
                    dump.chains.push(DumpChain {
                        name,
                        hook,
                        rules: Vec::new(),
                    });
                }
            },
        )?;
        self.list(
            GET_RULE,
            NEW_RULE,
            family,
            "rules",
            |w| w.text(1, &table.name),
            |_, body| {
                let chain = decode::named(body, 2);
                if mine(body)
                    && let Some(chain) = dump.chains.iter_mut().find(|c| c.name == chain)
                {
                    chain.rules.push(decode::read_rule(body));
                }
            },
        )?;
        self.list(
            GET_SET,
            NEW_SET,
            family,
            "sets",
            |w| w.text(1, &table.name),
            |_, body| {
                if mine(body) {
                    dump.sets.push(DumpSet {
                        name: decode::named(body, 2),
                        elements: Vec::new(),
                    });
                }
            },
        )?;
        for set in &mut dump.sets {
            let name = set.name.clone();
            let select = |w: &mut Writer| {
                w.text(1, &table.name);
                w.text(2, &name);
            };
            self.list(GET_ELEMENT, NEW_ELEMENT, family, "elements", select, |_, body| {
                set.elements.extend(decode::read_elements(body));
            })?;
            set.elements.sort_by(|a, b| a.key.cmp(&b.key));
        }
        Ok(dump)
    }
}
