//! The packet filter's part in the pod network: host ports and masquerading, one table per family.
//!
//! ```text
//! prerouting, output:  to a local address, port in the map → the pod's address and port
//! postrouting:         from a pod of this node to outside the cluster → masquerade
//!                      from a pod to its own host port, or from 127.0.0.1 → masquerade
//! guard:               from a pod to 127.0.0.0/8 → drop (the bridge routes it only for host ports)
//! ```

use std::net::IpAddr;

use ipnet::IpNet;
use linux::nftables::{
    Batch, Chain, ChainKind, CtKey, Element, Expr, Family, FibResult, Field, Hook, Key, MetaKey, NatKind,
    Reg, Set, SetKind, Table, Verdict, dport, dst, l4proto, priority, src,
};

use super::records::{HostPort, Record};
use crate::Names;

/// The rules of one family.
#[derive(Clone, Debug)]
pub(super) struct PodTable {
    family: Family,
    table: Table,
    bridge: String,
    /// `proto . port → address . port`
    ports: Set,
    /// `address . proto . port → address . port`
    address_ports: Set,
    /// `address . address` of pods with host ports.
    hairpin: Set,
}

const LOCAL_ADDRESS: u32 = 2;
const DESTINATION_REWRITTEN: u32 = 1 << 5;

impl PodTable {
    pub(super) fn new(names: &Names, family: Family) -> Self {
        let address = if family == Family::Ip6 {
            Field::Ipv6
        } else {
            Field::Ipv4
        };
        PodTable {
            family,
            table: names.pod_table(family),
            bridge: names.bridge(),
            ports: Set::map("host-ports", [Field::Proto, Field::Port], [address, Field::Port]),
            address_ports: Set::map(
                "host-address-ports",
                [address, Field::Proto, Field::Port],
                [address, Field::Port],
            ),
            hairpin: Set::plain("hairpin", [address, address]),
        }
    }

    pub(super) fn is_for(&self, address: IpAddr) -> bool {
        address.is_ipv4() == (self.family == Family::Ip)
    }

