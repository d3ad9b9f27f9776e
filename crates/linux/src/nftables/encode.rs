//! Operations to nfnetlink bytes.
//!
//! Names of constants are those of the kernel's `nf_tables.h`, shortened to their number with a comment
//! where the meaning is not plain from the field beside it.

use super::expressions::expression;
use super::{
    Batch, Chain, ChainKind, Element, ElementData, Family, Field, MapData, Op, Policy, Set, SetKind, Table,
    Verdict,
};
use crate::netlink::wire::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, Writer};

pub(super) const SUBSYSTEM: u16 = 10;
pub(super) const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
const DEL_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
const DEL_CHAIN: u16 = 5;
pub(super) const NEW_RULE: u16 = 6;
pub(super) const GET_RULE: u16 = 7;
const DEL_RULE: u16 = 8;
pub(super) const NEW_SET: u16 = 9;
pub(super) const GET_SET: u16 = 10;
const DEL_SET: u16 = 11;
pub(super) const NEW_ELEMENT: u16 = 12;
pub(super) const GET_ELEMENT: u16 = 13;
const DEL_ELEMENT: u16 = 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const LIST_ELEM: u16 = 1;

/// An attribute's length is 16 bits; lists of elements are cut well before.
const LONGEST_LIST: usize = 48 << 10;

/// The whole batch; message `sequence - first` is which operation (see [`Encoded::op_of`]).
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    first: u32,
    /// The operation each message came from.
    ops: Vec<usize>,
}

impl Encoded {
    pub(super) fn op_of(&self, sequence: u32) -> Option<usize> {
        self.ops.get(sequence.wrapping_sub(self.first) as usize).copied()
    }

    pub(super) fn messages(&self) -> usize {
        self.ops.len()
    }
}

pub(super) fn batch(batch: &Batch, first: u32) -> Encoded {
    let mut out = Encoder {
        writer: Writer::default(),
        first: first.wrapping_add(1),
        ops: Vec::new(),
        op: 0,
    };
    out.bracket(BATCH_BEGIN, first);
    for (index, op) in batch.ops.iter().enumerate() {
        out.op = index;
        out.op(op);
    }
    let last = out.first.wrapping_add(out.ops.len() as u32);
    out.bracket(BATCH_END, last);
    Encoded {
        bytes: out.writer.into_bytes(),
        first: out.first,
        ops: out.ops,
    }
}

struct Encoder {
    writer: Writer,
    first: u32,
    ops: Vec<usize>,
    op: usize,
}

impl Encoder {
    fn bracket(&mut self, kind: u16, sequence: u32) {
        let mark = self.writer.begin(kind, NLM_F_REQUEST, sequence);
        self.writer.raw(&[0, 0, 0, SUBSYSTEM as u8]);
        self.writer.end(mark);
    }

    fn message(&mut self, kind: u16, flags: u16, table: &Table, fill: impl FnOnce(&mut Writer)) {
        let sequence = self.first.wrapping_add(self.ops.len() as u32);
        let mark = self
            .writer
            .begin(SUBSYSTEM << 8 | kind, NLM_F_REQUEST | flags, sequence);
        self.writer.raw(&[family(table.family), 0, 0, 0]);
        self.writer.text(1, &table.name);
        fill(&mut self.writer);
        self.writer.end(mark);
        self.ops.push(self.op);
    }

    fn op(&mut self, op: &Op) {
        match op {
            Op::AddTable(t) => self.message(NEW_TABLE, NLM_F_CREATE, t, |w| w.be32(2, 0)),
            Op::DeleteTable(t) => self.message(DEL_TABLE, 0, t, |_| ()),
            Op::AddChain(t, chain) => self.message(NEW_CHAIN, NLM_F_CREATE, t, |w| add_chain(w, chain)),
            Op::FlushChain(t, chain) => self.message(DEL_RULE, 0, t, |w| w.text(2, chain)),
            Op::DeleteChain(t, chain) => self.message(DEL_CHAIN, 0, t, |w| w.text(3, chain)),
            Op::AddRule(t, chain, rule) => self.message(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, t, |w| {
                w.text(2, chain);
                w.nest(4, |w| {
                    rule.iter()
                        .for_each(|e| w.nest(LIST_ELEM, |w| expression(w, t.family, e)))
                });
            }),
            Op::AddSet(t, set) => {
                let id = self.ops.len() as u32 + 1;
                self.message(NEW_SET, NLM_F_CREATE, t, |w| add_set(w, set, id));
            }
            Op::FlushSet(t, set) => self.message(DEL_ELEMENT, 0, t, |w| w.text(2, set)),
            Op::DeleteSet(t, set) => self.message(DEL_SET, 0, t, |w| w.text(2, set)),
            Op::AddElements(t, set, list) => self.elements(NEW_ELEMENT, NLM_F_CREATE, t, set, list),
            Op::DeleteElements(t, set, list) => self.elements(DEL_ELEMENT, 0, t, set, list),
        }
    }

    fn elements(&mut self, kind: u16, flags: u16, table: &Table, set: &Set, list: &[Element]) {
        let mut rest = list;
        while !rest.is_empty() {
            let mut taken = 0;
            let all = rest;
            self.message(kind, flags, table, |w| {
                w.text(2, &set.name);
                w.nest(3, |w| {
                    let start = w.len();
                    for item in all {
                        if w.len() - start > LONGEST_LIST {
                            break;
                        }
                        element(w, set, item, kind == DEL_ELEMENT);
                        taken += 1;
                    }
                });
            });
            rest = &rest[taken..];
        }
    }
}

