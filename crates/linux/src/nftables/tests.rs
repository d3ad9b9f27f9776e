//! The real kernel, in network namespaces that end with the test.

use std::time::Duration;

use super::*;
use crate::namespace::in_new_net;

fn table() -> Table {
    Table::new(Family::Ip, "kijabi-test")
}

fn in_own_net(test: impl FnOnce(&Nftables) + Send) {
    if let Err(error) = in_new_net(|| Ok(())) {
        println!("skipped: {}", error.chain());
        return;
    }
    in_new_net(|| {
        let nft = Nftables::open()?;
        if let Err(error) = nft.tables() {
            println!("skipped: {}", error.chain());
            return Ok(());
        }
        test(&nft);
        Ok(())
    })
    .unwrap_or_else(|error| panic!("{}", error.chain()));
}

fn commit(nft: &Nftables, fill: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    fill(&mut batch);
    nft.commit(&batch).unwrap_or_else(|error| panic!("{error}"));
}

fn vip(last: u8, port: u16) -> Key {
    Key::new().ip(IpAddr::from([10, 96, 0, last])).proto(6).port(port)
}

/// Every expression and kind of set is accepted by this kernel, in the shapes the proxy uses.
#[test]
fn the_kernel_takes_every_expression() {
    in_own_net(|nft| {
        for family in [Family::Ip, Family::Ip6] {
            let table = Table::new(family, "kijabi-test");
            let address = if family == Family::Ip {
                Field::Ipv4
            } else {
                Field::Ipv6
            };
            let words = address.padded() as u8 / 4;
            let key = [address, Field::Proto, Field::Port];
            let vips = Set::verdicts("vips", key);
            let pools = Set::map("pools", key, [Field::Number]);
            let endpoints = Set::map(
                "endpoints",
                [Field::Number, Field::Number],
                [address, Field::Port],
            );
            let affinity = Set::map("affinity", [Field::Number, address], [address, Field::Port])
                .with_kind(SetKind::Dynamic { size: 1000 });
            let allowed = Set::plain("allowed", [address, Field::Proto, Field::Port, address])
                .with_kind(SetKind::Interval);
            let ranges = Set::plain("ranges", [address]).with_kind(SetKind::Interval);
            let names = Set::plain("names", [Field::IfName]);
            let r = |n: u8| Reg(n);
            let load_key = |at: u8| {
                vec![
                    dst(family, r(at)),
                    l4proto(r(at + words)),
                    dport(r(at + words + 1)),
                ]
            };
            commit(nft, |b| {
                b.add_table(&table);
                for set in [&vips, &pools, &endpoints, &affinity, &allowed, &ranges, &names] {
                    b.add_set(&table, set);
                }
                b.add_chain(&table, Chain::regular("lb-2"));
                for (name, kind, hook, priority) in [
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
                    (
                        "filter-forward",
                        ChainKind::Filter,
                        Hook::Forward,
                        priority::FILTER,
                    ),
                ] {
                    b.add_chain(&table, Chain::base(name, kind, hook, priority));
                }
                let mut dispatch = load_key(0);
                dispatch.push(Expr::VerdictMap {
                    map: "vips".into(),
                    from: r(0),
                });
                b.add_rule(&table, "nat-prerouting", dispatch.clone());
                b.add_rule(&table, "nat-output", dispatch);

                let mut pick = load_key(0);
                pick.extend([
                    Expr::Map {
                        map: "pools".into(),
                        from: r(0),
                        to: r(0),
                    },
                    Expr::Numgen {
                        to: r(1),
                        modulus: 2,
                        kind: NumgenKind::Random,
                    },
                    Expr::Map {
                        map: "endpoints".into(),
                        from: r(0),
                        to: r(8),
                    },
                    src(family, r(1)),
                    Expr::Dynset {
                        set: "affinity".into(),
                        op: DynsetOp::Update,
                        key: r(0),
                        data: Some(r(8)),
                        timeout: Duration::from_secs(10800),
                    },
                    Expr::Nat {
                        kind: NatKind::Destination,
                        family,
                        address: r(8),
                        port: Some(r(8 + words)),
                    },
                ]);
                b.add_rule(&table, "lb-2", pick);
                b.add_rule(
                    &table,
                    "nat-postrouting",
                    vec![
                        Expr::Meta {
                            to: r(0),
                            key: MetaKey::Mark,
                        },
                        Expr::Bitwise {
                            from: r(0),
                            to: r(0),
                            mask: 0x4000u32.to_ne_bytes().into(),
                            xor: vec![0; 4],
                        },
                        Expr::ne(r(0), [0; 4]),
                        Expr::Masquerade { fully_random: true },
                    ],
                );
                b.add_rule(
                    &table,
                    "filter-forward",
                    vec![
                        Expr::Ct {
                            to: r(0),
                            key: CtKey::State,
                        },
                        Expr::Fib {
                            to: r(1),
                            result: FibResult::DestinationType,
                        },
                        Expr::eq(r(1), 2u32.to_ne_bytes()),
                        Expr::Hash {
                            kind: HashKind::Jenkins {
                                from: r(0),
                                len: 8,
                                seed: 7,
                            },
                            to: r(2),
                            modulus: 16,
                        },
                        Expr::Limit {
                            per_second: 10,
                            burst: 5,
                        },
                        Expr::Counter,
                        Expr::Reject(RejectKind::PortUnreachable),
                    ],
                );
                b.add_rule(
                    &table,
                    "filter-forward",
                    vec![
                        Expr::Meta {
                            to: r(0),
                            key: MetaKey::IifName,
                        },
                        Expr::InSet {
                            set: "names".into(),
                            from: r(0),
                        },
                        src(family, r(0)),
                        Expr::NotInSet {
                            set: "ranges".into(),
                            from: r(0),
                        },
                        l4proto(r(0)),
                        Expr::eq(r(0), [6]),
                        Expr::Immediate {
                            to: r(1),
                            value: Key::new().number(1),
                        },
                        Expr::SetMeta {
                            key: MetaKey::Mark,
                            from: r(1),
                        },
                        Expr::Hash {
                            kind: HashKind::Symmetric { seed: 7 },
                            to: r(2),
                            modulus: 16,
                        },
                        Expr::Reject(RejectKind::TcpReset),
                    ],
                );
                b.add_elements(&table, &names, vec![Element::key(Key::new().if_name("eth0"))]);
            });
            let dump = nft.dump(&table).unwrap();
            assert_eq!(
                dump.chain("lb-2").unwrap().rules,
                [[
                    "payload", "meta", "payload", "lookup", "numgen", "lookup", "payload", "dynset", "nat"
                ]]
            );
            assert_eq!(dump.chain("nat-postrouting").unwrap().hook, Some((4, 100)));
        }
        assert_eq!(nft.tables().unwrap().len(), 2);
    });
}

