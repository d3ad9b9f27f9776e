//! What this kernel and these rights allow, found out by trying it in namespaces that end with the try.
//!
//! **Invariant:** nothing outside the probe's own namespaces is changed, whatever the outcome.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::cgroup::{Cgroups, KernelCgroups, Version};
use crate::error::Context;
use crate::mount::{Depth, Mount, Mounts, OverlayUpper, Propagation};
use crate::namespace::in_new_net;
use crate::netlink::{LinkKind, Links, Netlink, VethPeer};
use crate::nftables::{
    Batch, Chain, ChainKind, CtKey, Expr, Family, Field, Hook, NatKind, Nftables, NumgenKind, Reg, Ruleset,
    Set, Table,
};
use crate::process::PidFd;
use crate::{Error, Kernel, Result};

/// How much the lack of a feature hurts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it Kijabi cannot run pods.
    Required,
    /// Without it some pods or options do not work.
    Wanted,
}

/// What was found out about one feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub feature: &'static str,
    pub need: Need,
    /// What the feature is for, or what is missing and what that means.
    pub words: String,
    pub present: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match (self.present, self.need) {
            (true, _) => "ok     ",
            (false, Need::Required) => "MISSING",
            (false, Need::Wanted) => "absent ",
        };
        write!(f, "{sign} {}: {}", self.feature, self.words)
    }
}

/// One thing to try.
struct Probe {
    feature: &'static str,
    need: Need,
    purpose: &'static str,
    run: fn(&Path) -> Result<()>,
}

impl Probe {
    fn find(&self, scratch: &Path) -> Finding {
        let outcome = (self.run)(scratch);
        let words = match &outcome {
            Ok(()) => self.purpose.to_owned(),
            Err(error) => format!("{}; it {}", error.chain(), self.purpose),
        };
        Finding {
            feature: self.feature,
            need: self.need,
            words,
            present: outcome.is_ok(),
        }
    }
}

/// Sorted by how early a pod would miss it.
const PROBES: [Probe; 15] = [
    Probe {
        feature: "root",
        need: Need::Required,
        purpose: "makes namespaces, mounts and links",
        run: |_| root(),
    },
    Probe {
        feature: "namespaces",
        need: Need::Required,
        purpose: "keep pods apart (mount, pid, ipc, uts, network, cgroup)",
        run: |_| namespaces(),
    },
    Probe {
        feature: "overlayfs",
        need: Need::Required,
        purpose: "stacks image layers",
        run: overlay,
    },
    Probe {
        feature: "cgroups",
        need: Need::Required,
        purpose: "limit and count what pods use",
        run: |_| cgroups(),
    },
    Probe {
        feature: "pidfd",
        need: Need::Required,
        purpose: "tells the end of a process",
        run: |_| pidfd(),
    },
    Probe {
        feature: "bridge",
        need: Need::Required,
        purpose: "joins pods on a node",
        run: |_| link(&LinkKind::Bridge),
    },
    Probe {
        feature: "veth",
        need: Need::Required,
        purpose: "plugs a pod into the bridge",
        run: |_| veth(),
    },
    Probe {
        feature: "nf_tables",
        need: Need::Required,
        purpose: "sends Service traffic to pods (maps, numgen, nat)",
        run: |_| nf_tables(),
    },
    Probe {
        feature: "nf_tables masquerade",
        need: Need::Required,
        purpose: "lets pods reach the world",
        run: |_| {
            rule(
                ChainKind::Nat,
                Hook::Postrouting,
                vec![Expr::Masquerade { fully_random: true }],
            )
        },
    },
    Probe {
        feature: "nf_tables reject",
        need: Need::Wanted,
        purpose: "refuses connections to Services without endpoints at once instead of letting them time out",
        run: |_| {
            rule(
                ChainKind::Filter,
                Hook::Output,
                vec![Expr::Reject(crate::nftables::RejectKind::PortUnreachable)],
            )
        },
    },
    Probe {
        feature: "conntrack",
        need: Need::Required,
        purpose: "remembers which pod answers a connection",
        run: |_| {
            rule(
                ChainKind::Filter,
                Hook::Output,
                vec![Expr::Ct {
                    to: Reg(0),
                    key: CtKey::State,
                }],
            )
        },
    },
    Probe {
        feature: "seccomp",
        need: Need::Wanted,
        purpose: "filters a container's system calls",
        run: |_| seccomp(),
    },
    Probe {
        feature: "vxlan",
        need: Need::Wanted,
        purpose: "carries pod traffic between nodes of different segments",
        run: |_| {
            link(&LinkKind::Vxlan {
                id: 1,
                port: 8472,
                local: None,
                parent: None,
            })
        },
    },
    Probe {
        feature: "user namespaces",
        need: Need::Wanted,
        purpose: "for pods with hostUsers: false",
        run: |_| user_namespaces(),
    },
    Probe {
        feature: "IPv6",
        need: Need::Wanted,
        purpose: "for dual-stack clusters",
        run: |_| present(Path::new("/proc/net/if_inet6")),
    },
];

