//! The seccomp profile that `RuntimeDefault` stands for.
//!
//! Its answers are those of the profile that Docker and containerd share; it is written as what is denied,
//! because that is what a reader wants to know.

use super::seccomp::{Condition, ENOSYS, EPERM, Profile, Rule};
use super::syscalls;

/// What a container may not call unless a capability makes it its business. Everything else this machine's
/// table knows is allowed; what the table does not know is not.
const DENIED: &[&str] = &[
    "_sysctl",
    "acct",
    "add_key",
    "afs_syscall",
    "bpf",
    "chroot",
    "clock_adjtime",
    "clock_settime",
    "clone",
    "clone3",
    "create_module",
    "delete_module",
    "epoll_ctl_old",
    "epoll_wait_old",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "get_mempolicy",
    "getpmsg",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mbind",
    "migrate_pages",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pidfd_getfd",
    "pivot_root",
    "process_madvise",
    "process_vm_readv",
    "process_vm_writev",
    "putpmsg",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "security",
    "set_mempolicy",
    "set_mempolicy_home_node",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "socket",
    "swapoff",
    "swapon",
    "sysfs",
    "syslog",
    "tuxcall",
    "umount2",
    "unshare",
    "uselib",
    "userfaultfd",
    "ustat",
    "vhangup",
    "vserver",
];

/// Calls that a capability brings back.
const BY_CAPABILITY: &[(&str, &[&str])] = &[
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    (
        "CAP_SYS_MODULE",
        &["delete_module", "init_module", "finit_module"],
    ),
    ("CAP_SYS_PACCT", &["acct"]),
    (
        "CAP_SYS_PTRACE",
        &[
            "kcmp",
            "pidfd_getfd",
            "process_madvise",
            "process_vm_readv",
            "process_vm_writev",
        ],
    ),
    ("CAP_SYS_RAWIO", &["iopl", "ioperm"]),
    (
        "CAP_SYS_TIME",
        &["settimeofday", "clock_settime", "clock_adjtime"],
    ),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    (
        "CAP_SYS_NICE",
        &[
            "get_mempolicy",
            "mbind",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    ),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
];

/// The profile `RuntimeDefault` stands for, given the container's capabilities.
pub(crate) fn default_profile(capabilities: &[&str]) -> Profile {
    let regained = |name: &str| {
        BY_CAPABILITY
            .iter()
            .any(|(capability, calls)| capabilities.contains(capability) && calls.contains(&name))
    };
    let allowed = syscalls::all()
        .map(|(name, _)| name)
        .filter(|name| !DENIED.contains(name) || regained(name));
    let allow = |names: Vec<String>, args| Rule {
        names,
        action: "SCMP_ACT_ALLOW".into(),
        errno_ret: None,
        args,
    };
    let condition = |index, value, value_two, op: &str| Condition {
        index,
        value,
        value_two,
        op: op.into(),
    };
    let one = |name: &str| vec![name.to_owned()];
    let mut rules = vec![allow(allowed.map(str::to_owned).collect(), Vec::new())];
    for persona in [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.push(allow(
            one("personality"),
            vec![condition(0, persona, 0, "SCMP_CMP_EQ")],
        ));
    }
    const AF_VSOCK: u64 = 40;
    rules.push(allow(
        one("socket"),
        vec![condition(0, AF_VSOCK, 0, "SCMP_CMP_NE")],
    ));
    if !capabilities.contains(&"CAP_SYS_ADMIN") {
        // Threads and processes, but no new namespaces; clone3 hides its flags from us, so it is not there.
        const NEW_NAMESPACES: u64 = 0x7e02_0000;
        rules.push(allow(
            one("clone"),
            vec![condition(0, NEW_NAMESPACES, 0, "SCMP_CMP_MASKED_EQ")],
        ));
        rules.push(Rule {
            names: one("clone3"),
            action: "SCMP_ACT_ERRNO".into(),
            errno_ret: Some(ENOSYS),
            args: Vec::new(),
        });
    }
    Profile {
        default_action: "SCMP_ACT_ERRNO".into(),
        default_errno_ret: Some(EPERM),
        syscalls: rules,
    }
}
