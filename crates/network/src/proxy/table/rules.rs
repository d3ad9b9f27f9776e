//! The chains every node has, and the rules that look Services up.

use linux::nftables::{
    Batch, Chain, ChainKind, CtKey, Expr, FibResult, Hook, MetaKey, Reg, RejectKind, Verdict, dport, dst,
    l4proto, priority, src,
};

use super::{LOCAL_ADDRESS, REJECT, Shape, concat, in_set, masked, port, verdict};
use crate::proxy::service::TCP;

const STATE_NEW: u32 = 1 << 3;
const DESTINATION_REWRITTEN: u32 = 1 << 5;

impl Shape {
    pub(super) fn chains(&self, batch: &mut Batch) {
        for name in [
            REJECT,
            "mark",
            "services",
            "firewall",
            "dead",
            "cluster-ips-check",
        ] {
            batch.add_chain(&self.table, Chain::regular(name));
        }
        use ChainKind::{Filter, Nat};
        for (name, kind, hook, priority) in [
            (
                "pre-dnat-prerouting",
                Filter,
                Hook::Prerouting,
                priority::DSTNAT - 10,
            ),
            ("pre-dnat-output", Filter, Hook::Output, priority::DSTNAT - 10),
            ("nat-prerouting", Nat, Hook::Prerouting, priority::DSTNAT),
            ("nat-output", Nat, Hook::Output, priority::DSTNAT),
            ("nat-postrouting", Nat, Hook::Postrouting, priority::SRCNAT),
            ("filter-input", Filter, Hook::Input, priority::FILTER),
            ("filter-forward", Filter, Hook::Forward, priority::FILTER),
            ("filter-output", Filter, Hook::Output, priority::FILTER),
        ] {
            batch.add_chain(&self.table, Chain::base(name, kind, hook, priority));
        }
        let new = |chain: &str| {
            vec![
                Expr::Ct {
                    to: Reg(0),
                    key: CtKey::State,
                },
                masked(STATE_NEW),
                Expr::ne(Reg(0), [0; 4]),
                Expr::jump(chain),
            ]
        };
        for (from, to) in [
            ("pre-dnat-prerouting", "firewall"),
            ("pre-dnat-output", "firewall"),
            ("filter-input", "dead"),
            ("filter-forward", "dead"),
            ("filter-forward", "cluster-ips-check"),
            ("filter-output", "dead"),
            ("filter-output", "cluster-ips-check"),
        ] {
            batch.add_rule(&self.table, from, new(to));
        }
        for hook in ["nat-prerouting", "nat-output"] {
            batch.add_rule(&self.table, hook, vec![Expr::jump("services")]);
        }
        // The node's own callers hear a reset at once, an unreachable port only on their second try.
        let reset = vec![
            l4proto(Reg(0)),
            Expr::eq(Reg(0), [TCP]),
            Expr::Reject(RejectKind::TcpReset),
        ];
        batch.add_rule(&self.table, REJECT, reset);
        batch.add_rule(
            &self.table,
            REJECT,
            vec![Expr::Reject(RejectKind::PortUnreachable)],
        );
        let mark = self.options.mark;
        batch.add_rule(
            &self.table,
            "mark",
            vec![
                Expr::Meta {
                    to: Reg(0),
                    key: MetaKey::Mark,
                },
                Expr::Bitwise {
                    from: Reg(0),
                    to: Reg(0),
                    mask: (!mark).to_ne_bytes().into(),
                    xor: mark.to_ne_bytes().into(),
                },
                Expr::SetMeta {
                    key: MetaKey::Mark,
                    from: Reg(0),
                },
            ],
        );
    }