/// Tries everything; `scratch` is a directory on the filesystem that will hold images and pods.
pub fn check(scratch: &Path) -> Vec<Finding> {
    let mut findings: Vec<Finding> = PROBES.iter().map(|probe| probe.find(scratch)).collect();
    findings.extend(controllers());
    findings
}

/// What a node cannot do without and does not have; tries no more than that.
pub fn lacking(scratch: &Path) -> Vec<Finding> {
    let needed = PROBES.iter().filter(|probe| probe.need == Need::Required);
    let mut findings: Vec<Finding> = needed.map(|probe| probe.find(scratch)).collect();
    findings.extend(controllers());
    missing(&findings).cloned().collect()
}

/// The required features that are missing, if any.
pub fn missing(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    findings
        .iter()
        .filter(|finding| !finding.present && finding.need == Need::Required)
}

fn controllers() -> Vec<Finding> {
    let Ok(cgroups) = KernelCgroups::detect() else {
        return Vec::new();
    };
    const WANTED: [(&str, Need, &str); 5] = [
        ("cpu", Need::Required, "CPU shares and limits"),
        ("memory", Need::Required, "memory limits and out-of-memory kills"),
        ("pids", Need::Wanted, "limits on the number of processes"),
        ("cpuset", Need::Wanted, "pinning to CPUs"),
        ("hugetlb", Need::Wanted, "huge pages"),
    ];
    let version = match cgroups.version() {
        Version::V1 => "v1",
        Version::V2 => "v2",
    };
    WANTED
        .iter()
        .map(|(name, need, purpose)| {
            let present = cgroups.controllers().contains(*name);
            let words = if present {
                format!("{purpose} ({version})")
            } else {
                format!("not among the mounted cgroup {version} controllers; {purpose} will not be enforced")
            };
            Finding {
                feature: name,
                need: *need,
                words,
                present,
            }
        })
        .collect()
}

fn root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::Unsupported {
        operation: "check the user",
        feature: "the rights of root (run it with sudo)".into(),
    })
}

