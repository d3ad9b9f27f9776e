//! Links, addresses, routes and neighbours of a network namespace, by rtnetlink.
//!
//! **Invariant:** every call is idempotent: making what is there, or removing what is gone, succeeds. A
//! link that exists under the name but is of another kind is an error.
//!
//! Calls are synchronous: each is one exchange with the kernel of some tens of microseconds.

mod encode;
pub(crate) mod socket;
pub(crate) mod wire;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use parking_lot::Mutex;

use crate::namespace::Net;
use crate::{Error, Result};
use socket::{Refusal, Socket};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The kinds of link that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    Bridge,
    /// A pair; the other end appears in another namespace under its own name.
    Veth(VethPeer),
    Vxlan {
        id: u32,
        port: u16,
        local: Option<IpAddr>,
        /// The link whose traffic carries the tunnel.
        parent: Option<String>,
    },
    Dummy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethPeer {
    pub name: String,
    /// `None` keeps both ends in one namespace.
    pub net: Option<PathBuf>,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
}

/// A link as found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `bridge`, `veth`, `vxlan` …; empty for hardware and loopback.
    pub kind: String,
    pub mtu: u32,
    pub mac: Option<Mac>,
    /// Switched on.
    pub up: bool,
    /// Able to carry packets: on, and whatever it hangs on (a pair's other end) as well.
    pub operational: bool,
    /// Index of the bridge this link is a port of.
    pub master: Option<u32>,
    /// Index of the other end of a pair, in its own namespace.
    pub peer: Option<u32>,
    pub loopback: bool,
}

/// One change to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    Up,
    Down,
    Mtu(u32),
    Mac(Mac),
    /// Makes it a port of a bridge; `None` frees it.
    Master(Option<String>),
    /// Whether the bridge may send a frame back out of the port it came from.
    Hairpin(Switch),
    Name(String),
    /// Moves it to another namespace.
    Net(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    On,
    Off,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    pub link: Option<String>,
    /// The source address for what the host itself sends.
    pub source: Option<IpAddr>,
    /// The gateway need not be in a network of the link.
    pub onlink: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub link: String,
    pub address: IpAddr,
    pub mac: Mac,
}

/// What can be asked of one network namespace.
pub trait Links: Send + Sync {
    fn links(&self) -> Result<Vec<Link>>;
    fn link(&self, name: &str) -> Result<Option<Link>>;
    /// Makes a link, down, and gives its index; one of that name and kind is left as it is.
    fn create_link(&self, name: &str, kind: &LinkKind) -> Result<u32>;
    /// `Ok(false)` when there was none.
    fn delete_link(&self, name: &str) -> Result<bool>;
    fn change_link(&self, name: &str, change: &LinkChange) -> Result<()>;
    /// All addresses, with the name of their link.
    fn addresses(&self) -> Result<Vec<(String, IpNet)>>;
    fn add_address(&self, link: &str, address: IpNet) -> Result<()>;
    fn remove_address(&self, link: &str, address: IpNet) -> Result<()>;
    /// The unicast routes of the main table.
    fn routes(&self) -> Result<Vec<Route>>;
    /// Makes the route, or changes the one to that destination.
    fn set_route(&self, route: &Route) -> Result<()>;
    fn remove_route(&self, destination: IpNet) -> Result<()>;
    fn set_neighbour(&self, neighbour: &Neighbour) -> Result<()>;
    fn remove_neighbour(&self, link: &str, address: IpAddr) -> Result<()>;
}

/// A connection to the routing part of one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Mutex<Socket>,
}

impl Netlink {
    /// Of the calling thread's namespace.
    pub fn open() -> Result<Self> {
        Self::open_net(&Net::Own)
    }

    /// Of the namespace kept at a path.
    pub fn open_in(path: &Path) -> Result<Self> {
        Self::open_net(&Net::At(path.to_owned()))
    }

    pub fn open_net(net: &Net) -> Result<Self> {
        Ok(Netlink {
            socket: Mutex::new(Socket::open(None, net)?),
        })
    }

    fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<std::result::Result<Vec<RouteNetlinkMessage>, Refusal>> {
        let mut socket = self.socket.lock();
        let sequence = socket.next_sequence();
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        let mut answers = Vec::new();
        let mut broken = None;
        let outcome = socket.request(&bytes, sequence, |message| {
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message.whole).map(|m| m.payload) {
                Ok(NetlinkPayload::InnerMessage(inner)) => answers.push(inner),
                Ok(_) => {}
                Err(error) => broken = Some(error.to_string()),
            }
        })?;
        match (outcome, broken) {
            (Err(refusal), _) => Ok(Err(refusal)),
            // One unreadable entry (a link of a kind unknown here) must not hide the others.
            (Ok(()), Some(error)) if answers.is_empty() => {
                Err(Error::answer("read", "netlink answer", error))
            }
            (Ok(()), _) => Ok(Ok(answers)),
        }
    }

    fn execute(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &'static str,
        subject: impl std::fmt::Display,
        fine: &[i32],
    ) -> Result<bool> {
        match self.exchange(message, NLM_F_ACK | flags)? {
            Ok(_) => Ok(true),
            Err(refusal) if fine.contains(&refusal.errno) => Ok(false),
            Err(refusal) => Err(refusal.into_error(operation, subject)),
        }
    }

    fn dump(&self, message: RouteNetlinkMessage, what: &'static str) -> Result<Vec<RouteNetlinkMessage>> {
        self.exchange(message, NLM_F_DUMP)?
            .map_err(|refusal| refusal.into_error("list", what))
    }

    fn index(&self, name: &str) -> Result<u32> {
        match self.link(name)? {
            Some(link) => Ok(link.index),
            None => Err(Error::kernel(
                "find link",
                name,
                std::io::Error::from_raw_os_error(libc::ENODEV),
            )),
        }
    }

    fn names(&self) -> Result<Vec<(u32, String)>> {
        Ok(self
            .links()?
            .into_iter()
            .map(|link| (link.index, link.name))
            .collect())
    }
}

