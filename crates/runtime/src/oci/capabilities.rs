//! Capability names, the default set, and what a security context makes of it.

use cri::v1::Capability;

/// By bit.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What every container has unless told otherwise: containerd's set.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A set of capabilities, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set(pub(crate) u64);

impl Set {
    pub(crate) fn names(self) -> Vec<&'static str> {
        NAMES
            .iter()
            .enumerate()
            .filter(|(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, name)| *name)
            .collect()
    }

    fn of(names: &[&str]) -> Set {
        Set(names
            .iter()
            .filter_map(|name| bit(name))
            .fold(0, |set, bit| set | bit))
    }
}

/// The process's capabilities and its ambient ones. `held` is what this machine lets us give at all.
pub(crate) fn compute(
    wanted: Option<&Capability>,
    privileged: bool,
    held: Set,
) -> Result<(Set, Set), String> {
    let empty = Capability::default();
    let wanted = wanted.unwrap_or(&empty);
    let all = Set((1 << NAMES.len()) - 1);
    let base = if privileged { all } else { Set::of(&DEFAULT) };
    let add = parse(&wanted.add_capabilities)?;
    let drop = parse(&wanted.drop_capabilities)?;
    let ambient = parse(&wanted.add_ambient_capabilities)?;
    // `ALL` first, single names after: dropping all and adding one leaves that one.
    let mut set = base.0;
    if add.all {
        set = all.0;
    }
    if drop.all {
        set = 0;
    }
    if !add.all || drop.all {
        set |= add.set;
    }
    set &= !drop.set;
    let ambient = if ambient.all { all.0 } else { ambient.set };
    set |= ambient;
    Ok((Set(set & held.0), Set(ambient & held.0)))
}

/// What this process could hand on.
pub(crate) fn held() -> Set {
    match rustix::thread::capabilities(None) {
        Ok(sets) => Set(sets.permitted.bits()),
        // Without an answer nothing is given.
        Err(_) => Set(0),
    }
}

struct Parsed {
    set: u64,
    all: bool,
}

fn parse(names: &[String]) -> Result<Parsed, String> {
    let mut parsed = Parsed { set: 0, all: false };
    for name in names {
        let upper = name.to_uppercase();
        if upper == "ALL" || upper == "CAP_ALL" {
            parsed.all = true;
            continue;
        }
        let full = if upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        parsed.set |= bit(&full).ok_or_else(|| format!("unknown capability \"{full}\""))?;
    }
    Ok(parsed)
}

fn bit(name: &str) -> Option<u64> {
    NAMES.iter().position(|known| *known == name).map(|at| 1 << at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str], privileged: bool) -> Vec<&'static str> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let wanted = Capability {
            add_capabilities: own(add),
            drop_capabilities: own(drop),
            ..Default::default()
        };
        compute(Some(&wanted), privileged, Set(u64::MAX))
            .unwrap()
            .0
            .names()
    }

    #[test]
    fn adding_and_dropping() {
        assert_eq!(set(&[], &[], false).len(), 14);
        assert!(set(&["NET_ADMIN"], &[], false).contains(&"CAP_NET_ADMIN"));
        assert_eq!(
            set(&["net_bind_service"], &["ALL"], false),
            ["CAP_NET_BIND_SERVICE"]
        );
        assert!(!set(&[], &["CAP_KILL"], false).contains(&"CAP_KILL"));
        let all_but_one = set(&["ALL"], &["SYS_ADMIN"], false);
        assert!(all_but_one.len() == 40 && !all_but_one.contains(&"CAP_SYS_ADMIN"));
        assert_eq!(set(&[], &[], true).len(), 41);
        let unknown = Capability {
            add_capabilities: vec!["NOPE".into()],
            ..Default::default()
        };
        assert_eq!(
            compute(Some(&unknown), false, Set(u64::MAX)).unwrap_err(),
            "unknown capability \"CAP_NOPE\""
        );
    }

    #[test]
    fn nothing_is_given_that_is_not_held() {
        assert_eq!(compute(None, true, Set(1)).unwrap().0.names(), ["CAP_CHOWN"]);
    }
}