#[test]
fn elements_come_and_go_one_by_one() {
    in_own_net(|nft| {
        let vips = Set::verdicts("vips", [Field::Ipv4, Field::Proto, Field::Port]);
        let ports = Set::map("ports", [Field::Port], [Field::Number]);
        let ranges = Set::plain("ranges", [Field::Ipv4]).with_kind(SetKind::Interval);
        let allowed =
            Set::plain("allowed", [Field::Ipv4, Field::Port, Field::Ipv4]).with_kind(SetKind::Interval);
        let goto = |n: u8| Verdict::Goto(format!("lb-{n}"));
        let net = |a: [u8; 4]| Key::new().ip(IpAddr::from(a));
        let grant = |last: u8| {
            let vip = Key::new().ip(IpAddr::from([10, 96, 0, 1])).port(80);
            Element::range(
                vip.clone().ip(IpAddr::from([192, 168, last, 0])),
                vip.ip(IpAddr::from([192, 168, last, 255])),
            )
        };
        commit(nft, |b| {
            b.add_table(&table());
            for set in [&vips, &ports, &ranges, &allowed] {
                b.add_set(&table(), set);
            }
            for n in 1..=2 {
                b.add_chain(&table(), Chain::regular(format!("lb-{n}")));
            }
            b.add_elements(
                &table(),
                &vips,
                vec![
                    Element::verdict(vip(1, 80), goto(1)),
                    Element::verdict(vip(2, 80), goto(2)),
                    Element::verdict(vip(3, 80), Verdict::Drop),
                ],
            );
            b.add_elements(
                &table(),
                &ports,
                vec![Element::value(Key::new().port(30000), Key::new().number(9))],
            );
            b.add_elements(
                &table(),
                &ranges,
                vec![Element::range(net([10, 0, 0, 0]), net([10, 0, 0, 255]))],
            );
            b.add_elements(&table(), &allowed, vec![grant(1), grant(2)]);
        });
        // One element changes its verdict, one goes; the rest stays.
        commit(nft, |b| {
            b.delete_elements(
                &table(),
                &vips,
                vec![Element::key(vip(1, 80)), Element::key(vip(3, 80))],
            );
            b.add_elements(&table(), &vips, vec![Element::verdict(vip(1, 80), goto(2))]);
            b.delete_elements(&table(), &allowed, vec![grant(1)]);
        });
        let dump = nft.dump(&table()).unwrap();
        assert_eq!(
            dump.set("vips").unwrap().elements,
            [
                Element::verdict(vip(1, 80), goto(2)),
                Element::verdict(vip(2, 80), goto(2))
            ]
        );
        let port = &dump.set("ports").unwrap().elements[0];
        assert_eq!(port.key, Key::from_bytes([0x75, 0x30]));
        assert_eq!(port.data, ElementData::Value(Key::new().number(9)));
        assert_eq!(dump.set("ranges").unwrap().elements.len(), 1);
        assert_eq!(dump.set("allowed").unwrap().elements, [grant(2)]);

        commit(nft, |b| b.remove_table(&table()));
        commit(nft, |b| b.remove_table(&table()));
        assert_eq!(nft.dump(&table()).unwrap(), Dump::default());
    });
}