impl Links for Netlink {
    fn links(&self) -> Result<Vec<Link>> {
        let answers = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), "links")?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(encode::read_link(message)),
                _ => None,
            })
            .collect())
    }

    fn link(&self, name: &str) -> Result<Option<Link>> {
        match self.exchange(RouteNetlinkMessage::GetLink(encode::named(name)), NLM_F_ACK)? {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(encode::read_link(message)),
                _ => None,
            })),
            Err(refusal) if refusal.errno == libc::ENODEV => Ok(None),
            Err(refusal) => Err(refusal.into_error("find link", name)),
        }
    }

    fn create_link(&self, name: &str, kind: &LinkKind) -> Result<u32> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', ' ', '\0']) {
            return Err(Error::Invalid {
                operation: "create link",
                detail: format!("{name:?} is no link name"),
            });
        }
        let peer_net = match kind {
            LinkKind::Veth(VethPeer { net: Some(path), .. }) => Some(open_net_file(path)?),
            _ => None,
        };
        let parent = match kind {
            LinkKind::Vxlan {
                parent: Some(parent), ..
            } => Some(self.index(parent)?),
            _ => None,
        };
        let message = encode::new_link(name, kind, peer_net.as_ref(), parent);
        self.execute(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            "create link",
            name,
            &[libc::EEXIST],
        )?;
        let link = self.link(name)?;
        match link {
            Some(link) if link.kind == encode::kind_name(kind) => Ok(link.index),
            Some(link) => Err(Error::Invalid {
                operation: "create link",
                detail: format!("{name} exists and is of kind {:?}", link.kind),
            }),
            // The name was free here, so the one that exists is the peer's in its namespace.
            None => Err(Error::kernel(
                "create link",
                name,
                std::io::Error::from_raw_os_error(libc::EEXIST),
            )),
        }
    }

    fn delete_link(&self, name: &str) -> Result<bool> {
        let message = RouteNetlinkMessage::DelLink(encode::named(name));
        self.execute(message, 0, "delete link", name, &[libc::ENODEV])
    }

    fn change_link(&self, name: &str, change: &LinkChange) -> Result<()> {
        let index = self.index(name)?;
        let master = match change {
            LinkChange::Master(Some(master)) => Some(self.index(master)?),
            _ => None,
        };
        let net = match change {
            LinkChange::Net(path) => Some(open_net_file(path)?),
            _ => None,
        };
        let message = encode::change(index, change, master, net.as_ref());
        // Port attributes (hairpin) are taken from a "new link" message for an existing link only.
        let message = match change {
            LinkChange::Hairpin(_) => RouteNetlinkMessage::NewLink(message),
            _ => RouteNetlinkMessage::SetLink(message),
        };
        self.execute(
            message,
            0,
            "change link",
            format_args!("{name} ({change:?})"),
            &[],
        )
        .map(drop)
    }

    fn addresses(&self) -> Result<Vec<(String, IpNet)>> {
        let names = self.names()?;
        let answers = self.dump(encode::get_addresses(), "addresses")?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| encode::read_address(answer, &names))
            .collect())
    }

    fn add_address(&self, link: &str, address: IpNet) -> Result<()> {
        let message = RouteNetlinkMessage::NewAddress(encode::address(self.index(link)?, address));
        let subject = format_args!("{address} to {link}");
        self.execute(
            message,
            NLM_F_CREATE | NLM_F_EXCL,
            "add address",
            subject,
            &[libc::EEXIST],
        )
        .map(drop)
    }

    fn remove_address(&self, link: &str, address: IpNet) -> Result<()> {
        let Some(found) = self.link(link)? else {
            return Ok(());
        };
        let message = RouteNetlinkMessage::DelAddress(encode::address(found.index, address));
        let subject = format_args!("{address} from {link}");
        self.execute(message, 0, "remove address", subject, &[libc::EADDRNOTAVAIL])
            .map(drop)
    }

    fn routes(&self) -> Result<Vec<Route>> {
        let names = self.names()?;
        let answers = self.dump(encode::get_routes(), "routes")?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| encode::read_route(answer, &names))
            .collect())
    }

    fn set_route(&self, route: &Route) -> Result<()> {
        let link = route.link.as_deref().map(|link| self.index(link)).transpose()?;
        let message = RouteNetlinkMessage::NewRoute(encode::route(route, link));
        self.execute(
            message,
            NLM_F_CREATE | NLM_F_REPLACE,
            "set route to",
            route.destination,
            &[],
        )
        .map(drop)
    }

    fn remove_route(&self, destination: IpNet) -> Result<()> {
        let route = Route {
            destination,
            gateway: None,
            link: None,
            source: None,
            onlink: false,
        };
        let message = RouteNetlinkMessage::DelRoute(encode::any_route(&route));
        self.execute(message, 0, "remove route to", destination, &[libc::ESRCH])
            .map(drop)
    }

    fn set_neighbour(&self, neighbour: &Neighbour) -> Result<()> {
        let index = self.index(&neighbour.link)?;
        let message = encode::neighbour(index, neighbour.address, Some(neighbour.mac));
        let message = RouteNetlinkMessage::NewNeighbour(message);
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.execute(message, flags, "set neighbour", neighbour.address, &[])
            .map(drop)
    }

    fn remove_neighbour(&self, link: &str, address: IpAddr) -> Result<()> {
        let Some(found) = self.link(link)? else {
            return Ok(());
        };
        let message = RouteNetlinkMessage::DelNeighbour(encode::neighbour(found.index, address, None));
        self.execute(message, 0, "remove neighbour", address, &[libc::ENOENT])
            .map(drop)
    }
}

fn open_net_file(path: &Path) -> Result<std::fs::File> {
    std::fs::File::open(path).map_err(|error| Error::kernel("open network namespace", path.display(), error))
}

#[cfg(test)]
mod tests;
