//! A real node under test: the built binary in network, mount and process namespaces of its own.
//!
//! ```text
//! test ── Machine: `unshare` holds the namespaces (its first process sleeps; when it dies, all in it die)
//!           └─ TestNode: `kijabi up`, entered by `nsenter`, which can be killed and started again
//! ```
//!
//! **Invariant:** nothing survives a test: dropping a [`TestNode`] runs `kijabi down --purge` and looks for
//! what is left; dropping a [`Machine`] ends every process in it, and its links and mounts with them.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take before the test says what it waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Prints why a test does nothing here.
pub(crate) fn skipped(reason: &str) {
    println!("skipped: {reason}");
}

/// Looks again until `look` finds what it wants; fails naming `what` after `patience`.
#[track_caller]
pub(crate) fn wait_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, look)
}

/// Namespaces that stand for a machine.
#[derive(Debug)]
pub(crate) struct Machine {
    holder: Child,
    /// The first process of the namespaces, as seen from outside.
    pid: u32,
}

impl Machine {
    /// `None`, with the reason printed, where the tests cannot have namespaces.
    pub(crate) fn new() -> Option<Arc<Self>> {
        if !rustix::process::geteuid().is_root() {
            skipped("not root");
            return None;
        }
        // The shell that waits is the first process: it reaps the orphans. Mounts that others have made below
        // the temporary directory, and take away again, are none of this machine's.
        let script = "\
            while read -r _ _ _ _ target _; do \
                case $target in ${TMPDIR:-/tmp}/*) umount -l $target;; esac; \
            done < /proc/self/mountinfo; \
            echo ready; sleep infinity & wait";
        let flags = [
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ];
        let holder = Command::new("unshare")
            .args(flags)
            .args(["sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut holder) = holder else {
            skipped("no unshare");
            return None;
        };
        if find_program("nsenter").is_none() {
            skipped("no nsenter");
            return None;
        }
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let Some(pid) = child_of(holder.id()).filter(|_| line == "ready\n") else {
            holder.wait().unwrap();
            skipped("no namespaces may be made here");
            return None;
        };
        let machine = Self { holder, pid };
        machine
            .links()
            .change_link("lo", &linux::netlink::LinkChange::Up)
            .unwrap();
        Some(Arc::new(machine))
    }

    /// A program to be run inside.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.pid.to_string(), "-n", "-m", "-p", "--"])
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs a script inside and expects it to succeed.
    pub(crate) fn sh(&self, script: &str) -> String {
        succeed(self.command("sh").args(["-c", script]), script)
    }

    /// Runs `work` on a thread whose sockets are this machine's.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let net = File::open(self.namespace("net")).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let kind = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(net.as_fd(), Some(kind)).unwrap();
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// As [`Machine::inside`], with a runtime of one thread.
    pub(crate) fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(work())
        })
    }

    pub(crate) fn links(&self) -> Box<dyn linux::netlink::Links> {
        Box::new(linux::netlink::Netlink::open_in(&self.namespace("net")).unwrap())
    }

    /// What the kernel holds for this machine, one line a thing, sorted.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut traces: Vec<String> = self
            .links()
            .links()
            .unwrap()
            .into_iter()
            .map(|link| format!("link {}", link.name))
            .collect();
        traces.extend(
            self.links()
                .routes()
                .unwrap()
                .into_iter()
                .map(|route| format!("route {route:?}")),
        );
        traces.extend(self.inside(|| {
            let rules = linux::nftables::Nftables::open().unwrap();
            let tables = linux::nftables::Ruleset::tables(&rules).unwrap();
            tables
                .into_iter()
                .map(|table| format!("table {table:?}"))
                .collect::<Vec<_>>()
        }));
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid)).unwrap();
        traces.extend(linux::mount::parse_mountinfo(&mounts).into_iter().map(|mount| {
            format!(
                "mount {} {} on {}",
                mount.kind,
                mount.source,
                mount.target.display()
            )
        }));
        traces.extend(
            self.sh("ls -A /run/netns 2>/dev/null || true")
                .lines()
                .map(|name| format!("netns {name}")),
        );
        traces.extend(
            // Everything but the first process and the shell that asks.
            self.sh("for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) ;; *) read -r l < $p/stat && echo $l;; esac; done")
                .lines()
                .map(|stat| format!("process {}", stat.split(' ').skip(1).take(2).collect::<Vec<_>>().join(" "))),
        );
        traces.sort();
        traces
    }

    fn namespace(&self, kind: &str) -> PathBuf {
        format!("/proc/{}/ns/{kind}", self.pid).into()
    }

    /// A file as the machine's own mounts show it.
    pub(crate) fn path(&self, inside: &Path) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.pid)).join(inside.strip_prefix("/").unwrap())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.holder.kill();
        self.holder.wait().unwrap();
    }
}

/// One installation of kijabi on a machine.
#[derive(Debug)]
pub(crate) struct TestNode {
    machine: Arc<Machine>,
    home: TempDir,
    data: PathBuf,
    flags: Vec<String>,
    process: Option<Child>,
    starts: u32,
}

impl TestNode {
    /// A node that is ready; `None`, with the reason printed, where there can be none.
    pub(crate) fn start() -> Option<Self> {
        Some(Self::start_on(&Machine::new()?, &[]))
    }