pub(super) fn family(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Ip => 2,
        Family::Bridge => 7,
        Family::Ip6 => 10,
    }
}

pub(super) fn read_family(number: u8) -> Option<Family> {
    match number {
        1 => Some(Family::Inet),
        2 => Some(Family::Ip),
        7 => Some(Family::Bridge),
        10 => Some(Family::Ip6),
        _ => None,
    }
}

fn add_chain(w: &mut Writer, chain: &Chain) {
    w.text(3, &chain.name);
    let Some(base) = chain.base else { return };
    w.nest(4, |w| {
        w.be32(1, base.hook as u32);
        w.be32(2, base.priority as u32);
    });
    w.be32(
        5,
        match base.policy {
            Policy::Drop => 0,
            Policy::Accept => 1,
        },
    );
    w.text(
        7,
        match base.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
            ChainKind::Route => "route",
        },
    );
}

// Set flags.
const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const TIMEOUT: u32 = 0x10;
const EVAL: u32 = 0x20;
const CONCAT: u32 = 0x80;

fn add_set(w: &mut Writer, set: &Set, id: u32) {
    let ranges_of_several = set.kind == SetKind::Interval && set.key.len() > 1;
    let mut flags = match set.kind {
        SetKind::Exact => 0,
        SetKind::Interval => INTERVAL,
        SetKind::Dynamic { .. } => TIMEOUT | EVAL,
    };
    if ranges_of_several {
        flags |= CONCAT;
    }
    if set.data != MapData::None {
        flags |= MAP;
    }
    w.text(2, &set.name);
    w.be32(3, flags);
    w.be32(4, datatype(&set.key));
    w.be32(5, length(&set.key));
    match &set.data {
        MapData::None => {}
        MapData::Verdict => {
            w.be32(6, 0xffff_ff00);
            w.be32(7, 16);
        }
        MapData::Value(fields) => {
            w.be32(6, datatype(fields));
            w.be32(7, length(fields));
        }
    }
    let size = match set.kind {
        SetKind::Dynamic { size } => Some(size),
        _ => None,
    };
    if size.is_some() || ranges_of_several {
        w.nest(9, |w| {
            if let Some(size) = size {
                w.be32(1, size);
            }
            if ranges_of_several {
                w.nest(2, |w| {
                    for field in &set.key {
                        w.nest(LIST_ELEM, |w| w.be32(1, field.padded() as u32));
                    }
                });
            }
        });
    }
    w.be32(10, id);
}

/// The numbers by which `nft` knows how to print a key: six bits a field.
fn datatype(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |all, field| {
        all << 6
            | match field {
                Field::Ipv4 => 7,
                Field::Ipv6 => 8,
                Field::Proto => 12,
                Field::Port => 13,
                Field::Number => 19,
                Field::IfName => 41,
            }
    })
}

/// A single field keeps its own length; in a concatenation each is padded.
fn length(fields: &[Field]) -> u32 {
    match fields {
        [one] => one.size() as u32,
        all => all.iter().map(|field| field.padded() as u32).sum(),
    }
}

fn element(w: &mut Writer, set: &Set, element: &Element, deleting: bool) {
    let key = exact(&set.key, element.key.as_bytes());
    let end = element.end.as_ref().map(|end| exact(&set.key, end.as_bytes()));
    let several = set.key.len() > 1;
    w.nest(LIST_ELEM, |w| {
        w.nest(1, |w| w.attribute(1, key));
        if let (true, SetKind::Interval) = (several, set.kind) {
            w.nest(10, |w| w.attribute(1, end.unwrap_or(key)));
        }
        if !deleting {
            element_data(w, set, &element.data);
        }
    });
    // Ranges of one field are kept as their beginnings and the first key after each.
    if let (false, SetKind::Interval) = (several, set.kind)
        && let Some(after) = successor(end.unwrap_or(key))
    {
        w.nest(LIST_ELEM, |w| {
            w.nest(1, |w| w.attribute(1, &after));
            w.be32(3, 1);
        });
    }
}

fn element_data(w: &mut Writer, set: &Set, data: &ElementData) {
    match data {
        ElementData::None => {}
        ElementData::Verdict(verdict) => w.nest(2, |w| verdict_data(w, verdict)),
        ElementData::Value(value) => {
            let bytes = match &set.data {
                MapData::Value(fields) => exact(fields, value.as_bytes()),
                _ => value.as_bytes(),
            };
            w.nest(2, |w| w.attribute(1, bytes));
        }
    }
}

/// A lone field is not padded.
fn exact<'a>(fields: &[Field], bytes: &'a [u8]) -> &'a [u8] {
    match fields {
        [one] => bytes.get(..one.size()).unwrap_or(bytes),
        _ => bytes,
    }
}

/// The next key as a big-endian number; `None` after the last.
fn successor(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        let (value, overflow) = byte.overflowing_add(1);
        *byte = value;
        if !overflow {
            return Some(next);
        }
    }
    None
}

pub(super) fn verdict_data(w: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Continue => (-1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    w.nest(2, |w| {
        w.be32(1, code as u32);
        if let Some(chain) = chain {
            w.text(2, chain);
        }
    });
}
