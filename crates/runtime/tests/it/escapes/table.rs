//! The attempts made from inside a running container.

use super::{Attempt, Level};

macro_rules! attempts {
    ($($level:ident: $what:literal, $script:literal => $told:literal, $by:literal;)*) => {
        &[$(Attempt { what: $what, level: Level::$level, script: $script, told: $told, stopped_by: $by }),*]
    };
}

/// Grouped by what they are after.
pub(crate) const ATTEMPTS: &[Attempt] = attempts![
    // Mounts.
    Usual: "mount a file system", "busybox mount -t tmpfs x /tmp && echo ESCAPED"
        => "permission denied", "no CAP_SYS_ADMIN";
    Usual: "make /proc/sys writable again", "busybox mount -o remount,rw,bind /proc/sys && echo ESCAPED"
        => "permission denied", "no CAP_SYS_ADMIN";
    ReadOnly: "make a read-only root writable again", "busybox mount -o remount,rw / && echo ESCAPED; touch /x && echo ESCAPED"
        => "Read-only file system", "no CAP_SYS_ADMIN; the root is mounted read-only";
    ReadOnly: "write to a read-only volume", "echo x > /vol/x && echo ESCAPED"
        => "Read-only file system", "the bind mount is read-only";
    Usual: "uncover a masked file", "busybox umount /proc/timer_list && echo ESCAPED"
        => "can't unmount", "no CAP_SYS_ADMIN";
    Usual: "pivot to another root", "busybox pivot_root / /tmp && echo ESCAPED"
        => "Operation not permitted", "no CAP_SYS_ADMIN";
    Usual: "a fresh /proc by a user namespace of one's own", "unshare -U -m -r -p -f busybox mount -t proc p /tmp && echo ESCAPED; true"
        => "permission denied", "the kernel shows no fresh /proc where the visible one is masked";
    Seccomp: "a user namespace of one's own", "unshare -U -r true && echo ESCAPED"
        => "Operation not permitted", "seccomp: unshare needs CAP_SYS_ADMIN";
    Usual: "a cgroup hierarchy mounted anew, for its release_agent", "kind='-t cgroup -o memory'; [ -e /sys/fs/cgroup/cgroup.controllers ] && kind='-t cgroup2'; unshare -U -m -r busybox mount $kind c /tmp && echo ESCAPED; true"
        => "permission denied", "cgroups belong to the first user namespace";

    // /proc, /sys and cgroups.
    Usual: "a core_pattern that runs a program on the host", "echo '|/tmp/x' > /proc/sys/kernel/core_pattern && echo ESCAPED"
        => "Read-only file system", "/proc/sys is mounted read-only";
    Usual: "another module loader", "[ -e /proc/sys/kernel/modprobe ] || echo ABSENT; echo /tmp/x > /proc/sys/kernel/modprobe && echo ESCAPED"
        => "Read-only file system", "/proc/sys is mounted read-only";
    Usual: "SysRq", "[ -e /proc/sysrq-trigger ] || echo ABSENT; echo b > /proc/sysrq-trigger && echo ESCAPED"
        => "Read-only file system", "/proc/sysrq-trigger is mounted read-only";
    Usual: "a device's interrupts", "echo 1 > /proc/irq/default_smp_affinity && echo ESCAPED"
        => "Read-only file system", "/proc/irq is mounted read-only";
    Usual: "the kernel's memory by /proc/kcore", "[ -e /proc/kcore ] || echo ABSENT; [ $(head -c 16 /proc/kcore | wc -c) = 0 ] && echo empty || echo ESCAPED"
        => "empty", "masked: it reads as empty";
    Usual: "others' keys by /proc/keys", "[ -e /proc/keys ] || echo ABSENT; [ $(cat /proc/keys | wc -c) = 0 ] && echo empty || echo ESCAPED"
        => "empty", "masked: it reads as empty";
    Usual: "firmware tables", "[ -e /sys/firmware ] || echo ABSENT; [ $(ls /sys/firmware | wc -l) = 0 ] && echo empty || echo ESCAPED"
        => "empty", "masked: an empty read-only directory";
    Usual: "a uevent helper that runs on the host", "echo /tmp/x > /sys/kernel/uevent_seqnum && echo ESCAPED; echo /tmp/x > /sys/kernel/mm/ksm/run && echo ESCAPED"
        => "Read-only file system", "/sys is mounted read-only";
    Usual: "its own limits", "for f in $(busybox find /sys/fs/cgroup -name pids.max -o -name memory.limit_in_bytes); do echo 9999999999 > $f && echo ESCAPED; done; echo x > /sys/fs/cgroup/x && echo ESCAPED"
        => "Read-only file system", "the cgroup file systems are mounted read-only";
    Usual: "a cgroup of one's own, for its release_agent", "for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir $d/x && echo ESCAPED; done"
        => "Read-only file system", "the cgroup file systems are mounted read-only";

    // Devices.
    Usual: "the host's disks by a node of one's own", "ok=; for m in 8:0 254:0 259:0 253:0; do busybox mknod /tmp/d b ${m%:*} ${m#*:}; head -c 1 /tmp/d > /dev/null && echo ESCAPED; rm /tmp/d; done"
        => "Operation not permitted", "the device cgroup";
    Usual: "the machine's memory by /dev/mem", "busybox mknod /tmp/d c 1 1; head -c 1 /tmp/d && echo ESCAPED"
        => "Operation not permitted", "the device cgroup";
    Usual: "the kernel's log by /dev/kmsg", "busybox mknod /tmp/d c 1 11; echo x > /tmp/d && echo ESCAPED"
        => "Operation not permitted", "the device cgroup";
    Usual: "a virtual machine by /dev/kvm", "busybox mknod /tmp/d c 10 232; head -c 0 < /tmp/d && echo ESCAPED"
        => "Operation not permitted", "the device cgroup";
    Usual: "a loop device on the host", "busybox mknod /tmp/d c 10 237; head -c 0 < /tmp/d && echo ESCAPED"
        => "Operation not permitted", "the device cgroup";
    Dropped: "a device node at all", "busybox mknod /tmp/d b 8 0 && echo ESCAPED"
        => "Operation not permitted", "no CAP_MKNOD";
    Usual: "devices that are in sight", "for d in /dev/*; do [ -b $d ] && echo ESCAPED; done; ls /dev/mem /dev/kmsg /dev/kvm && echo ESCAPED"
        => "No such file or directory", "a /dev of the container's own";

    // Capabilities, by level.
    Usual: "more than the default capabilities", "grep CapBnd /proc/self/status | grep -v 00000000a80425fb && echo ESCAPED; grep CapBnd /proc/self/status"
        => "00000000a80425fb", "the bounding set";
    Dropped: "what root has after drop ALL", "grep -E 'Cap(Bnd|Eff|Prm|Inh|Amb)' /proc/self/status | grep -v 0000000000000000 && echo ESCAPED; echo none"
        => "none", "all sets are empty";
    NetAdmin: "more than the one that was added", "grep CapEff /proc/self/status | grep -v 00000000a80435fb && echo ESCAPED; busybox date -s 2020-01-01 > /dev/null; [ $(busybox date +%Y) = 2020 ] && echo ESCAPED"
        => "Operation not permitted", "the bounding set has that one alone";
    Usual: "a kernel module", "echo x > /tmp/m.ko; busybox insmod /tmp/m.ko && echo ESCAPED"
        => "can't insert", "no CAP_SYS_MODULE";
    Usual: "the clock", "busybox date -s 2020-01-01 > /dev/null; [ $(busybox date +%Y) = 2020 ] && echo ESCAPED"
        => "Operation not permitted", "no CAP_SYS_TIME";
    Usual: "clearing the kernel's log", "busybox dmesg -c > /dev/null && echo ESCAPED"
        => "Operation not permitted", "no CAP_SYSLOG";
    Usual: "a place before the host's processes", "busybox renice -n -5 -p 1 && echo ESCAPED"
        => "ermission denied", "no CAP_SYS_NICE";
    Usual: "swap of one's own", "dd if=/dev/zero of=/tmp/s bs=65536 count=1 2>/dev/null; busybox mkswap /tmp/s > /dev/null; busybox swapon /tmp/s && echo ESCAPED"
        => "Operation not permitted", "no CAP_SYS_ADMIN";
    Usual: "the host's name", "hostname evil && echo ESCAPED"
        => "Operation not permitted", "no CAP_SYS_ADMIN, and a UTS namespace of the pod's own";
    Usual: "the pod's interfaces and routes", "busybox ip link add d type dummy && echo ESCAPED"
        => "Operation not permitted", "no CAP_NET_ADMIN";
    HostNetwork: "the host's interfaces from its network", "busybox ip link set lo down && echo ESCAPED"
        => "Operation not permitted", "no CAP_NET_ADMIN";
    Restricted: "raw packets", "busybox ping -c 1 -W 1 127.0.0.1 > /dev/null && echo ESCAPED"
        => "permission denied", "no CAP_NET_RAW";

    // Users.
    NoNewPrivileges: "a set-uid program under no-new-privileges", "/vol/suid euid | grep '^0$' && echo ESCAPED; /vol/suid euid"
        => "1000", "no_new_privs: the kernel ignores set-uid";
    Restricted: "writing where only root may", "echo x >> /etc/passwd && echo ESCAPED; touch /bin/x && echo ESCAPED"
        => "ermission denied", "user 1000 owns nothing there";
    Restricted: "becoming root", "busybox su -c true && echo ESCAPED; busybox setuidgid 0 true && echo ESCAPED"
        => "code", "no CAP_SETUID, no_new_privs";

    // Other processes and their namespaces.
    Usual: "signalling the host's processes", "kill -0 {pid} && echo ESCAPED"
        => "No such process", "a process namespace of the container's own";
    Usual: "the host by /proc/1/root", "cat /proc/1/root{host}/secret && echo ESCAPED"
        => "No such file or directory", "process 1 is the container's own";
    HostPid: "the host's files by /proc/PID/root", "cat /proc/{pid}/root{host}/secret && echo ESCAPED"
        => "ermission denied", "no CAP_SYS_PTRACE: the host's processes hold more capabilities";
    HostPid: "the host's memory by /proc/PID/mem (ptrace)", "head -c 1 /proc/{pid}/mem && echo ESCAPED"
        => "ermission denied", "no CAP_SYS_PTRACE";
    HostPid: "the host's environment by /proc/PID/environ", "cat /proc/{pid}/environ && echo ESCAPED"
        => "ermission denied", "no CAP_SYS_PTRACE";
    HostPid: "joining the host's mount namespace", "busybox nsenter -t {pid} -m true && echo ESCAPED"
        => "ermission denied", "no CAP_SYS_PTRACE, no CAP_SYS_ADMIN";
    HostPid: "joining the host's network namespace", "busybox nsenter -t {pid} -n true && echo ESCAPED"
        => "ermission denied", "no CAP_SYS_PTRACE, no CAP_SYS_ADMIN";
    HostPidAsUser: "signalling the host's processes as a user", "kill -0 {pid} && echo ESCAPED"
        => "Operation not permitted", "another user's processes, no CAP_KILL";
    Usual: "joining a namespace it can name", "busybox nsenter --net=/proc/1/ns/net true && echo ESCAPED"
        => "Operation not permitted", "no CAP_SYS_ADMIN";

    // The runtime's own files.
    Usual: "a descriptor the runtime forgot to close", "for fd in $(ls /proc/1/fd); do [ $fd -gt 2 ] && readlink /proc/1/fd/$fd | grep -v -e ^pipe -e /proc/1/fd -e anon && echo ESCAPED; done; for fd in 3 4 5 6 7 8 9 10 11 12; do cat /proc/1/fd/$fd/../../../../..{host}/secret 2>/dev/null && echo ESCAPED; done; echo none"
        => "none", "everything is closed on exec";
    Usual: "overwriting the runtime by /proc/1/exe", "readlink /proc/1/exe | grep -v busybox && echo ESCAPED; (echo x > /proc/1/exe) && echo ESCAPED"
        => "Text file busy", "it is the container's own program";
    Usual: "a volume's symbolic link to the host's file", "cat /vol/out && echo ESCAPED"
        => "No such file or directory", "links are followed in the container's root";
    Limited: "all memory", "dd if=/dev/zero of=/dev/null bs=200000000 count=1 && echo ESCAPED"
        => "code 137", "the memory cgroup: the kernel ends the container";
    Limited: "filling memory by /dev/shm", "dd if=/dev/zero of=/dev/shm/x bs=1048576 count=4000 && echo ESCAPED; true"
        => "code", "shared memory is 64 MiB and counts in the memory cgroup";
];