/// Runs `work` on a thread of its own in new namespaces of these kinds.
pub(crate) fn in_new(flags: UnshareFlags, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no caller passes the flag that splits the descriptor table.
            unsafe { unshare_unsafe(flags) }.context("make", format_args!("namespaces {flags:?}"))?;
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn namespaces() -> Result<()> {
    use UnshareFlags as F;
    // A new pid namespace is for children only, so the thread itself may ask for it.
    in_new(
        F::NEWNS | F::NEWIPC | F::NEWUTS | F::NEWNET | F::NEWPID | F::NEWCGROUP,
        || Ok(()),
    )
}

fn overlay(scratch: &Path) -> Result<()> {
    let base = scratch.join(format!(".kijabi-check-{}", std::process::id()));
    let dirs: Vec<PathBuf> = ["lower", "upper", "work", "merged"]
        .iter()
        .map(|d| base.join(d))
        .collect();
    let outcome = dirs
        .iter()
        .try_for_each(|dir| fs::create_dir_all(dir).context("create", dir.display()))
        .and_then(|()| {
            in_new(UnshareFlags::NEWNS | UnshareFlags::FS, || {
                Kernel.mount(&Mount::propagate("/", Propagation::Private, Depth::Recursive))?;
                Kernel.mount(&Mount::Overlay {
                    lower: vec![dirs[0].clone()],
                    upper: Some(OverlayUpper {
                        dir: dirs[1].clone(),
                        work: dirs[2].clone(),
                    }),
                    target: dirs[3].clone(),
                    options: String::new(),
                })?;
                let file = dirs[3].join("probe");
                fs::write(&file, "x").context("write", file.display())
            })
        });
    let cleaned = fs::remove_dir_all(&base).context("remove", base.display());
    outcome.and(cleaned)
}

fn cgroups() -> Result<()> {
    KernelCgroups::detect().map(drop)
}

fn pidfd() -> Result<()> {
    PidFd::open(std::process::id()).map(drop)
}

fn link(kind: &LinkKind) -> Result<()> {
    in_new_net(|| Netlink::open()?.create_link("kjprobe", kind).map(drop))
}

fn veth() -> Result<()> {
    link(&LinkKind::Veth(VethPeer {
        name: "kjprobe2".into(),
        net: None,
        mac: None,
        mtu: None,
    }))
}

fn rule(kind: ChainKind, hook: Hook, rule: Vec<Expr>) -> Result<()> {
    nf_batch(|batch, table| {
        batch.add_chain(table, Chain::base("probe", kind, hook, 0));
        batch.add_rule(table, "probe", rule);
    })
}

fn nf_tables() -> Result<()> {
    nf_batch(|batch, table| {
        let vips = Set::verdicts("vips", [Field::Ipv4, Field::Proto, Field::Port]);
        let ends = Set::map("ends", [Field::Number, Field::Number], [Field::Ipv4, Field::Port]);
        batch.add_set(table, &vips);
        batch.add_set(table, &ends);
        batch.add_chain(
            table,
            Chain::base("probe", ChainKind::Nat, Hook::Prerouting, -100),
        );
        batch.add_rule(
            table,
            "probe",
            vec![
                Expr::Numgen {
                    to: Reg(0),
                    modulus: 2,
                    kind: NumgenKind::Random,
                },
                Expr::Numgen {
                    to: Reg(1),
                    modulus: 2,
                    kind: NumgenKind::Random,
                },
                Expr::Map {
                    map: "ends".into(),
                    from: Reg(0),
                    to: Reg(8),
                },
                Expr::Nat {
                    kind: NatKind::Destination,
                    family: Family::Ip,
                    address: Reg(8),
                    port: Some(Reg(9)),
                },
            ],
        );
    })
}

fn nf_batch(fill: impl FnOnce(&mut Batch, &Table) + Send) -> Result<()> {
    in_new_net(|| {
        let table = Table::new(Family::Ip, "kijabi-probe");
        let mut batch = Batch::new();
        batch.add_table(&table);
        fill(&mut batch, &table);
        Nftables::open()?
            .commit(&batch)
            .map_err(|error| Error::kernel("use", "nf_tables", std::io::Error::other(error)))
    })
}

fn seccomp() -> Result<()> {
    present(Path::new("/proc/sys/kernel/seccomp/actions_avail"))
}

fn present(path: &Path) -> Result<()> {
    fs::metadata(path).map(drop).context("find", path.display())
}

fn user_namespaces() -> Result<()> {
    // A thread of a larger process may not enter a user namespace, so the kernel is only asked whether it
    // has them and lets them be made.
    present(Path::new("/proc/self/ns/user"))?;
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces")
        .context("read", "/proc/sys/user/max_user_namespaces")?;
    if limit.trim() == "0" {
        return Err(Error::Unsupported {
            operation: "make user namespace",
            feature: "user namespaces (user.max_user_namespaces is 0)".into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_says_something_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let findings = check(dir.path());
        for finding in &findings {
            println!("{finding}");
            assert!(!finding.words.is_empty());
        }
        assert!(findings.len() >= PROBES.len());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let mounts = Kernel.table().unwrap();
        assert!(!mounts.iter().any(|m| m.target.starts_with(dir.path())));
    }
}
