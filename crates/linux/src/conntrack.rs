//! Tracked connections: listing and deleting them.
//!
//! A UDP "connection" keeps its translated address as long as packets come, even when the endpoint
//! behind it is gone; deleting its entry makes the next packet be looked at anew.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use parking_lot::Mutex;
use rustix::net::netlink::NETFILTER;

use crate::namespace::Net;
use crate::netlink::socket::Socket;
use crate::netlink::wire::{self, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Writer, attribute};
use crate::{Error, Result};

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Zero for protocols without ports.
    pub source_port: u16,
    pub destination_port: u16,
}

/// One tracked connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// 6 TCP, 17 UDP, 132 SCTP.
    pub proto: u8,
    /// As the first packet was sent.
    pub original: Tuple,
    /// As answers come: its source is who really answers.
    pub reply: Tuple,
    pub mark: u32,
    /// The kernel's own attributes that name this entry.
    handle: Vec<u8>,
}

impl Connection {
    /// For tests of deciders; names no entry of any kernel.
    pub fn new(proto: u8, original: Tuple, reply: Tuple) -> Self {
        Connection {
            proto,
            original,
            reply,
            mark: 0,
            handle: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamily {
    V4,
    V6,
}

/// What can be asked of the connection tracking of one network namespace.
pub trait Conntrack: Send + Sync {
    fn connections(&self, family: IpFamily) -> Result<Vec<Connection>>;
    /// `Ok(false)` when it was gone already.
    fn delete(&self, connection: &Connection) -> Result<bool>;
}

/// Deletes the connections that `matches` picks; how many went.
pub fn delete_matching(
    conntrack: &dyn Conntrack,
    family: IpFamily,
    mut matches: impl FnMut(&Connection) -> bool,
) -> Result<usize> {
    let mut deleted = 0;
    for connection in conntrack.connections(family)?.iter().filter(|c| matches(c)) {
        deleted += usize::from(conntrack.delete(connection)?);
    }
    Ok(deleted)
}

/// A connection to the kernel's connection tracking.
#[derive(Debug)]
pub struct KernelConntrack {
    socket: Mutex<Socket>,
}

impl KernelConntrack {
    /// Of the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Self::open_net(&Net::Own)
    }

    pub fn open_net(net: &Net) -> Result<Self> {
        Ok(KernelConntrack {
            socket: Mutex::new(Socket::open(Some(NETFILTER), net)?),
        })
    }
}

const SUBSYSTEM: u16 = 1;
const NEW: u16 = SUBSYSTEM << 8;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;

fn request(kind: u16, flags: u16, family: u8, sequence: u32, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    let mark = writer.begin(kind, NLM_F_REQUEST | flags, sequence);
    writer.raw(&[family, 0, 0, 0]);
    fill(&mut writer);
    writer.end(mark);
    writer.into_bytes()
}

impl Conntrack for KernelConntrack {
    fn connections(&self, family: IpFamily) -> Result<Vec<Connection>> {
        let family = match family {
            IpFamily::V4 => AF_INET,
            IpFamily::V6 => AF_INET6,
        };
        let mut socket = self.socket.lock();
        let sequence = socket.next_sequence();
        let mut found = Vec::new();
        let outcome = socket.request(
            &request(GET, NLM_F_DUMP, family, sequence, |_| ()),
            sequence,
            |message| {
                if message.kind == NEW {
                    found.extend(message.payload.get(4..).and_then(read));
                }
            },
        )?;
        match outcome {
            Ok(()) => Ok(found),
            Err(refusal) => Err(refusal.into_error("list", "tracked connections")),
        }
    }

    fn delete(&self, connection: &Connection) -> Result<bool> {
        if connection.handle.is_empty() {
            let detail = "the connection was not found in a kernel".to_owned();
            return Err(Error::Invalid {
                operation: "delete tracked connection",
                detail,
            });
        }
        let family = if connection.original.source.is_ipv4() {
            AF_INET
        } else {
            AF_INET6
        };
        let mut socket = self.socket.lock();
        let sequence = socket.next_sequence();
        let bytes = request(DELETE, NLM_F_ACK, family, sequence, |w| w.raw(&connection.handle));
        match socket.request(&bytes, sequence, |_| ())? {
            Ok(()) => Ok(true),
            Err(refusal) if refusal.errno == libc::ENOENT => Ok(false),
            Err(refusal) => Err(refusal.into_error(
                "delete tracked connection",
                format_args!("{:?}", connection.original),
            )),
        }
    }
}

fn read(body: &[u8]) -> Option<Connection> {
    let original = attribute(body, TUPLE_ORIGINAL)?;
    let (proto, tuple) = read_tuple(original)?;
    let (_, reply) = read_tuple(attribute(body, TUPLE_REPLY)?)?;
    let mut handle = Writer::default();
    for kind in [TUPLE_ORIGINAL, ID, ZONE] {
        if let Some(value) = attribute(body, kind) {
            match kind {
                TUPLE_ORIGINAL => handle.nest(kind, |w| w.raw(value)),
                _ => handle.attribute(kind, value),
            }
        }
    }
    let mark = attribute(body, MARK).and_then(wire::be32).unwrap_or(0);
    Some(Connection {
        proto,
        original: tuple,
        reply,
        mark,
        handle: handle.into_bytes(),
    })
}

fn read_tuple(tuple: &[u8]) -> Option<(u8, Tuple)> {
    let ip = attribute(tuple, 1)?;
    let v4 = |kind| {
        Some(IpAddr::V4(Ipv4Addr::from(
            <[u8; 4]>::try_from(attribute(ip, kind)?).ok()?,
        )))
    };
    let v6 = |kind| {
        Some(IpAddr::V6(Ipv6Addr::from(
            <[u8; 16]>::try_from(attribute(ip, kind)?).ok()?,
        )))
    };
    let proto = attribute(tuple, 2)?;
    let port = |kind| {
        attribute(proto, kind)
            .and_then(|v| v.try_into().ok())
            .map_or(0, u16::from_be_bytes)
    };
    let tuple = Tuple {
        source: v4(1).or_else(|| v6(3))?,
        destination: v4(2).or_else(|| v6(4))?,
        source_port: port(2),
        destination_port: port(3),
    };
    Some((*attribute(proto, 1)?.first()?, tuple))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::namespace::in_new_net;
    use crate::netlink::{LinkChange, Links, Netlink};
    use crate::nftables::{
        Batch, Chain, ChainKind, CtKey, Expr, Family, Hook, Nftables, Reg, Ruleset, Table,
    };

    #[test]
    fn a_stale_udp_entry_is_found_and_deleted() {
        if let Err(error) = in_new_net(|| Ok(())) {
            println!("skipped: {}", error.chain());
            return;
        }
        in_new_net(|| {
            Netlink::open()?.change_link("lo", &LinkChange::Up)?;
            // Connections are tracked only where a rule asks about them.
            let table = Table::new(Family::Ip, "kijabi-test");
            let mut batch = Batch::new();
            batch.add_table(&table);
            batch.add_chain(&table, Chain::base("output", ChainKind::Filter, Hook::Output, 0));
            batch.add_rule(
                &table,
                "output",
                vec![Expr::Ct {
                    to: Reg(0),
                    key: CtKey::State,
                }],
            );
            if let Err(error) = Nftables::open()?.commit(&batch) {
                println!("skipped: {error}");
                return Ok(());
            }
            let server = UdpSocket::bind("127.0.0.1:0").unwrap();
            let port = server.local_addr().unwrap().port();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"x", ("127.0.0.1", port)).unwrap();

            let conntrack = KernelConntrack::open()?;
            let ours = |c: &Connection| c.proto == 17 && c.original.destination_port == port;
            let all = conntrack.connections(IpFamily::V4)?;
            let found = all.iter().find(|c| ours(c)).expect("tracked");
            assert_eq!(found.reply.source_port, port);
            assert_eq!(delete_matching(&conntrack, IpFamily::V4, ours)?, 1);
            assert!(!conntrack.delete(found)?, "gone already");
            assert!(!conntrack.connections(IpFamily::V4)?.iter().any(ours));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{}", error.chain()));
    }
}
