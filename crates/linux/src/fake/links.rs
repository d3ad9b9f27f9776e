//! Links, addresses, routes and neighbours of the recording fake.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Recorder, refused};
use crate::Result;
use crate::netlink::{Link, LinkChange, LinkKind, Links, Neighbour, Route, VethPeer};

impl Links for Recorder {
    fn links(&self) -> Result<Vec<Link>> {
        Ok(self.state.lock().links.clone())
    }

    fn link(&self, name: &str) -> Result<Option<Link>> {
        Ok(self
            .state
            .lock()
            .links
            .iter()
            .find(|link| link.name == name)
            .cloned())
    }

    fn create_link(&self, name: &str, kind: &LinkKind) -> Result<u32> {
        let word = match kind {
            LinkKind::Bridge => "bridge",
            LinkKind::Veth(_) => "veth",
            LinkKind::Vxlan { .. } => "vxlan",
            LinkKind::Dummy => "dummy",
        };
        self.call(format!("link-create {name} {word}"), |state| {
            if let Some(found) = state.links.iter().find(|link| link.name == name) {
                return Ok(found.index);
            }
            let index = state.links.iter().map(|link| link.index).max().unwrap_or(1) + 1;
            let link = Link {
                index,
                name: name.into(),
                kind: word.into(),
                mtu: 1500,
                ..Link::default()
            };
            state.links.push(link);
            if let LinkKind::Veth(VethPeer {
                name: peer,
                net: Some(net),
                ..
            }) = kind
            {
                state.peers.insert(name.to_owned(), (net.clone(), peer.clone()));
            }
            Ok(index)
        })?;
        if let LinkKind::Veth(VethPeer {
            name: peer,
            net: Some(net),
            ..
        }) = kind
        {
            self.inside(net).create_link(peer, &LinkKind::Dummy)?;
        }
        self.link(name).map(|link| link.map_or(0, |link| link.index))
    }

    fn delete_link(&self, name: &str) -> Result<bool> {
        let (found, peer) = self.call(format!("link-delete {name}"), |state| {
            let before = state.links.len();
            state.links.retain(|link| link.name != name);
            state.addresses.retain(|(link, _)| link != name);
            state.routes.retain(|route| route.link.as_deref() != Some(name));
            Ok((state.links.len() < before, state.peers.remove(name)))
        })?;
        if let Some((net, peer)) = peer {
            self.inside(&net).delete_link(&peer)?;
        }
        Ok(found)
    }

    fn change_link(&self, name: &str, change: &LinkChange) -> Result<()> {
        let line = format!("link-change {name} {change:?}");
        self.call(line.clone(), |state| {
            let master = match change {
                LinkChange::Master(Some(master)) => state
                    .links
                    .iter()
                    .find(|link| link.name == *master)
                    .map(|link| link.index),
                _ => None,
            };
            let missing = || refused(&line, libc::ENODEV);
            let link = state
                .links
                .iter_mut()
                .find(|link| link.name == name)
                .ok_or_else(missing)?;
            match change {
                LinkChange::Up => link.up = true,
                LinkChange::Down => link.up = false,
                LinkChange::Mtu(mtu) => link.mtu = *mtu,
                LinkChange::Mac(mac) => link.mac = Some(*mac),
                LinkChange::Master(_) => link.master = master,
                LinkChange::Name(name) => link.name = name.clone(),
                LinkChange::Hairpin(_) | LinkChange::Net(_) => {}
            }
            Ok(())
        })
    }

    fn addresses(&self) -> Result<Vec<(String, IpNet)>> {
        Ok(self.state.lock().addresses.clone())
    }

    fn add_address(&self, link: &str, address: IpNet) -> Result<()> {
        self.call(format!("address-add {link} {address}"), |state| {
            let entry = (link.to_owned(), address);
            if !state.addresses.contains(&entry) {
                state.addresses.push(entry);
            }
            Ok(())
        })
    }

    fn remove_address(&self, link: &str, address: IpNet) -> Result<()> {
        self.call(format!("address-remove {link} {address}"), |state| {
            state
                .addresses
                .retain(|(at, known)| at != link || *known != address);
            Ok(())
        })
    }

    fn routes(&self) -> Result<Vec<Route>> {
        Ok(self.state.lock().routes.clone())
    }

    fn set_route(&self, route: &Route) -> Result<()> {
        let via = route
            .gateway
            .map_or_else(String::new, |via| format!(" via {via}"));
        let link = route.link.as_deref().unwrap_or("-");
        self.call(
            format!("route-set {}{via} dev {link}", route.destination),
            |state| {
                state
                    .routes
                    .retain(|known| known.destination != route.destination);
                state.routes.push(route.clone());
                Ok(())
            },
        )
    }

    fn remove_route(&self, destination: IpNet) -> Result<()> {
        self.call(format!("route-remove {destination}"), |state| {
            state.routes.retain(|known| known.destination != destination);
            Ok(())
        })
    }

    fn set_neighbour(&self, neighbour: &Neighbour) -> Result<()> {
        self.call(
            format!("neighbour-set {} {}", neighbour.link, neighbour.address),
            |_| Ok(()),
        )
    }

    fn remove_neighbour(&self, link: &str, address: IpAddr) -> Result<()> {
        self.call(format!("neighbour-remove {link} {address}"), |_| Ok(()))
    }
}
