//! The work on the host and inside the pods: what the public face does on a thread that may block.

use std::collections::HashMap;
use std::net::IpAddr;

use cri::network::PodNetworkRequest;
use ipnet::IpNet;
use linux::namespace::Net;
use linux::netlink::{LinkChange, LinkKind, Links, Mac, Neighbour, Route, Switch, VethPeer};
use linux::nftables::Batch;
use parking_lot::Mutex;

use super::addresses::{Addresses, gateway};
use super::filter::PodTable;
use super::records::{HostPort, Record, Records};
use super::{Error, Options, Result, chain, sysctls};
use crate::Host;

pub(super) struct Inner {
    pub(super) host: Host,
    pub(super) options: Options,
    pub(super) records: Records,
    pub(super) tables: [PodTable; 2],
    pub(super) state: Mutex<State>,
    /// Told after every attempt to set the ranges.
    pub(super) ranges_changed: tokio::sync::Notify,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) sandboxes: HashMap<String, Record>,
    /// Empty until the node has a range.
    pub(super) addresses: Addresses,
    pub(super) mtu: u32,
    pub(super) ready: Readiness,
}

#[derive(Default)]
pub(super) enum Readiness {
    #[default]
    WaitingForRange,
    Ready,
    Failed(String),
}

impl Inner {
    /// Forgets sandboxes whose namespace is gone and links nobody stands for.
    pub(super) fn recover(&self) -> Result<()> {
        let mut sandboxes = self.records.load()?;
        let mut gone = Vec::new();
        for record in sandboxes.values() {
            if !self.host.namespaces.is_kept(&record.net)? {
                gone.push(record.sandbox.clone());
            }
        }
        for sandbox in gone {
            if let Some(record) = sandboxes.remove(&sandbox) {
                tracing::info!(sandbox, pod = record.pod, "network of a vanished sandbox removed");
                self.host.links.delete_link(&record.veth)?;
                self.forget_neighbours(&record)?;
                self.records.remove(&sandbox)?;
            }
        }
        let bridge = self.options.names.bridge();
        let prefix = self.options.names.link_prefix();
        for link in self.host.links.links()? {
            let known = link.name == bridge || sandboxes.values().any(|r| r.veth == link.name);
            if link.name.starts_with(&prefix) && link.kind == "veth" && !known {
                self.host.links.delete_link(&link.name)?;
            }
        }
        self.state.lock().sandboxes = sandboxes;
        Ok(())
    }

    pub(super) fn set_ranges(&self, nets: &[IpNet]) -> Result<()> {
        {
            let state = self.state.lock();
            if matches!(state.ready, Readiness::Ready) && state.addresses.nets().eq(nets.iter().copied()) {
                return Ok(());
            }
        }
        let outcome = self.prepare_host(nets);
        let mut state = self.state.lock();
        match &outcome {
            Ok(mtu) => {
                let mut addresses = Addresses::new(nets);
                state
                    .sandboxes
                    .values()
                    .flat_map(|r| &r.ips)
                    .for_each(|ip| addresses.take(*ip));
                state.addresses = addresses;
                state.mtu = *mtu;
                state.ready = Readiness::Ready;
            }
            Err(error) => state.ready = Readiness::Failed(chain(error)),
        }
        outcome.map(drop)
    }

    /// Bridge, routes, settings, rules; the MTU for pods.
    fn prepare_host(&self, nets: &[IpNet]) -> Result<u32> {
        let links = self.host.links.as_ref();
        let bridge = self.options.names.bridge();
        let mtu = match self.options.mtu {
            Some(mtu) => mtu,
            None => default_mtu(links)?,
        };
        links.create_link(&bridge, &LinkKind::Bridge)?;
        if let Some(first) = nets.first() {
            // A fixed address: otherwise the bridge takes that of a port, and changes it when ports go.
            links.change_link(&bridge, &LinkChange::Mac(mac_for(gateway(first))))?;
        }
        links.change_link(&bridge, &LinkChange::Mtu(mtu))?;
        for net in nets {
            let address = IpNet::new(gateway(net), net.prefix_len()).unwrap_or(*net);
            links.add_address(&bridge, address)?;
        }
        links.change_link(&bridge, &LinkChange::Up)?;
        for range in &self.options.service_cidrs {
            let source = nets
                .iter()
                .map(gateway)
                .find(|ip| ip.is_ipv4() == range.addr().is_ipv4());
            if source.is_some() {
                let destination = range.trunc();
                let link = Some(bridge.clone());
                links.set_route(&Route {
                    destination,
                    gateway: None,
                    link,
                    source,
                    onlink: false,
                })?;
            }
        }
        self.set_sysctls(&bridge, nets)?;
        let state = self.state.lock();
        let mut batch = Batch::new();
        for table in self
            .tables
            .iter()
            .filter(|t| nets.iter().any(|net| t.is_for(net.addr())))
        {
            table.rebuild(&mut batch, nets, &self.options.inside(), state.sandboxes.values());
        }
        self.host.ruleset.commit(&batch)?;
        Ok(mtu)
    }