    pub(super) fn service_rules(&self, batch: &mut Batch) {
        let mut rule = |exprs: Vec<Expr>| batch.add_rule(&self.table, "services", exprs);
        let mut outside = vec![dst(self.family, Reg(0)), in_set("cluster-ips")];
        if !self.options.masquerade_all {
            outside.extend([
                src(self.family, Reg(0)),
                Expr::NotInSet {
                    set: "pods".into(),
                    from: Reg(0),
                },
            ]);
        }
        outside.push(Expr::jump("mark"));
        rule(outside);
        rule(concat([
            self.front(),
            vec![in_set("masquerade"), Expr::jump("mark")],
        ]));
        for from_inside in [
            vec![src(self.family, Reg(0)), in_set("pods")],
            vec![
                Expr::Fib {
                    to: Reg(0),
                    result: FibResult::SourceType,
                },
                Expr::eq(Reg(0), LOCAL_ADDRESS.to_ne_bytes()),
            ],
        ] {
            rule(concat([
                from_inside,
                self.front(),
                vec![verdict("inside-fronts")],
            ]));
        }
        rule(concat([self.front(), vec![verdict("fronts")]]));
        // Node ports have rules of their own: the destination is any address of the node.
        rule(concat([
            self.to_node(),
            port(),
            vec![in_set("masquerade-ports"), Expr::jump("mark")],
        ]));
        for from_inside in [
            vec![src(self.family, Reg(0)), in_set("pods")],
            vec![
                Expr::Fib {
                    to: Reg(0),
                    result: FibResult::SourceType,
                },
                Expr::eq(Reg(0), LOCAL_ADDRESS.to_ne_bytes()),
            ],
        ] {
            rule(concat([
                from_inside,
                self.to_node(),
                port(),
                vec![verdict("inside-ports")],
            ]));
        }
        rule(concat([self.to_node(), port(), vec![verdict("ports")]]));
    }

    pub(super) fn filter_rules(&self, batch: &mut Batch) {
        let w = self.words();
        batch.add_rule(
            &self.table,
            "firewall",
            concat([
                self.front(),
                vec![
                    in_set("firewalled"),
                    src(self.family, Reg(w + 2)),
                    Expr::NotInSet {
                        set: "allowed".into(),
                        from: Reg(0),
                    },
                    Expr::Verdict(Verdict::Drop),
                ],
            ]),
        );
        batch.add_rule(
            &self.table,
            "dead",
            concat([self.front(), vec![verdict("dead-fronts")]]),
        );
        batch.add_rule(
            &self.table,
            "dead",
            concat([self.to_node(), port(), vec![verdict("dead-ports")]]),
        );
        batch.add_rule(
            &self.table,
            "cluster-ips-check",
            vec![
                dst(self.family, Reg(0)),
                in_set("cluster-ips"),
                Expr::goto(REJECT),
            ],
        );
        batch.add_rule(
            &self.table,
            "cluster-ips-check",
            vec![
                dst(self.family, Reg(0)),
                in_set("services"),
                Expr::Verdict(Verdict::Drop),
            ],
        );
    }

    pub(super) fn masquerade_rules(&self, batch: &mut Batch) {
        let mark = self.options.mark;
        let masquerade = Expr::Masquerade { fully_random: true };
        batch.add_rule(
            &self.table,
            "nat-postrouting",
            vec![
                Expr::Meta {
                    to: Reg(0),
                    key: MetaKey::Mark,
                },
                masked(mark),
                Expr::ne(Reg(0), [0; 4]),
                Expr::Meta {
                    to: Reg(0),
                    key: MetaKey::Mark,
                },
                masked(!mark),
                Expr::SetMeta {
                    key: MetaKey::Mark,
                    from: Reg(0),
                },
                masquerade.clone(),
            ],
        );
        let w = self.words();
        batch.add_rule(
            &self.table,
            "nat-postrouting",
            vec![
                Expr::Ct {
                    to: Reg(0),
                    key: CtKey::Status,
                },
                masked(DESTINATION_REWRITTEN),
                Expr::ne(Reg(0), [0; 4]),
                src(self.family, Reg(0)),
                dst(self.family, Reg(w)),
                l4proto(Reg(2 * w)),
                dport(Reg(2 * w + 1)),
                in_set("hairpin"),
                masquerade,
            ],
        );
    }
}