#[test]
fn a_refused_batch_names_the_operation_and_changes_nothing() {
    in_own_net(|nft| {
        let mut batch = Batch::new();
        batch.add_table(&table());
        batch.add_chain(&table(), Chain::regular("a"));
        batch.add_rule(&table(), "missing", vec![Expr::Counter]);
        batch.add_rule(&table(), "a", vec![Expr::goto("nowhere")]);
        let Err(BatchError::Refused(refused)) = nft.commit(&batch) else {
            panic!("must be refused")
        };
        assert_eq!(
            refused.iter().map(|r| (r.index, r.errno)).collect::<Vec<_>>(),
            [(Some(2), libc::ENOENT), (Some(3), libc::ENOENT)]
        );
        assert!(
            refused[0]
                .operation
                .starts_with("add rule ip kijabi-test missing")
        );
        assert!(nft.tables().unwrap().is_empty());
        // The socket is in step again.
        commit(nft, |b| b.add_table(&table()));
        assert_eq!(nft.tables().unwrap(), [table()]);
    });
}

#[test]
fn fifty_thousand_elements_in_one_batch() {
    in_own_net(|nft| {
        let vips = Set::map("vips", [Field::Ipv4, Field::Proto, Field::Port], [Field::Number]);
        let all: Vec<Element> = (0..50_000u32)
            .map(|n| {
                let key = Key::new()
                    .ip(IpAddr::from((10 << 24 | n).to_be_bytes()))
                    .proto(6)
                    .port(80);
                Element::value(key, Key::new().number(n))
            })
            .collect();
        let start = std::time::Instant::now();
        commit(nft, |b| {
            b.add_table(&table());
            b.add_set(&table(), &vips);
            b.add_elements(&table(), &vips, all);
        });
        println!("50,000 elements: {:?}", start.elapsed());
        assert_eq!(
            nft.dump(&table()).unwrap().set("vips").unwrap().elements.len(),
            50_000
        );
    });
}