    fn set_sysctls(&self, bridge: &str, nets: &[IpNet]) -> Result<()> {
        let namespaces = self.host.namespaces.as_ref();
        if nets.iter().any(|net| net.addr().is_ipv4()) {
            sysctls::set(namespaces, &self.options.state, "net.ipv4.ip_forward", "1")?;
            // Answers to connections from 127.0.0.1 to a host port come in through the bridge.
            let key = format!("net/ipv4/conf/{bridge}/route_localnet");
            namespaces.set_sysctl(&Net::Own, &key, "1")?;
        }
        if nets.iter().any(|net| net.addr().is_ipv6()) {
            sysctls::set(
                namespaces,
                &self.options.state,
                "net.ipv6.conf.all.forwarding",
                "1",
            )?;
        }
        Ok(())
    }

    pub(super) fn setup(&self, request: &PodNetworkRequest) -> Result<Vec<IpAddr>> {
        let record = self.reserve(request)?;
        match self.wire(&record) {
            Ok(()) => Ok(record.ips),
            Err(error) => {
                if let Err(second) = self.teardown(&record.sandbox) {
                    tracing::warn!(sandbox = record.sandbox, error = %chain(&second), "half a network stays");
                }
                Err(error)
            }
        }
    }

    /// The sandbox's record: the one it has, or a new one with addresses.
    fn reserve(&self, request: &PodNetworkRequest) -> Result<Record> {
        let host_ports = host_ports(request)?;
        let mut state = self.state.lock();
        if let Some(known) = state.sandboxes.get(&request.sandbox_id) {
            return Ok(known.clone());
        }
        let ips = state.addresses.allocate()?;
        let mut attempt = 0;
        let veth = loop {
            let name = self.options.names.veth(&request.sandbox_id, attempt);
            if !state.sandboxes.values().any(|record| record.veth == name) {
                break name;
            }
            attempt += 1;
        };
        let record = Record {
            sandbox: request.sandbox_id.clone(),
            pod: format!("{}/{}", request.namespace, request.name),
            net: request.netns_path.clone(),
            veth,
            ips,
            host_ports,
        };
        if let Err(error) = self.records.save(&record) {
            record.ips.iter().for_each(|ip| state.addresses.give_back(*ip));
            return Err(error.into());
        }
        state.sandboxes.insert(record.sandbox.clone(), record.clone());
        Ok(record)
    }

    fn wire(&self, record: &Record) -> Result<()> {
        let mtu = self.state.lock().mtu;
        let gateways: Vec<IpNet> = {
            let state = self.state.lock();
            state
                .addresses
                .nets()
                .map(|net| IpNet::from(gateway(&net)))
                .collect()
        };
        let outside = self.host.links.as_ref();
        let inside = self.host.inside(&record.net)?;
        if inside.link("eth0")?.is_none() || outside.link(&record.veth)?.is_none() {
            inside.delete_link("eth0")?;
            outside.delete_link(&record.veth)?;
            let peer = VethPeer {
                name: "eth0".into(),
                net: Some(record.net.clone()),
                mac: record.ips.first().map(|ip| mac_for(*ip)),
                mtu: Some(mtu),
            };
            outside.create_link(&record.veth, &LinkKind::Veth(peer))?;
        }
        let bridge = self.options.names.bridge();
        outside.change_link(&record.veth, &LinkChange::Master(Some(bridge)))?;
        outside.change_link(&record.veth, &LinkChange::Hairpin(Switch::On))?;
        outside.change_link(&record.veth, &LinkChange::Up)?;

        inside.change_link("lo", &LinkChange::Up)?;
        // A redirect would teach the pod to pass the host by, and with it the Services.
        self.host.namespaces.set_sysctls(
            &Net::At(record.net.clone()),
            &[
                ("net.ipv4.conf.all.accept_redirects", "0"),
                ("net.ipv4.conf.eth0.accept_redirects", "0"),
            ],
        )?;
        inside.change_link("eth0", &LinkChange::Up)?;
        for ip in &record.ips {
            inside.add_address("eth0", IpNet::from(*ip))?;
        }
        for via in &gateways {
            add_routes(inside.as_ref(), *via)?;
        }
        self.introduce(record, &gateways, inside.as_ref())?;
        // The kernel notices a pair's second end in its own time, up to a second, and the bridge drops frames
        // until then. To be asked about the link makes it notice at once.
        if !outside.link(&record.veth)?.is_some_and(|link| link.operational) {
            tracing::debug!(
                sandbox = record.sandbox,
                veth = record.veth,
                "pod link not operational yet"
            );
        }
        self.map_ports(record)
    }

    /// Tells each side the other's hardware address. Asking for it would cost the first packet time, and up
    /// to a second of it where somebody has asked in vain for the pod's address just before.
    fn introduce(&self, record: &Record, gateways: &[IpNet], inside: &dyn Links) -> Result<()> {
        let (Some(primary), Some(gateway)) = (record.ips.first(), gateways.first()) else {
            return Ok(());
        };
        for ip in &record.ips {
            let link = self.options.names.bridge();
            let neighbour = Neighbour {
                link,
                address: *ip,
                mac: mac_for(*primary),
            };
            self.host.links.set_neighbour(&neighbour)?;
        }
        for via in gateways {
            let mac = mac_for(gateway.addr());
            inside.set_neighbour(&Neighbour {
                link: "eth0".into(),
                address: via.addr(),
                mac,
            })?;
        }
        Ok(())
    }