    /// The whole table anew, in place of what was there.
    pub(super) fn rebuild<'a>(
        &self,
        batch: &mut Batch,
        pods: &[IpNet],
        inside: &[IpNet],
        records: impl Iterator<Item = &'a Record>,
    ) {
        let address = if self.family == Family::Ip6 {
            Field::Ipv6
        } else {
            Field::Ipv4
        };
        let range =
            |net: &IpNet| Element::range(Key::new().ip(net.network()), Key::new().ip(net.broadcast()));
        let own = |nets: &[IpNet]| {
            nets.iter()
                .filter(|net| self.is_for(net.addr()))
                .map(range)
                .collect()
        };
        let pod_ranges = Set::plain("pods", [address]).with_kind(SetKind::Interval);
        let cluster_ranges = Set::plain("cluster", [address]).with_kind(SetKind::Interval);
        let table = &self.table;
        batch.remove_table(table);
        batch.add_table(table);
        for set in [
            &pod_ranges,
            &cluster_ranges,
            &self.ports,
            &self.address_ports,
            &self.hairpin,
        ] {
            batch.add_set(table, set);
        }
        batch.add_elements(table, &pod_ranges, own(pods));
        batch.add_elements(table, &cluster_ranges, own(inside));
        self.chains(batch);
        for record in records {
            self.add(batch, record);
        }
    }

    fn chains(&self, batch: &mut Batch) {
        let table = &self.table;
        batch.add_chain(table, Chain::regular("host-ports"));
        for (name, kind, hook, priority) in [
            ("guard", ChainKind::Filter, Hook::Prerouting, priority::MANGLE),
            (
                "nat-prerouting",
                ChainKind::Nat,
                Hook::Prerouting,
                priority::DSTNAT,
            ),
            ("nat-output", ChainKind::Nat, Hook::Output, priority::DSTNAT),
            (
                "nat-postrouting",
                ChainKind::Nat,
                Hook::Postrouting,
                priority::SRCNAT,
            ),
        ] {
            batch.add_chain(table, Chain::base(name, kind, hook, priority));
        }
        for hook in ["nat-prerouting", "nat-output"] {
            batch.add_rule(
                table,
                hook,
                vec![
                    Expr::Fib {
                        to: Reg(0),
                        result: FibResult::DestinationType,
                    },
                    Expr::eq(Reg(0), LOCAL_ADDRESS.to_ne_bytes()),
                    Expr::jump("host-ports"),
                ],
            );
        }
        self.host_port_rules(batch);
        self.masquerade_rules(batch);
        if self.family == Family::Ip {
            batch.add_rule(
                table,
                "guard",
                vec![
                    Expr::Meta {
                        to: Reg(0),
                        key: MetaKey::IifName,
                    },
                    Expr::eq(Reg(0), if_name(&self.bridge)),
                    dst(self.family, Reg(0)),
                    first_octet(),
                    Expr::eq(Reg(0), [127, 0, 0, 0]),
                    Expr::Verdict(Verdict::Drop),
                ],
            );
        }
    }

    fn host_port_rules(&self, batch: &mut Batch) {
        let words = self.words();
        let to_pod = |map: &Set| {
            [
                Expr::Map {
                    map: map.name.clone(),
                    from: Reg(0),
                    to: Reg(8),
                },
                Expr::Nat {
                    kind: NatKind::Destination,
                    family: self.family,
                    address: Reg(8),
                    port: Some(Reg(8 + words)),
                },
            ]
        };
        let mut by_address = vec![
            dst(self.family, Reg(0)),
            l4proto(Reg(words)),
            dport(Reg(words + 1)),
        ];
        by_address.extend(to_pod(&self.address_ports));
        batch.add_rule(&self.table, "host-ports", by_address);
        let mut by_port = vec![l4proto(Reg(0)), dport(Reg(1))];
        by_port.extend(to_pod(&self.ports));
        batch.add_rule(&self.table, "host-ports", by_port);
    }

    fn masquerade_rules(&self, batch: &mut Batch) {
        let rewritten = [
            Expr::Ct {
                to: Reg(0),
                key: CtKey::Status,
            },
            Expr::Bitwise {
                from: Reg(0),
                to: Reg(0),
                mask: DESTINATION_REWRITTEN.to_ne_bytes().into(),
                xor: vec![0; 4],
            },
            Expr::ne(Reg(0), [0; 4]),
        ];
        let masquerade = Expr::Masquerade { fully_random: true };
        let mut own_port = rewritten.to_vec();
        own_port.extend([
            src(self.family, Reg(0)),
            dst(self.family, Reg(self.words())),
            Expr::InSet {
                set: self.hairpin.name.clone(),
                from: Reg(0),
            },
            masquerade.clone(),
        ]);
        batch.add_rule(&self.table, "nat-postrouting", own_port);
        if self.family == Family::Ip {
            let mut from_loopback = rewritten.to_vec();
            from_loopback.extend([
                Expr::Meta {
                    to: Reg(0),
                    key: MetaKey::OifName,
                },
                Expr::eq(Reg(0), if_name(&self.bridge)),
                src(self.family, Reg(0)),
                first_octet(),
                Expr::eq(Reg(0), [127, 0, 0, 0]),
                masquerade.clone(),
            ]);
            batch.add_rule(&self.table, "nat-postrouting", from_loopback);
        }
        batch.add_rule(
            &self.table,
            "nat-postrouting",
            vec![
                src(self.family, Reg(0)),
                Expr::InSet {
                    set: "pods".into(),
                    from: Reg(0),
                },
                dst(self.family, Reg(0)),
                Expr::NotInSet {
                    set: "cluster".into(),
                    from: Reg(0),
                },
                masquerade,
            ],
        );
    }

    /// The host ports of one sandbox.
    pub(super) fn add(&self, batch: &mut Batch, record: &Record) {
        let (by_port, by_address, hairpin) = self.elements(record);
        batch.add_elements(&self.table, &self.ports, by_port);
        batch.add_elements(&self.table, &self.address_ports, by_address);
        batch.add_elements(&self.table, &self.hairpin, hairpin);
    }

    pub(super) fn remove(&self, batch: &mut Batch, record: &Record) {
        let (by_port, by_address, hairpin) = self.elements(record);
        batch.delete_elements(&self.table, &self.ports, by_port);
        batch.delete_elements(&self.table, &self.address_ports, by_address);
        batch.delete_elements(&self.table, &self.hairpin, hairpin);
    }

    fn elements(&self, record: &Record) -> (Vec<Element>, Vec<Element>, Vec<Element>) {
        let (mut by_port, mut by_address, mut hairpin) = (Vec::new(), Vec::new(), Vec::new());
        let Some(pod) = record.ips.iter().copied().find(|ip| self.is_for(*ip)) else {
            return (by_port, by_address, hairpin);
        };
        for HostPort {
            host_ip,
            proto,
            host_port,
            container_port,
        } in record.host_ports.iter().copied()
        {
            let to = Key::new().ip(pod).port(container_port);
            match host_ip {
                None => by_port.push(Element::value(Key::new().proto(proto).port(host_port), to)),
                Some(ip) if self.is_for(ip) => {
                    by_address.push(Element::value(Key::new().ip(ip).proto(proto).port(host_port), to));
                }
                Some(_) => continue,
            }
            hairpin = vec![Element::key(Key::new().ip(pod).ip(pod))];
        }
        (by_port, by_address, hairpin)
    }

    /// Registers an address takes.
    fn words(&self) -> u8 {
        if self.family == Family::Ip6 { 4 } else { 1 }
    }
}

fn if_name(name: &str) -> Vec<u8> {
    Key::new().if_name(name).as_bytes().to_vec()
}

fn first_octet() -> Expr {
    Expr::Bitwise {
        from: Reg(0),
        to: Reg(0),
        mask: vec![255, 0, 0, 0],
        xor: vec![0; 4],
    }
}
