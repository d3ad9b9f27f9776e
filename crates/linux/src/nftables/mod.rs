//! nf_tables without the `nft` program: tables, chains, sets, maps and rules as plain data, sent to the
//! kernel in atomic batches over nfnetlink.
//!
//! ```text
//!   Batch of Ops ──encode──► one datagram ──► kernel: all or nothing
//!                                        ◄── one refusal per Op that was wrong
//! ```
//!
//! **Invariant:** a [`Batch`] takes effect as a whole or not at all; packets never see half of it.
//!
//! Only what Kijabi's own rules need is here. Registers are the sixteen 32-bit ones; a value wider than
//! that (an IPv6 address, a concatenated key) fills as many as it needs, each field padded to four bytes.

mod batch;
mod decode;
mod encode;
mod expr;
mod expressions;
mod kernel;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

pub use batch::{Batch, Op};
pub use expr::{
    Base, CmpOp, CtKey, DynsetOp, Expr, FibResult, HashKind, MetaKey, NatKind, NumgenKind, Reg, RejectKind,
    dport, dst, l4proto, src,
};
pub use kernel::Nftables;

use crate::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    Ip,
    Ip6,
    Inet,
    Bridge,
}

/// A table's full name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table {
    pub family: Family,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    /// Where packets enter it from the kernel; `None` for one that is only jumped to.
    pub base: Option<BaseChain>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseChain {
    pub kind: ChainKind,
    pub hook: Hook,
    pub priority: i32,
    pub policy: Policy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
    Route,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Accept,
    Drop,
}

/// Well-known priorities.
pub mod priority {
    pub const RAW: i32 = -300;
    pub const CONNTRACK: i32 = -200;
    pub const MANGLE: i32 = -150;
    pub const DSTNAT: i32 = -100;
    pub const FILTER: i32 = 0;
    pub const SRCNAT: i32 = 100;
}

/// One field of a key or of a map's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Ipv4,
    Ipv6,
    /// A transport protocol number.
    Proto,
    Port,
    /// Any 32-bit number, in the machine's byte order.
    Number,
    /// An interface name.
    IfName,
}

/// A set or, with `data`, a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub key: Vec<Field>,
    pub data: MapData,
    pub kind: SetKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapData {
    /// A plain set.
    None,
    /// A verdict map.
    Verdict,
    Value(Vec<Field>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    Exact,
    /// Elements are ranges, field by field.
    Interval,
    /// Filled by rules; entries go after their time. `size` bounds the memory.
    Dynamic {
        size: u32,
    },
}

/// One element; `end` makes it a range (both ends included).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    pub key: Key,
    pub end: Option<Key>,
    pub data: ElementData,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ElementData {
    None,
    Verdict(Verdict),
    Value(Key),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    Continue,
    Return,
    Jump(String),
    Goto(String),
}

/// The bytes of a key or value, built field by field.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

impl Key {
    pub fn new() -> Self {
        Key(Vec::with_capacity(16))
    }

    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Key(bytes.into())
    }

    #[must_use]
    pub fn ip(mut self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.0.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => self.0.extend_from_slice(&address.octets()),
        }
        self
    }

    #[must_use]
    pub fn proto(mut self, proto: u8) -> Self {
        self.0.extend_from_slice(&[proto, 0, 0, 0]);
        self
    }

    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        let [high, low] = port.to_be_bytes();
        self.0.extend_from_slice(&[high, low, 0, 0]);
        self
    }

    #[must_use]
    pub fn number(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_ne_bytes());
        self
    }

    #[must_use]
    pub fn if_name(mut self, name: &str) -> Self {
        let start = self.0.len();
        self.0.extend_from_slice(name.as_bytes());
        self.0.resize(start + libc::IFNAMSIZ, 0);
        self
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Table {
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Table {
            family,
            name: name.into(),
        }
    }
}

impl Chain {
    pub fn regular(name: impl Into<String>) -> Self {
        Chain {
            name: name.into(),
            base: None,
        }
    }