    fn map_ports(&self, record: &Record) -> Result<()> {
        if record.host_ports.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for table in self.tables_of(record) {
            table.add(&mut batch, record);
        }
        Ok(self.host.ruleset.commit(&batch)?)
    }

    pub(super) fn teardown(&self, sandbox: &str) -> Result<()> {
        let Some(record) = self.state.lock().sandboxes.get(sandbox).cloned() else {
            return Ok(());
        };
        self.host.links.delete_link(&record.veth)?;
        {
            // The record goes first, so that a rebuild can do without it.
            let mut state = self.state.lock();
            if state.sandboxes.remove(sandbox).is_none() {
                return Ok(());
            }
            record.ips.iter().for_each(|ip| state.addresses.give_back(*ip));
        }
        self.unmap_ports(&record)?;
        Ok(self.records.remove(sandbox)?)
    }

    fn forget_neighbours(&self, record: &Record) -> linux::Result<()> {
        let bridge = self.options.names.bridge();
        record
            .ips
            .iter()
            .try_for_each(|ip| self.host.links.remove_neighbour(&bridge, *ip))
    }

    fn unmap_ports(&self, record: &Record) -> Result<()> {
        if record.host_ports.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for table in self.tables_of(record) {
            table.remove(&mut batch, record);
        }
        if self.host.ruleset.commit(&batch).is_ok() {
            return Ok(());
        }
        // Never added, or half of it: the whole table anew is right whatever was there.
        let state = self.state.lock();
        let nets: Vec<IpNet> = state.addresses.nets().collect();
        let mut batch = Batch::new();
        for table in self.tables_of(record) {
            table.rebuild(
                &mut batch,
                &nets,
                &self.options.inside(),
                state.sandboxes.values(),
            );
        }
        Ok(self.host.ruleset.commit(&batch)?)
    }

    fn tables_of<'a>(&'a self, record: &'a Record) -> impl Iterator<Item = &'a PodTable> {
        self.tables
            .iter()
            .filter(|table| record.ips.iter().any(|ip| table.is_for(*ip)))
    }
}

fn add_routes(inside: &dyn Links, via: IpNet) -> linux::Result<()> {
    let eth0 = Some("eth0".to_owned());
    inside.set_route(&Route {
        destination: via,
        gateway: None,
        link: eth0.clone(),
        source: None,
        onlink: false,
    })?;
    let any = if via.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    // A constant that parses; the fallback keeps the types honest.
    let destination = any.parse().unwrap_or(via);
    inside.set_route(&Route {
        destination,
        gateway: Some(via.addr()),
        link: eth0,
        source: None,
        onlink: false,
    })
}

/// That of the link the default route leaves by, so that pods' packets fit.
fn default_mtu(links: &dyn Links) -> linux::Result<u32> {
    const ETHERNET: u32 = 1500;
    let route = links
        .routes()?
        .into_iter()
        .find(|route| route.destination.prefix_len() == 0);
    let Some(name) = route.and_then(|route| route.link) else {
        return Ok(ETHERNET);
    };
    Ok(links.link(&name)?.map_or(ETHERNET, |link| link.mtu))
}

/// A locally administered address made from the IP, so that neighbours need not learn a new one when an
/// address comes back.
fn mac_for(ip: IpAddr) -> Mac {
    let tail: [u8; 4] = match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            [octets[12], octets[13], octets[14], octets[15]]
        }
    };
    [0x0a, 0x58, tail[0], tail[1], tail[2], tail[3]]
}

fn host_ports(request: &PodNetworkRequest) -> Result<Vec<HostPort>> {
    let mut found = Vec::new();
    for mapping in request
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0)
    {
        let port = |number: i32| {
            u16::try_from(number)
                .ok()
                .filter(|port| *port != 0)
                .ok_or(Error::HostPort {
                    port: mapping.host_port.into(),
                    reason: "not a port number",
                })
        };
        let proto = match mapping.protocol {
            0 => 6,
            1 => 17,
            2 => 132,
            _ => {
                let reason = "unknown protocol";
                return Err(Error::HostPort {
                    port: mapping.host_port.into(),
                    reason,
                });
            }
        };
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => {
                let reason = "the host IP is no address";
                let bad = |_| Error::HostPort {
                    port: mapping.host_port.into(),
                    reason,
                };
                Some(text.parse::<IpAddr>().map_err(bad)?).filter(|ip| !ip.is_unspecified())
            }
        };
        let (host_port, container_port) = (port(mapping.host_port)?, port(mapping.container_port)?);
        found.push(HostPort {
            host_ip,
            proto,
            host_port,
            container_port,
        });
    }
    Ok(found)
}
