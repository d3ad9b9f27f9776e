//! The expressions rules are made of.
//!
//! A rule is a list of expressions. Each reads and writes registers; one that does not match ends the
//! rule, and the next rule begins with nothing in the registers.

use std::time::Duration;

use super::{Family, Key, Verdict};

/// One of the sixteen 32-bit registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Bytes of the packet into registers.
    Payload {
        to: Reg,
        base: Base,
        offset: u32,
        len: u32,
    },
    Meta {
        to: Reg,
        key: MetaKey,
    },
    SetMeta {
        key: MetaKey,
        from: Reg,
    },
    Ct {
        to: Reg,
        key: CtKey,
    },
    /// Matches when the comparison holds.
    Cmp {
        from: Reg,
        op: CmpOp,
        value: Vec<u8>,
    },
    /// `to = (from & mask) ^ xor`.
    Bitwise {
        from: Reg,
        to: Reg,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// Matches when the key in the registers is in the set.
    InSet {
        set: String,
        from: Reg,
    },
    NotInSet {
        set: String,
        from: Reg,
    },
    /// The map's value for the key, into registers; matches when there is one.
    Map {
        map: String,
        from: Reg,
        to: Reg,
    },
    /// The verdict map's verdict for the key; goes on with the next rule when there is none.
    VerdictMap {
        map: String,
        from: Reg,
    },
    Immediate {
        to: Reg,
        value: Key,
    },
    Verdict(Verdict),
    /// Rewrites an address, and a port where `port` is given.
    Nat {
        kind: NatKind,
        family: Family,
        address: Reg,
        port: Option<Reg>,
    },
    Masquerade {
        fully_random: bool,
    },
    /// A number from 0 up to (not including) `modulus`.
    Numgen {
        to: Reg,
        modulus: u32,
        kind: NumgenKind,
    },
    Hash {
        kind: HashKind,
        to: Reg,
        modulus: u32,
    },
    Counter,
    Reject(RejectKind),
    /// Asks the routing table about the packet's source or destination.
    Fib {
        to: Reg,
        result: FibResult,
    },
    /// Writes the key (and value) in the registers into a dynamic set.
    Dynset {
        set: String,
        op: DynsetOp,
        key: Reg,
        data: Option<Reg>,
        timeout: Duration,
    },
    /// Matches up to this many packets a second.
    Limit {
        per_second: u64,
        burst: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaKey {
    Mark = 3,
    IifName = 6,
    OifName = 7,
    NfProto = 15,
    L4Proto = 16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtKey {
    State = 0,
    Status = 2,
    Mark = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CmpOp {
    Eq = 0,
    Neq = 1,
    Lt = 2,
    Lte = 3,
    Gt = 4,
    Gte = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    Source = 0,
    Destination = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumgenKind {
    Incremental = 0,
    Random = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKind {
    /// Of `len` bytes in registers.
    Jenkins { from: Reg, len: u32, seed: u32 },
    /// Of the packet's addresses and ports, the same in both directions.
    Symmetric { seed: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectKind {
    /// ICMP or ICMPv6 port unreachable, by the family of the table.
    PortUnreachable,
    /// Likewise, administratively prohibited.
    AdminProhibited,
    TcpReset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibResult {
    /// The type of the packet's source address; 2 is local.
    SourceType,
    /// The type of the packet's destination address.
    DestinationType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DynsetOp {
    /// Adds when missing.
    Add = 0,
    /// Adds, or starts the entry's time anew; the value of one that is there stays.
    Update = 1,
    Delete = 2,
}

impl Expr {
    pub fn eq(from: Reg, value: impl Into<Vec<u8>>) -> Expr {
        Expr::Cmp {
            from,
            op: CmpOp::Eq,
            value: value.into(),
        }
    }

    pub fn ne(from: Reg, value: impl Into<Vec<u8>>) -> Expr {
        Expr::Cmp {
            from,
            op: CmpOp::Neq,
            value: value.into(),
        }
    }

    pub fn jump(chain: impl Into<String>) -> Expr {
        Expr::Verdict(Verdict::Jump(chain.into()))
    }

    pub fn goto(chain: impl Into<String>) -> Expr {
        Expr::Verdict(Verdict::Goto(chain.into()))
    }
}

/// The packet's source address; `ip6` tables take four registers.
pub fn src(family: Family, to: Reg) -> Expr {
    match family {
        Family::Ip6 => Expr::Payload {
            to,
            base: Base::Network,
            offset: 8,
            len: 16,
        },
        _ => Expr::Payload {
            to,
            base: Base::Network,
            offset: 12,
            len: 4,
        },
    }
}

/// The packet's destination address.
pub fn dst(family: Family, to: Reg) -> Expr {
    match family {
        Family::Ip6 => Expr::Payload {
            to,
            base: Base::Network,
            offset: 24,
            len: 16,
        },
        _ => Expr::Payload {
            to,
            base: Base::Network,
            offset: 16,
            len: 4,
        },
    }
}

pub fn l4proto(to: Reg) -> Expr {
    Expr::Meta {
        to,
        key: MetaKey::L4Proto,
    }
}

pub fn dport(to: Reg) -> Expr {
    Expr::Payload {
        to,
        base: Base::Transport,
        offset: 2,
        len: 2,
    }
}
