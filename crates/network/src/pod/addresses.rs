//! Choosing pod addresses from the node's ranges. Pure: what is taken is told by the caller.
//!
//! Round robin, so that an address just given back is the last to be given out again: connections to the
//! pod that had it die out meanwhile.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// The ranges of one node, one per address family.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    ranges: Vec<Range>,
}

#[derive(Clone, Debug)]
struct Range {
    net: IpNet,
    taken: BTreeSet<u128>,
    last: u128,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no free address left in {0}")]
pub struct Exhausted(pub IpNet);

impl Addresses {
    pub(super) fn new(nets: &[IpNet]) -> Self {
        let ranges = nets.iter().map(|net| Range {
            net: net.trunc(),
            taken: BTreeSet::new(),
            last: 1,
        });
        Addresses {
            ranges: ranges.collect(),
        }
    }

    pub(super) fn nets(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.ranges.iter().map(|range| range.net)
    }

    /// Marks an address that is in use; one of no range is left alone.
    pub(super) fn take(&mut self, address: IpAddr) {
        if let Some(range) = self.ranges.iter_mut().find(|range| range.net.contains(&address)) {
            let offset = number(address) - number(range.net.network());
            range.taken.insert(offset);
            range.last = range.last.max(offset);
        }
    }

    pub(super) fn give_back(&mut self, address: IpAddr) {
        if let Some(range) = self.ranges.iter_mut().find(|range| range.net.contains(&address)) {
            range
                .taken
                .remove(&(number(address) - number(range.net.network())));
        }
    }

    /// One address of each range, or none at all.
    pub(super) fn allocate(&mut self) -> Result<Vec<IpAddr>, Exhausted> {
        let chosen = self
            .ranges
            .iter()
            .map(|r| r.next().ok_or(Exhausted(r.net)))
            .collect::<Result<Vec<_>, _>>()?;
        for (range, offset) in self.ranges.iter_mut().zip(&chosen) {
            range.taken.insert(*offset);
            range.last = *offset;
        }
        Ok(self
            .ranges
            .iter()
            .zip(chosen)
            .map(|(range, offset)| range.at(offset))
            .collect())
    }
}

/// The first usable address of a range: the bridge's.
pub(super) fn gateway(net: &IpNet) -> IpAddr {
    Range {
        net: net.trunc(),
        taken: BTreeSet::new(),
        last: 0,
    }
    .at(1)
}

impl Range {
    fn at(&self, offset: u128) -> IpAddr {
        let number = number(self.net.network()) + offset;
        match self.net {
            // Offsets stay inside the range, so the number fits.
            IpNet::V4(_) => IpAddr::from((number as u32).to_be_bytes()),
            IpNet::V6(_) => IpAddr::from(number.to_be_bytes()),
        }
    }

    /// The next free offset after the last one given, going round once.
    fn next(&self) -> Option<u128> {
        const FIRST: u128 = 2;
        let bits = u32::from(self.net.max_prefix_len() - self.net.prefix_len());
        // The last address of an IPv4 network is its broadcast address.
        let reserved = u128::from(self.net.addr().is_ipv4());
        let end = 1u128.checked_shl(bits)?.checked_sub(reserved)?;
        let free = |offset: &u128| !self.taken.contains(offset);
        (self.last + 1..end)
            .find(free)
            .or_else(|| (FIRST..end.min(self.last + 1)).find(free))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_go_round_and_run_out() {
        let mut all = Addresses::new(&nets(&["10.42.0.0/29"]));
        let got: Vec<String> = (0..5).map(|_| all.allocate().unwrap()[0].to_string()).collect();
        assert_eq!(
            got,
            ["10.42.0.2", "10.42.0.3", "10.42.0.4", "10.42.0.5", "10.42.0.6"]
        );
        assert_eq!(all.allocate(), Err(Exhausted("10.42.0.0/29".parse().unwrap())));
        all.give_back("10.42.0.3".parse().unwrap());
        all.give_back("10.42.0.2".parse().unwrap());
        assert_eq!(all.allocate().unwrap()[0].to_string(), "10.42.0.2");
        all.give_back("10.42.0.2".parse().unwrap());
        assert_eq!(
            all.allocate().unwrap()[0].to_string(),
            "10.42.0.3",
            "not the one just given back"
        );
    }

    #[test]
    fn both_families_are_given_together() {
        let mut all = Addresses::new(&nets(&["10.42.1.0/24", "fd00:42:0:1::/64"]));
        all.take("10.42.1.2".parse().unwrap());
        let got = all.allocate().unwrap();
        assert_eq!(
            got,
            [
                "10.42.1.3".parse::<IpAddr>().unwrap(),
                "fd00:42:0:1::2".parse().unwrap()
            ]
        );
        assert_eq!(
            gateway(&"fd00:42:0:1::/64".parse().unwrap()).to_string(),
            "fd00:42:0:1::1"
        );
        assert_eq!(gateway(&"10.42.1.0/24".parse().unwrap()).to_string(), "10.42.1.1");
    }
}
