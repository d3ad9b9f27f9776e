//! What the machine says of itself.

use anyhow::{Context, bail};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// The machine's name, as a node may be called.
pub(crate) fn name() -> anyhow::Result<String> {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the machine's name")?;
    Ok(name.trim().to_lowercase())
}

/// The address other machines know this one by: the one on the way out. Nothing is sent.
pub(crate) fn address() -> anyhow::Result<IpAddr> {
    let probe = || -> std::io::Result<SocketAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // An address of the documentation range: connecting a datagram socket only asks for the route.
        socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9))?;
        socket.local_addr()
    };
    Ok(match probe() {
        Ok(local) if !local.ip().is_unspecified() => local.ip(),
        // A machine without a way out is a cluster of its own.
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    })
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
