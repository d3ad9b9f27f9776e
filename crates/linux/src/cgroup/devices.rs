//! Which devices a v2 group's processes may make and open: a program in the kernel, asked at each try.
//!
//! v2 has no file for this. A program of the type `BPF_PROG_TYPE_CGROUP_DEVICE` is attached to the group
//! and goes with it; the kernel asks every program up to the root, and one refusal is enough, so nothing
//! below can widen what a group above allows.
//!
//! ```text
//!   context: type | access << 16, major, minor
//!   for each rule: does the type, the number and all of the access fit?  yes: allow
//!   none does:                                                                refuse
//! ```
//!
//! **Invariant:** as on v1, one rule must cover the whole access: to open for reading and writing is not
//! allowed by a rule for each.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::error::Context;
use crate::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    Block,
    Character,
}

/// What may be done with a device: some of `r`, `w` and `m` (making a node of it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceAccess {
    pub read: bool,
    pub write: bool,
    pub make: bool,
}

impl DeviceAccess {
    /// From letters, as in `rwm`.
    pub fn parse(letters: &str) -> Result<Self> {
        let mut access = DeviceAccess::default();
        for letter in letters.chars() {
            match letter {
                'r' => access.read = true,
                'w' => access.write = true,
                'm' => access.make = true,
                _ => {
                    return Err(Error::Invalid {
                        operation: "read a device rule",
                        detail: format!("{letter:?} is no access to a device"),
                    });
                }
            }
        }
        Ok(access)
    }

    fn bits(self) -> i32 {
        i32::from(self.make) | i32::from(self.read) << 1 | i32::from(self.write) << 2
    }
}

/// Devices that are allowed; `None` stands for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    pub kind: Option<DeviceKind>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: DeviceAccess,
}

/// Lets the processes of a v2 group, and of those below, use these devices and no others.
pub(super) fn allow(dir: &Path, rules: &[DeviceRule]) -> Result<()> {
    let group = File::open(dir).context("open", dir.display())?;
    let program = load(&compile(rules)?)?;
    attach(&program, &group).context("attach the device program to", dir.display())
}

/// One instruction, as the kernel takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// The register written to in the lower half, the one read from in the upper.
    registers: u8,
    offset: i16,
    value: i32,
}

/// Instructions of 32-bit arithmetic, of loads from the context, and jumps.
mod code {
    pub(super) const LOAD: u8 = 0x61;
    pub(super) const AND: u8 = 0x54;
    pub(super) const SHIFT_RIGHT: u8 = 0x74;
    pub(super) const SET: u8 = 0xb4;
    pub(super) const COPY: u8 = 0xbc;
    pub(super) const JUMP_UNEQUAL: u8 = 0x55;
    pub(super) const EXIT: u8 = 0x95;
}

/// The register with the answer, and those the context is taken apart into.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const REST: u8 = 6;

const ANY_ACCESS: i32 = 0b111;

/// The program for a list of rules.
fn compile(rules: &[DeviceRule]) -> Result<Vec<Instruction>> {
    let one = |code, to: u8, from: u8, offset, value| Instruction {
        code,
        registers: to | from << 4,
        offset,
        value,
    };
    let mut program = vec![
        one(code::LOAD, KIND, CONTEXT, 0, 0),
        one(code::COPY, ACCESS, KIND, 0, 0),
        one(code::AND, KIND, 0, 0, 0xffff),
        one(code::SHIFT_RIGHT, ACCESS, 0, 0, 16),
        one(code::LOAD, MAJOR, CONTEXT, 4, 0),
        one(code::LOAD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules {
        let kind = rule.kind.map(|kind| match kind {
            DeviceKind::Block => 1,
            DeviceKind::Character => 2,
        });
        let mut fits = Vec::new();
        for (register, wanted) in [
            (KIND, kind),
            (MAJOR, number(rule.major)?),
            (MINOR, number(rule.minor)?),
        ] {
            fits.extend(wanted.map(|value| one(code::JUMP_UNEQUAL, register, 0, 0, value)));
        }
        let refused = ANY_ACCESS & !rule.access.bits();
        if refused != 0 {
            fits.push(one(code::COPY, REST, ACCESS, 0, 0));
            fits.push(one(code::AND, REST, 0, 0, refused));
            fits.push(one(code::JUMP_UNEQUAL, REST, 0, 0, 0));
        }
        fits.push(one(code::SET, ANSWER, 0, 0, 1));
        fits.push(one(code::EXIT, 0, 0, 0, 0));
        // Whoever does not fit goes on at the next rule; at most eight instructions are jumped over.
        let len = fits.len();
        for (at, instruction) in fits.iter_mut().enumerate() {
            if instruction.code == code::JUMP_UNEQUAL {
                instruction.offset = (len - at - 1) as i16;
            }
        }
        program.extend(fits);
    }
    program.push(one(code::SET, ANSWER, 0, 0, 0));
    program.push(one(code::EXIT, 0, 0, 0, 0));
    Ok(program)
}

fn number(wanted: Option<u32>) -> Result<Option<i32>> {
    let Some(wanted) = wanted else { return Ok(None) };
    i32::try_from(wanted).map(Some).map_err(|_| Error::Invalid {
        operation: "read a device rule",
        detail: format!("{wanted} is no device number"),
    })
}

/// What `BPF_PROG_LOAD` takes, as far as it is needed.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// What `BPF_PROG_ATTACH` takes.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Groups below may have programs of their own, which are asked as well.
const BPF_F_ALLOW_MULTI: u32 = 2;

fn load(program: &[Instruction]) -> Result<OwnedFd> {
    let request = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the request is of the layout and length the command takes and points at `count` instructions
    // and a terminated text, which the kernel copies and checks before it returns.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const request,
            size_of::<Load>(),
        )
    };
    match i32::try_from(answer) {
        // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Error::kernel(
            "load",
            "a device program",
            std::io::Error::last_os_error(),
        )),
    }
}

