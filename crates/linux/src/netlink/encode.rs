//! Routing messages to and from this module's types.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Link, LinkChange, LinkKind, Mac, Route, Switch, VethPeer};

pub(super) fn kind_name(kind: &LinkKind) -> &'static str {
    match kind {
        LinkKind::Bridge => "bridge",
        LinkKind::Veth(_) => "veth",
        LinkKind::Vxlan { .. } => "vxlan",
        LinkKind::Dummy => "dummy",
    }
}

pub(super) fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

pub(super) fn new_link(
    name: &str,
    kind: &LinkKind,
    peer_net: Option<&File>,
    parent: Option<u32>,
) -> LinkMessage {
    let mut message = named(name);
    let info = match kind {
        LinkKind::Bridge => vec![LinkInfo::Kind(InfoKind::Bridge)],
        LinkKind::Dummy => vec![LinkInfo::Kind(InfoKind::Dummy)],
        LinkKind::Veth(peer) => {
            if let Some(mtu) = peer.mtu {
                message.attributes.push(LinkAttribute::Mtu(mtu));
            }
            let data = InfoData::Veth(InfoVeth::Peer(veth_peer(peer, peer_net)));
            vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)]
        }
        LinkKind::Vxlan { id, port, local, .. } => {
            let mut data = vec![
                InfoVxlan::Id(*id),
                InfoVxlan::Port(*port),
                InfoVxlan::Learning(false),
            ];
            match local {
                Some(IpAddr::V4(local)) => data.push(InfoVxlan::Local(*local)),
                Some(IpAddr::V6(local)) => data.push(InfoVxlan::Local6(*local)),
                None => {}
            }
            data.extend(parent.map(InfoVxlan::Link));
            vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(data)),
            ]
        }
    };
    message.attributes.push(LinkAttribute::LinkInfo(info));
    message
}

fn veth_peer(peer: &VethPeer, net: Option<&File>) -> LinkMessage {
    let mut message = named(&peer.name);
    message
        .attributes
        .extend(peer.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    message.attributes.extend(peer.mtu.map(LinkAttribute::Mtu));
    message
        .attributes
        .extend(net.map(|file| LinkAttribute::NetNsFd(file.as_raw_fd())));
    message
}

pub(super) fn change(
    index: u32,
    change: &LinkChange,
    master: Option<u32>,
    net: Option<&File>,
) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    match change {
        LinkChange::Up => {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        LinkChange::Down => message.header.change_mask = LinkFlags::Up,
        LinkChange::Mtu(mtu) => message.attributes.push(LinkAttribute::Mtu(*mtu)),
        LinkChange::Mac(mac) => message.attributes.push(LinkAttribute::Address(mac.to_vec())),
        LinkChange::Name(name) => message.attributes.push(LinkAttribute::IfName(name.clone())),
        // Index 0 is no link: it frees the port.
        LinkChange::Master(_) => message
            .attributes
            .push(LinkAttribute::Controller(master.unwrap_or(0))),
        LinkChange::Net(_) => {
            message
                .attributes
                .extend(net.map(|file| LinkAttribute::NetNsFd(file.as_raw_fd())));
        }
        LinkChange::Hairpin(switch) => {
            let data = InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(*switch == Switch::On)]);
            message.attributes.push(LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(data),
            ]));
        }
    }
    message
}

pub(super) fn read_link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) => link.mac = Mac::try_from(bytes).ok(),
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::OperState(state) => link.operational = matches!(state, State::Up | State::Unknown),
            LinkAttribute::LinkInfo(info) => {
                for part in info {
                    if let LinkInfo::Kind(kind) = part {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub(super) fn get_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

pub(super) fn address(link: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = link;
    message.header.scope = if address.addr().is_loopback() {
        AddressScope::Host
    } else {
        AddressScope::Universe
    };
    message.attributes.push(AddressAttribute::Address(address.addr()));
    match address.addr() {
        IpAddr::V4(_) => message.attributes.push(AddressAttribute::Local(address.addr())),
        // Without this a fresh IPv6 address cannot be used for a second, while it is looked for elsewhere.
        IpAddr::V6(_) => message.attributes.push(AddressAttribute::Flags(
            netlink_packet_route::address::AddressFlags::Nodad,
        )),
    }
    message
}

pub(super) fn read_address(answer: RouteNetlinkMessage, names: &[(u32, String)]) -> Option<(String, IpNet)> {
    let RouteNetlinkMessage::NewAddress(message) = answer else {
        return None;
    };
    let link = name_of(message.header.index, names)?;
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            _ => {}
        }
    }
    Some((link, IpNet::new(found?, message.header.prefix_len).ok()?))
}

pub(super) fn get_routes() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetRoute(RouteMessage::default())
}

pub(super) fn route(route: &Route, link: Option<u32>) -> RouteMessage {
    let mut message = any_route(route);
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match route.gateway {
        None if route.destination.addr().is_ipv4() => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    attributes.extend(
        route
            .gateway
            .map(|via| RouteAttribute::Gateway(RouteAddress::from(via))),
    );
    attributes.extend(link.map(RouteAttribute::Oif));
    attributes.extend(
        route
            .source
            .map(|from| RouteAttribute::PrefSource(RouteAddress::from(from))),
    );
    message
}

/// Matches a route by its destination alone, for deleting.
pub(super) fn any_route(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination.addr());
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    // Nowhere: not part of the match.
    message.header.scope = RouteScope::NoWhere;
    if route.destination.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(RouteAddress::from(
                route.destination.network(),
            )));
    }
    message
}

pub(super) fn read_route(answer: RouteNetlinkMessage, names: &[(u32, String)]) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut route = Route {
        destination: IpNet::new(any, 0).ok()?,
        gateway: None,
        link: None,
        source: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => {
                route.destination = IpNet::new(ip(to)?, header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Gateway(via) => route.gateway = ip(via),
            RouteAttribute::PrefSource(from) => route.source = ip(from),
            RouteAttribute::Oif(index) => route.link = name_of(*index, names),
            _ => {}
        }
    }
    Some(route)
}

pub(super) fn neighbour(link: u32, address: IpAddr, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        }));
    message
        .attributes
        .extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
    message
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn name_of(index: u32, names: &[(u32, String)]) -> Option<String> {
    names
        .iter()
        .find_map(|(known, name)| (*known == index).then(|| name.clone()))
}
