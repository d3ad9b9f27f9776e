//! Conversion cases, and the real hierarchies of this machine in groups of the test's own.

use super::resources::{Setting, settings};
use super::*;
use crate::mount::parse_mountinfo;

fn lines(version: Version, wish: &Resources) -> Vec<String> {
    settings(version, wish)
        .into_iter()
        .map(|Setting { file, value, .. }| format!("{file}={value}"))
        .collect()
}

#[test]
fn wishes_become_writes() {
    let wish = Resources {
        cpu_shares: Some(1024),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory_limit: Some(1 << 20),
        memory_swap: Some(3 << 20),
        memory_min: Some(4096),
        pids_max: Some(-1),
        hugetlb: [("2MB".to_owned(), 0)].into(),
        ..Resources::default()
    };
    assert_eq!(
        lines(Version::V1, &wish),
        [
            "cpu.shares=1024",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
            "memory.limit_in_bytes=1048576",
            "memory.memsw.limit_in_bytes=3145728",
            "pids.max=max",
            "hugetlb.2MB.limit_in_bytes=0",
        ]
    );
    assert_eq!(
        lines(Version::V2, &wish),
        [
            "cpu.weight=100",
            "cpu.max=50000 100000",
            "memory.min=4096",
            "memory.max=1048576",
            "memory.swap.max=2097152",
            "pids.max=max",
            "hugetlb.2MB.max=0",
        ]
    );
    assert!(settings(Version::V2, &Resources::default()).is_empty());
}

#[test]
fn shares_become_weights_over_the_whole_range() {
    for (shares, weight) in [
        (0, 0),
        (2, 1),
        (102, 17),
        (1024, 100),
        (262_144, 10_000),
        (1 << 40, 10_000),
    ] {
        assert_eq!(cpu_weight(shares), weight, "{shares} shares");
    }
}

#[test]
fn version_is_told_from_the_mounts() {
    let hybrid = "1 0 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                  2 0 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  3 0 0:3 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                  4 0 0:4 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let found = KernelCgroups::from_mounts(&parse_mountinfo(hybrid), |_| String::new()).unwrap();
    assert_eq!(found.version(), Version::V1);
    assert_eq!(
        found.controllers().iter().collect::<Vec<_>>(),
        ["cpu", "cpuacct", "memory"]
    );
    let path = CgroupPath::new("a/b").unwrap();
    assert_eq!(
        found.directory("cpuacct", &path).unwrap(),
        Path::new("/sys/fs/cgroup/cpu/a/b")
    );
    assert_eq!(found.directory("pids", &path), None);

    let unified = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
    let found =
        KernelCgroups::from_mounts(&parse_mountinfo(unified), |_| "cpu memory pids\n".into()).unwrap();
    assert_eq!(found.version(), Version::V2);
    assert_eq!(
        found.directory("io", &path).unwrap(),
        Path::new("/sys/fs/cgroup/a/b")
    );
    assert!(KernelCgroups::from_mounts(&[], |_| String::new()).is_err());
}

/// A group of this test's own, or the reason why there can be none.
fn own_group(name: &str) -> Option<(KernelCgroups, CgroupPath)> {
    let skip = |why: &str| {
        println!("skipped: {why}");
        None
    };
    let Ok(cgroups) = KernelCgroups::detect() else {
        return skip("no cgroup hierarchy is mounted");
    };
    let path = CgroupPath::new(&format!("kijabi-test-{}-{name}", std::process::id())).unwrap();
    match cgroups.create(&path) {
        Ok(()) => Some((cgroups, path)),
        Err(error) => skip(&error.chain()),
    }
}

#[test]
fn a_group_holds_kills_and_counts_a_process() {
    let Some((cgroups, path)) = own_group("life") else {
        return;
    };
    let inner = path.child("inner").unwrap();
    cgroups.create(&inner).unwrap();
    cgroups
        .set(
            &path,
            &Resources {
                cpu_shares: Some(512),
                cpu_quota: Some(50_000),
                cpu_period: Some(100_000),
                memory_limit: Some(64 << 20),
                pids_max: Some(50),
                ..Resources::default()
            },
        )
        .unwrap();
    let mut child = std::process::Command::new("/bin/sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    cgroups.add_process(&inner, child.id()).unwrap();
    assert_eq!(cgroups.processes_below(&path).unwrap(), [child.id()]);
    assert_eq!(cgroups.processes(&path).unwrap(), [0u32; 0]);
    assert_eq!(cgroups.children(&path).unwrap(), std::slice::from_ref(&inner));
    let stats = cgroups.stats(&path).unwrap();
    assert_eq!(stats.memory.limit, Some(64 << 20));
    assert_eq!(
        stats.pids,
        PidsStats {
            current: 1,
            limit: Some(50)
        }
    );
    // The child stays a zombie until waited for; a zombie does not hold its group.
    cgroups.remove(&path).unwrap();
    child.wait().unwrap();
    assert!(!cgroups.exists(&path));
    assert!(cgroups.stats(&path).unwrap_err().is_not_found());
    cgroups.remove(&path).unwrap();
}

#[tokio::test]
async fn an_out_of_memory_kill_is_told() {
    let Some((cgroups, path)) = own_group("oom") else {
        return;
    };
    cgroups
        .set(
            &path,
            &Resources {
                memory_limit: Some(8 << 20),
                ..Resources::default()
            },
        )
        .unwrap();
    let mut watch = cgroups.watch_oom(&path).unwrap();
    // The shell waits on its input until it is inside, then grows beyond the limit.
    let mut child = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            "read x; head -c 64m /dev/zero | tail -c 64m >/dev/null; sleep 1000",
        ])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    cgroups.add_process(&path, child.id()).unwrap();
    drop(child.stdin.take());
    assert!(matches!(
        watch.next().await.unwrap(),
        OomEvent::OutOfMemory { .. }
    ));
    cgroups.remove(&path).unwrap();
    child.wait().unwrap();
}