fn attach(program: &OwnedFd, group: &File) -> std::io::Result<()> {
    let request = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the request is of the layout and length the command takes; both descriptors are open.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const request,
            size_of::<Attach>(),
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kernel;
    use crate::mount::Mounts;

    fn rule(kind: Option<DeviceKind>, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
        DeviceRule {
            kind,
            major,
            minor,
            access: DeviceAccess::parse(access).unwrap(),
        }
    }

    /// What the kernel would answer: the few instructions that are used, carried out.
    fn ask(program: &[Instruction], kind: DeviceKind, major: u32, minor: u32, access: &str) -> bool {
        let kind = match kind {
            DeviceKind::Block => 1,
            DeviceKind::Character => 2,
        };
        let access = DeviceAccess::parse(access).unwrap().bits() as u32;
        let context = [kind | access << 16, major, minor];
        let mut registers = [0_u32; 7];
        let mut at = 0;
        loop {
            let Instruction {
                code,
                registers: names,
                offset,
                value,
            } = program[at];
            let (to, from) = (usize::from(names & 0xf), usize::from(names >> 4));
            at += 1;
            match code {
                code::LOAD => registers[to] = context[offset as usize / 4],
                code::COPY => registers[to] = registers[from],
                code::SET => registers[to] = value as u32,
                code::AND => registers[to] &= value as u32,
                code::SHIFT_RIGHT => registers[to] >>= value,
                code::JUMP_UNEQUAL if registers[to] != value as u32 => at += offset as usize,
                code::JUMP_UNEQUAL => {}
                code::EXIT => return registers[0] == 1,
                other => panic!("{other:#x} is not used"),
            }
        }
    }

    #[test]
    fn rules_decide() {
        use DeviceKind::{Block, Character};
        let program = compile(&[
            rule(Some(Character), None, None, "m"),
            rule(Some(Character), Some(1), Some(3), "rwm"),
            rule(Some(Character), Some(136), None, "rw"),
            rule(Some(Block), Some(8), Some(1), "r"),
            rule(None, Some(7), Some(7), "rw"),
        ])
        .unwrap();
        for (kind, major, minor, access, allowed) in [
            (Character, 1, 3, "rw", true),
            (Character, 1, 3, "m", true),
            (Block, 1, 3, "r", false),
            (Character, 1, 5, "r", false),
            (Character, 1, 5, "m", true),
            (Character, 1, 5, "rm", false),
            (Character, 136, 9, "rw", true),
            // One rule allows the making and another the opening, none both at once.
            (Character, 136, 9, "rwm", false),
            (Block, 8, 1, "r", true),
            (Block, 8, 1, "rw", false),
            (Block, 8, 1, "m", false),
            (Block, 8, 2, "r", false),
            (Block, 7, 7, "rw", true),
            (Character, 7, 7, "rw", true),
            (Character, 10, 200, "w", false),
        ] {
            assert_eq!(
                ask(&program, kind, major, minor, access),
                allowed,
                "{kind:?} {major}:{minor} {access}"
            );
        }
        assert!(!ask(&compile(&[]).unwrap(), Character, 1, 3, "r"));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(DeviceAccess::parse("rx").is_err());
        assert!(compile(&[rule(None, Some(u32::MAX), None, "r")]).is_err());
    }

    #[test]
    fn the_kernel_asks_the_program() {
        let table = Kernel.table().unwrap();
        let Some(root) = table.iter().find(|mount| mount.kind == "cgroup2") else {
            println!("skipped: no cgroup v2 hierarchy is mounted");
            return;
        };
        let dir = root
            .target
            .join(format!("kijabi-test-{}-devices", std::process::id()));
        if let Err(error) = std::fs::create_dir(&dir) {
            println!("skipped: no cgroup can be made: {error}");
            return;
        }
        let null = rule(Some(DeviceKind::Character), Some(1), Some(3), "rw");
        if let Err(error) = allow(&dir, &[null]) {
            std::fs::remove_dir(&dir).unwrap();
            assert!(error.is_denied(), "{}", error.chain());
            println!("skipped: {}", error.chain());
            return;
        }
        // The shell waits on its input until it is inside.
        let mut child = std::process::Command::new("/bin/sh")
            .args([
                "-c",
                "read x; true </dev/null && echo null; true 2>/dev/null </dev/zero && echo zero; echo done",
            ])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        drop(child.stdin.take());
        let out = child.wait_with_output().unwrap();
        std::fs::remove_dir(&dir).unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "null\ndone\n");
    }
}