    pub fn base(name: impl Into<String>, kind: ChainKind, hook: Hook, priority: i32) -> Self {
        Chain {
            name: name.into(),
            base: Some(BaseChain {
                kind,
                hook,
                priority,
                policy: Policy::Accept,
            }),
        }
    }
}

impl Set {
    pub fn plain(name: impl Into<String>, key: impl Into<Vec<Field>>) -> Self {
        Set {
            name: name.into(),
            key: key.into(),
            data: MapData::None,
            kind: SetKind::Exact,
        }
    }

    pub fn verdicts(name: impl Into<String>, key: impl Into<Vec<Field>>) -> Self {
        Set {
            data: MapData::Verdict,
            ..Set::plain(name, key)
        }
    }

    pub fn map(name: impl Into<String>, key: impl Into<Vec<Field>>, data: impl Into<Vec<Field>>) -> Self {
        Set {
            data: MapData::Value(data.into()),
            ..Set::plain(name, key)
        }
    }

    #[must_use]
    pub fn with_kind(mut self, kind: SetKind) -> Self {
        self.kind = kind;
        self
    }
}

impl Element {
    pub fn key(key: Key) -> Self {
        Element {
            key,
            end: None,
            data: ElementData::None,
        }
    }

    pub fn range(key: Key, end: Key) -> Self {
        Element {
            key,
            end: Some(end),
            data: ElementData::None,
        }
    }

    pub fn verdict(key: Key, verdict: Verdict) -> Self {
        Element {
            key,
            end: None,
            data: ElementData::Verdict(verdict),
        }
    }

    pub fn value(key: Key, value: Key) -> Self {
        Element {
            key,
            end: None,
            data: ElementData::Value(value),
        }
    }
}

impl Field {
    /// The bytes of the value itself.
    pub fn size(self) -> usize {
        match self {
            Field::Ipv4 | Field::Number => 4,
            Field::Ipv6 | Field::IfName => 16,
            Field::Proto => 1,
            Field::Port => 2,
        }
    }

    /// The bytes it takes in a key.
    pub fn padded(self) -> usize {
        self.size().next_multiple_of(4)
    }
}

/// What can be asked of the packet filter of one network namespace.
pub trait Ruleset: Send + Sync {
    /// Carries a batch out, all or nothing.
    fn commit(&self, batch: &Batch) -> std::result::Result<(), BatchError>;
    fn tables(&self) -> Result<Vec<Table>>;
    /// What a table holds now; an empty dump when there is none.
    fn dump(&self, table: &Table) -> Result<Dump>;
}

/// Why a batch did not take effect.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error("nf_tables refused {}", Refused(.0))]
    Refused(Vec<OpError>),
    #[error("nf_tables batch")]
    Transport(#[source] crate::Error),
}

/// One refused operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpError {
    /// Its place in the batch; `None` when the kernel refused the batch as a whole.
    pub index: Option<usize>,
    pub operation: String,
    pub errno: i32,
    pub reason: Option<String>,
}

struct Refused<'a>(&'a [OpError]);

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.0.first() else {
            return f.write_str("a batch");
        };
        let errno = std::io::Error::from_raw_os_error(first.errno);
        write!(f, "{}: {errno}", first.operation)?;
        if let Some(reason) = &first.reason {
            write!(f, " ({reason})")?;
        }
        match self.0.len() {
            1 => Ok(()),
            n => write!(f, " and {} more", n - 1),
        }
    }
}

/// The contents of a table, for tests and for `kijabi status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    pub chains: Vec<DumpChain>,
    pub sets: Vec<DumpSet>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpChain {
    pub name: String,
    pub hook: Option<(u32, i32)>,
    /// The names of each rule's expressions, in order.
    pub rules: Vec<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpSet {
    pub name: String,
    pub elements: Vec<Element>,
}

impl Dump {
    pub fn set(&self, name: &str) -> Option<&DumpSet> {
        self.sets.iter().find(|set| set.name == name)
    }

    pub fn chain(&self, name: &str) -> Option<&DumpChain> {
        self.chains.iter().find(|chain| chain.name == name)
    }
}

/// How long an element lives, for dynamic sets.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
