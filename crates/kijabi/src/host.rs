//! What the machine says of itself.

use anyhow::{Context, bail};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The machine's name, as a node may be called.
pub(crate) fn name() -> anyhow::Result<String> {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the machine's name")?;
    Ok(name.trim().to_lowercase())
}

/// The address other machines know this one by: the one on the way out, else any that is not of this machine alone,
/// else the pods' way to it, which needs no other network: the API server must have an address that an endpoint may
/// have, and a loopback address is none.
pub(crate) fn address(pods: IpNet) -> anyhow::Result<IpAddr> {
    match way_out() {
        Ok(address) if usable(address) => return Ok(address),
        _ => {}
    }
    let links = linux::netlink::Netlink::open().context("cannot ask for the machine's addresses")?;
    let addresses =
        linux::netlink::Links::addresses(&links).context("cannot read the machine's addresses")?;
    // What an instance made itself, this one before it was killed or another, is no address of the machine.
    let own = |link: &str| link.starts_with("kj");
    let found = addresses
        .into_iter()
        .filter(|(link, _)| !own(link))
        .map(|(_, net)| net.addr())
        .find(|address| usable(*address));
    match found {
        Some(address) => Ok(address),
        // The first node's range is the first, and its bridge has the first address.
        None => nth(pods, 1),
    }
}

/// The address of the way out. Nothing is sent.
fn way_out() -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // An address of the documentation range: connecting a datagram socket only asks for the route.
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9))?;
    Ok(socket.local_addr()?.ip())
}

/// Whether an endpoint may have this address.
fn usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(_) => false,
    }
}

/// The n-th address of a range.
pub(crate) fn nth(range: IpNet, n: u32) -> anyhow::Result<IpAddr> {
    let address = match range.network() {
        IpAddr::V4(base) => IpAddr::from(u32::from(base).wrapping_add(n).to_be_bytes()),
        IpAddr::V6(base) => IpAddr::from(u128::from(base).wrapping_add(n.into()).to_be_bytes()),
    };
    if range.contains(&address) {
        Ok(address)
    } else {
        bail!("the range {range} has no address number {n}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_alone_are_no_endpoints() {
        for (address, expected) in [
            ("192.0.2.1", true),
            ("10.42.0.1", true),
            ("127.0.0.1", false),
            ("0.0.0.0", false),
            ("169.254.1.1", false),
            ("::1", false),
        ] {
            assert_eq!(usable(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn addresses_are_counted_within_their_range() {
        let range = |text: &str| text.parse::<IpNet>().unwrap();
        assert_eq!(
            nth(range("10.43.0.0/16"), 10).unwrap(),
            IpAddr::from([10, 43, 0, 10])
        );
        assert_eq!(nth(range("fd00::/112"), 1).unwrap().to_string(), "fd00::1");
        assert!(nth(range("10.0.0.0/30"), 10).is_err());
    }
}
