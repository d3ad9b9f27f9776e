//! Expressions to bytes. Attribute numbers are those of the kernel's `nf_tables.h`.

use super::encode::{family, verdict_data};
use super::{DynsetOp, Expr, Family, FibResult, HashKind, Reg, RejectKind, milliseconds};
use crate::netlink::wire::Writer;

fn register(w: &mut Writer, attribute: u16, Reg(number): Reg) {
    const REG32_00: u32 = 8;
    w.be32(attribute, REG32_00 + u32::from(number));
}

pub(super) fn expression(w: &mut Writer, table: Family, expr: &Expr) {
    const VERDICT_REGISTER: u32 = 0;
    let name = name(expr);
    w.text(1, name);
    w.nest(2, |w| match expr {
        Expr::Payload {
            to,
            base,
            offset,
            len,
        } => {
            register(w, 1, *to);
            w.be32(2, *base as u32);
            w.be32(3, *offset);
            w.be32(4, *len);
        }
        Expr::Meta { to, key } => {
            w.be32(2, *key as u32);
            register(w, 1, *to);
        }
        Expr::SetMeta { key, from } => {
            w.be32(2, *key as u32);
            register(w, 3, *from);
        }
        Expr::Ct { to, key } => {
            w.be32(2, *key as u32);
            register(w, 1, *to);
        }
        Expr::Cmp { from, op, value } => {
            register(w, 1, *from);
            w.be32(2, *op as u32);
            w.nest(3, |w| w.attribute(1, value));
        }
        Expr::Bitwise { from, to, mask, xor } => {
            register(w, 1, *from);
            register(w, 2, *to);
            w.be32(3, mask.len() as u32);
            w.nest(4, |w| w.attribute(1, mask));
            w.nest(5, |w| w.attribute(1, xor));
        }
        Expr::InSet { set, from } => lookup(w, set, *from, None, false),
        Expr::NotInSet { set, from } => lookup(w, set, *from, None, true),
        Expr::Map { map, from, to } => {
            lookup(w, map, *from, None, false);
            register(w, 3, *to);
        }
        Expr::VerdictMap { map, from } => lookup(w, map, *from, Some(VERDICT_REGISTER), false),
        Expr::Immediate { to, value } => {
            register(w, 1, *to);
            w.nest(2, |w| w.attribute(1, value.as_bytes()));
        }
        Expr::Verdict(verdict) => {
            w.be32(1, VERDICT_REGISTER);
            w.nest(2, |w| verdict_data(w, verdict));
        }
        Expr::Nat {
            kind,
            family: of,
            address,
            port,
        } => {
            w.be32(1, *kind as u32);
            w.be32(2, u32::from(family(*of)));
            register(w, 3, *address);
            if let Some(port) = port {
                register(w, 5, *port);
            }
        }
        Expr::Masquerade { fully_random } => {
            if *fully_random {
                w.be32(1, 0x10);
            }
        }
        Expr::Numgen { to, modulus, kind } => {
            register(w, 1, *to);
            w.be32(2, *modulus);
            w.be32(3, *kind as u32);
            w.be32(4, 0);
        }
        Expr::Hash { kind, to, modulus } => {
            let (of, seed) = match kind {
                HashKind::Jenkins { from, len, seed } => {
                    register(w, 1, *from);
                    w.be32(3, *len);
                    (0, *seed)
                }
                HashKind::Symmetric { seed } => (1, *seed),
            };
            register(w, 2, *to);
            w.be32(4, *modulus);
            w.be32(5, seed);
            w.be32(6, 0);
            w.be32(7, of);
        }
        Expr::Counter => {}
        Expr::Reject(kind) => {
            // Tables of one family want that family's codes, those of both a code for either.
            let (of, code) = match (kind, table) {
                (RejectKind::PortUnreachable, Family::Ip) => (0, 3),
                (RejectKind::PortUnreachable, Family::Ip6) => (0, 4),
                (RejectKind::PortUnreachable, _) => (2, 1),
                (RejectKind::AdminProhibited, Family::Ip) => (0, 13),
                (RejectKind::AdminProhibited, Family::Ip6) => (0, 1),
                (RejectKind::AdminProhibited, _) => (2, 3),
                (RejectKind::TcpReset, _) => (1, 0),
            };
            w.be32(1, of);
            w.u8(2, code);
        }
        Expr::Fib { to, result } => {
            register(w, 1, *to);
            w.be32(2, 3);
            w.be32(
                3,
                match result {
                    FibResult::SourceType => 1,
                    FibResult::DestinationType => 2,
                },
            );
        }
        Expr::Dynset {
            set,
            op,
            key,
            data,
            timeout,
        } => {
            w.text(1, set);
            w.be32(3, *op as u32);
            register(w, 4, *key);
            if let Some(data) = data {
                register(w, 5, *data);
            }
            if *op != DynsetOp::Delete {
                w.be64(6, milliseconds(*timeout));
            }
        }
        Expr::Limit { per_second, burst } => {
            w.be64(1, *per_second);
            w.be64(2, 1);
            w.be32(3, *burst);
            w.be32(4, 0);
        }
    });
}

fn name(expr: &Expr) -> &'static str {
    match expr {
        Expr::Payload { .. } => "payload",
        Expr::Meta { .. } | Expr::SetMeta { .. } => "meta",
        Expr::Ct { .. } => "ct",
        Expr::Cmp { .. } => "cmp",
        Expr::Bitwise { .. } => "bitwise",
        Expr::InSet { .. } | Expr::NotInSet { .. } | Expr::Map { .. } | Expr::VerdictMap { .. } => "lookup",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Nat { .. } => "nat",
        Expr::Masquerade { .. } => "masq",
        Expr::Numgen { .. } => "numgen",
        Expr::Hash { .. } => "hash",
        Expr::Counter => "counter",
        Expr::Reject(_) => "reject",
        Expr::Fib { .. } => "fib",
        Expr::Dynset { .. } => "dynset",
        Expr::Limit { .. } => "limit",
    }
}

fn lookup(w: &mut Writer, set: &str, from: Reg, to: Option<u32>, inverted: bool) {
    w.text(1, set);
    register(w, 2, from);
    if let Some(to) = to {
        w.be32(3, to);
    }
    if inverted {
        w.be32(5, 1);
    }
}