    pub(crate) fn start_on(machine: &Arc<Machine>, flags: &[&str]) -> Self {
        let mut node = Self::new(machine, flags);
        node.up();
        node
    }

    /// A node that is not started yet.
    pub(crate) fn new(machine: &Arc<Machine>, flags: &[&str]) -> Self {
        let home = tempfile::Builder::new().prefix("kijabi-it-").tempdir().unwrap();
        let data = home.path().join("data");
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self {
            machine: Arc::clone(machine),
            home,
            data,
            flags,
            process: None,
            starts: 0,
        }
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// A directory that goes with the node.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig.yaml")
    }

    /// The binary under test: this build's, or the one `KIJABI_TEST_BINARY` names (a release build, say).
    pub(crate) fn binary(&self) -> PathBuf {
        std::env::var_os("KIJABI_TEST_BINARY")
            .map_or_else(|| env!("CARGO_BIN_EXE_kijabi").into(), PathBuf::from)
    }

    /// `kijabi` with a subcommand, for this node's data directory.
    pub(crate) fn kijabi(&self, words: &[&str]) -> Command {
        let mut command = self.machine.command(self.binary());
        command.args(words).arg("--data-dir").arg(&self.data);
        command
    }

    /// Starts kijabi without waiting for anything.
    pub(crate) fn spawn(&mut self) {
        assert!(self.process.is_none(), "kijabi runs already");
        self.starts += 1;
        let log = File::create(self.log_path()).unwrap();
        let mut command = self.kijabi(&["up"]);
        command
            .args(&self.flags)
            .stderr(log.try_clone().unwrap())
            .stdout(log);
        self.process = Some(command.spawn().unwrap());
    }

    /// Starts kijabi and waits until it says that it is ready.
    pub(crate) fn up(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    #[track_caller]
    pub(crate) fn wait_ready(&mut self) {
        let log = self.log_path();
        let process = self.process.as_mut().unwrap();
        wait_for("kijabi up names the kubeconfig", || {
            let text = fs::read_to_string(&log).unwrap();
            if let Some(status) = process.try_wait().unwrap() {
                panic!("kijabi up ended, {status}:\n{text}");
            }
            text.contains("export KUBECONFIG=").then_some(())
        });
    }

    /// What the last start has printed.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join(format!("up-{}.log", self.starts))
    }

    /// `kill -9`.
    pub(crate) fn crash(&mut self) {
        self.signal(Signal::KILL);
    }

    /// As Ctrl-C: pods live on.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::INT)
    }

    fn signal(&mut self, signal: Signal) -> ExitStatus {
        let mut nsenter = self.process.take().expect("kijabi runs");
        let mut sent = false;
        let status = wait_for("kijabi ends", || {
            // One that was started a moment ago may not be there yet.
            if !sent && let Some(pid) = child_of(nsenter.id()) {
                // It may end in this moment, of its own.
                let _ = kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal);
                sent = true;
            }
            nsenter.try_wait().unwrap()
        });
        nsenter.wait().unwrap();
        status
    }

    /// Stops kijabi if it runs, then `kijabi down`.
    pub(crate) fn down(&mut self, purge: bool) -> Output {
        if self.process.is_some() {
            self.stop();
        }
        let words: &[&str] = if purge { &["down", "--purge"] } else { &["down"] };
        self.kijabi(words).output().unwrap()
    }

    /// The id that everything of this node carries on the host, made from its data directory.
    pub(crate) fn id(&self) -> String {
        let hash = self
            .data
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("{:06x}", (hash ^ (hash >> 24) ^ (hash >> 48)) & 0x00ff_ffff)
    }

    /// The control groups that carry this node's name.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let name = format!("kijabi-{}", self.id());
        let mut found = Vec::new();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            found.push(hierarchy.path().join(&name));
        }
        found.push(Path::new("/sys/fs/cgroup").join(&name));
        found.retain(|path| path.exists());
        found
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            println!("--- the end of {}", self.log_path().display());
            tail.iter().rev().for_each(|line| println!("{line}"));
            self.tell_events();
        }
        let down = self.down(true);
        if !failing {
            assert!(
                down.status.success(),
                "kijabi down: {}",
                String::from_utf8_lossy(&down.stderr)
            );
            assert_eq!(
                self.cgroups(),
                Vec::<PathBuf>::new(),
                "kijabi down leaves no control group"
            );
        }
    }
}

/// Runs a command and gives what it printed; fails with what it complained of.
#[track_caller]
pub(crate) fn succeed(command: &mut Command, what: &str) -> String {
    let output = command.output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{what}: {}\n{stderr}{stdout}",
        output.status
    );
    stdout.into_owned()
}

/// A program in the search path, or where the Cloud SDK keeps its several kubectls.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([
            "/usr/lib/google-cloud-sdk/bin".into(),
            "/sbin".into(),
            "/usr/sbin".into(),
        ])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Ends a command that runs in a machine: what `nsenter` started, then `nsenter` itself.
pub(crate) fn kill_entered(nsenter: &mut Child) {
    if let Some(pid) = child_of(nsenter.id()).and_then(|pid| Pid::from_raw(pid.try_into().unwrap())) {
        // It may end in this moment, of its own.
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = nsenter.kill();
    nsenter.wait().unwrap();
}

/// The only child of a process.
fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
