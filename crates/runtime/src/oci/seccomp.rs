//! Seccomp profiles in the OCI's JSON form, and the compiler to BPF.
//!
//! The compiled program finds the call's number by halving, not by asking for each name in turn, so a call
//! late in the profile costs no more than an early one.
//!
//! Calls of another architecture (32-bit programs on a 64-bit kernel) get the profile's default answer.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::syscalls;

/// A profile as the OCI runtime specification writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Profile {
    pub(crate) default_action: String,
    #[serde(default)]
    pub(crate) default_errno_ret: Option<u32>,
    #[serde(default)]
    pub(crate) syscalls: Vec<Rule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rule {
    #[serde(default)]
    pub(crate) names: Vec<String>,
    pub(crate) action: String,
    #[serde(default)]
    pub(crate) errno_ret: Option<u32>,
    #[serde(default)]
    pub(crate) args: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Condition {
    pub(crate) index: u32,
    pub(crate) value: u64,
    #[serde(default)]
    pub(crate) value_two: u64,
    pub(crate) op: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SeccompError {
    #[error("unknown seccomp action {0:?}")]
    Action(String),
    #[error("unknown seccomp comparison {0:?}")]
    Comparison(String),
    #[error("seccomp argument {0} does not exist")]
    Argument(u32),
    #[error("the seccomp profile is too long: {0} instructions")]
    TooLong(usize),
}

pub(super) const EPERM: u32 = 1;
pub(super) const ENOSYS: u32 = 38;

/// One BPF instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGS_AT: u32 = 16;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// What happens to one call: the first choice whose conditions hold.
type Choices = Vec<(Vec<Condition>, u32)>;

/// Compiles a profile to the bytes of its BPF program.
pub(crate) fn compile(profile: &Profile) -> Result<Vec<u8>, SeccompError> {
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut calls: BTreeMap<u32, Choices> = BTreeMap::new();
    for rule in &profile.syscalls {
        let answer = action(&rule.action, rule.errno_ret)?;
        // A name this machine does not know cannot be called on it.
        for number in rule.names.iter().filter_map(|name| syscalls::number(name)) {
            let choices = calls.entry(number).or_default();
            match rule.args.is_empty() {
                // Without conditions a rule is the last word, so it comes after those with.
                true => choices.push((Vec::new(), answer)),
                false => {
                    let at = choices
                        .iter()
                        .position(|(conditions, _)| conditions.is_empty())
                        .unwrap_or(choices.len());
                    choices.insert(at, (rule.args.clone(), answer));
                }
            }
        }
    }
    let mut program = vec![
        Instruction {
            code: LOAD,
            jt: 0,
            jf: 0,
            k: ARCH_AT,
        },
        Instruction {
            code: IF_EQUAL,
            jt: 1,
            jf: 0,
            k: ARCH,
        },
        ret(default),
        Instruction {
            code: LOAD,
            jt: 0,
            jf: 0,
            k: NUMBER_AT,
        },
    ];
    search(&ranges(calls), default, &mut program)?;
    if program.len() > 4096 {
        return Err(SeccompError::TooLong(program.len()));
    }
    let bytes = program.iter().flat_map(|i| {
        let (code, k) = (i.code.to_ne_bytes(), i.k.to_ne_bytes());
        [code[0], code[1], i.jt, i.jf, k[0], k[1], k[2], k[3]]
    });
    Ok(bytes.collect())
}

/// Runs of numbers with one treatment: where each starts. The gaps have an empty one, the default's.
fn ranges(calls: BTreeMap<u32, Choices>) -> Vec<(u32, Choices)> {
    let mut ranges: Vec<(u32, Choices)> = vec![(0, Vec::new())];
    let mut next = 0;
    for (number, choices) in calls {
        if number > next {
            push(&mut ranges, next, Vec::new());
        }
        push(&mut ranges, number, choices);
        next = number + 1;
    }
    push(&mut ranges, next, Vec::new());
    ranges
}

fn push(ranges: &mut Vec<(u32, Choices)>, start: u32, choices: Choices) {
    let same = |a: &Choices, b: &Choices| match (a.as_slice(), b.as_slice()) {
        ([], []) => true,
        ([(x, i)], [(y, j)]) => x.is_empty() && y.is_empty() && i == j,
        _ => false,
    };
    match ranges.last_mut() {
        Some((_, last)) if same(last, &choices) => {}
        Some((at, last)) if *at == start => *last = choices,
        _ => ranges.push((start, choices)),
    }
}

fn search(
    ranges: &[(u32, Choices)],
    default: u32,
    program: &mut Vec<Instruction>,
) -> Result<(), SeccompError> {
    if let [(_, choices)] = ranges {
        return choose(choices, default, program);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    program.push(Instruction {
        code: IF_AT_LEAST,
        jt: 0,
        jf: 1,
        k: high[0].0,
    });
    let jump = program.len();
    program.push(Instruction {
        code: JUMP,
        jt: 0,
        jf: 0,
        k: 0,
    });
    search(low, default, program)?;
    // Conditional jumps reach 255 instructions, this one any number.
    program[jump].k = (program.len() - jump - 1) as u32;
    search(high, default, program)
}

fn choose(choices: &Choices, default: u32, program: &mut Vec<Instruction>) -> Result<(), SeccompError> {
    for (conditions, answer) in choices {
        let mut test = Vec::new();
        for condition in conditions {
            test.extend(compare(condition)?);
        }
        // A failed comparison was written as a jump to the end of its own test; now that end is known.
        let len = test.len();
        for (at, instruction) in test.iter_mut().enumerate() {
            let past_the_rest = (len - at) as u8;
            for target in [&mut instruction.jt, &mut instruction.jf] {
                if *target == FAIL {
                    *target = past_the_rest;
                }
            }
        }
        program.extend(test);
        program.push(ret(*answer));
        if conditions.is_empty() {
            return Ok(());
        }
    }
    program.push(ret(default));
    Ok(())
}

/// A jump to where the next choice begins.
const FAIL: u8 = u8::MAX;

/// Falls through when the condition holds.
fn compare(condition: &Condition) -> Result<Vec<Instruction>, SeccompError> {
    if condition.index > 5 {
        return Err(SeccompError::Argument(condition.index));
    }
    let low = ARGS_AT + 8 * condition.index;
    let load = |at| Instruction {
        code: LOAD,
        jt: 0,
        jf: 0,
        k: at,
    };
    let test = |code, k, jt, jf| Instruction { code, jt, jf, k };
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (high_value, low_value) = halves(condition.value);
    // `then` and `other`: where to go when the upper halves decide already.
    let ordered = |code, low_code_holds: bool, upper_greater_holds: bool| {
        let (on_true, on_false) = if low_code_holds { (0, FAIL) } else { (FAIL, 0) };
        let (greater, less) = if upper_greater_holds { (3, FAIL) } else { (FAIL, 2) };
        vec![
            load(low + 4),
            test(IF_GREATER, high_value, greater, 0),
            test(IF_EQUAL, high_value, 0, less),
            load(low),
            test(code, low_value, on_true, on_false),
        ]
    };
    Ok(match condition.op.as_str() {
        "SCMP_CMP_EQ" => vec![
            load(low + 4),
            test(IF_EQUAL, high_value, 0, FAIL),
            load(low),
            test(IF_EQUAL, low_value, 0, FAIL),
        ],
        "SCMP_CMP_NE" => vec![
            load(low + 4),
            test(IF_EQUAL, high_value, 0, 2),
            load(low),
            test(IF_EQUAL, low_value, FAIL, 0),
        ],
        "SCMP_CMP_GE" => ordered(IF_AT_LEAST, true, true),
        "SCMP_CMP_GT" => ordered(IF_GREATER, true, true),
        "SCMP_CMP_LT" => ordered(IF_AT_LEAST, false, false),
        "SCMP_CMP_LE" => ordered(IF_GREATER, false, false),
        "SCMP_CMP_MASKED_EQ" => {
            let (high_mask, low_mask) = (high_value, low_value);
            let (high_wanted, low_wanted) = halves(condition.value_two);
            vec![
                load(low + 4),
                test(AND, high_mask, 0, 0),
                test(IF_EQUAL, high_wanted, 0, FAIL),
                load(low),
                test(AND, low_mask, 0, 0),
                test(IF_EQUAL, low_wanted, 0, FAIL),
            ]
        }
        other => return Err(SeccompError::Comparison(other.to_owned())),
    })
}

fn ret(answer: u32) -> Instruction {
    Instruction {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: answer,
    }
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, SeccompError> {
    let errno = errno.unwrap_or(EPERM) & 0xffff;
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | errno,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | errno,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        other => return Err(SeccompError::Action(other.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::seccomp_default::default_profile;

    /// The kernel's interpreter, as far as our programs use it.
    fn run(program: &[u8], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let instructions: Vec<_> = program
            .chunks_exact(8)
            .map(|b| {
                (
                    u16::from_ne_bytes([b[0], b[1]]),
                    b[2],
                    b[3],
                    u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
                )
            })
            .collect();
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let (code, jt, jf, k) = instructions[at];
            at += 1;
            let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
            match code {
                LOAD => {
                    a = match k {
                        NUMBER_AT => number,
                        ARCH_AT => arch,
                        _ => {
                            let value = args[((k - ARGS_AT) / 8) as usize];
                            if (k - ARGS_AT) % 8 == 4 {
                                (value >> 32) as u32
                            } else {
                                value as u32
                            }
                        }
                    }
                }
                IF_EQUAL => branch(a == k),
                IF_GREATER => branch(a > k),
                IF_AT_LEAST => branch(a >= k),
                JUMP => at += k as usize,
                AND => a &= k,
                RETURN => return k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    const ALLOW: u32 = 0x7fff_0000;
    const DENY: u32 = 0x0005_0001;

    fn call(program: &[u8], name: &str, args: [u64; 6]) -> u32 {
        run(program, ARCH, syscalls::number(name).unwrap(), args)
    }

    #[test]
    fn the_default_profile_lets_through_what_it_should() {
        let program = compile(&default_profile(&[])).unwrap();
        let none = [0; 6];
        for name in [
            "read",
            "write",
            "execve",
            "openat",
            "futex",
            "exit_group",
            "socketpair",
            "ptrace",
            "mseal",
        ] {
            if syscalls::number(name).is_some() {
                assert_eq!(call(&program, name, none), ALLOW, "{name}");
            }
        }
        for name in [
            "mount",
            "unshare",
            "setns",
            "keyctl",
            "bpf",
            "reboot",
            "init_module",
            "chroot",
            "userfaultfd",
        ] {
            assert_eq!(call(&program, name, none), DENY, "{name}");
        }
        assert_eq!(call(&program, "clone3", none), 0x0005_0000 | ENOSYS);
        assert_eq!(call(&program, "clone", [0x11, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(
            call(&program, "clone", [0x1000_0011, 0, 0, 0, 0, 0]),
            DENY,
            "a user namespace"
        );
        assert_eq!(call(&program, "personality", [0xffff_ffff, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(&program, "personality", [0x40_0000, 0, 0, 0, 0, 0]), DENY);
        assert_eq!(call(&program, "socket", [2, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(&program, "socket", [40, 0, 0, 0, 0, 0]), DENY);
        assert_eq!(run(&program, 0x4000_0003, 0, none), DENY, "a 32-bit call");
        assert_eq!(run(&program, ARCH, 0x4000_0000, none), DENY, "an x32 call");
        assert_eq!(run(&program, ARCH, 100_000, none), DENY, "a call of the future");
    }

    #[test]
    fn capabilities_bring_calls_back() {
        let program = compile(&default_profile(&["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"])).unwrap();
        for name in ["mount", "chroot", "clone3", "unshare"] {
            assert_eq!(call(&program, name, [0; 6]), ALLOW, "{name}");
        }
        assert_eq!(call(&program, "keyctl", [0; 6]), DENY);
    }

    #[test]
    fn comparisons_hold_for_64_bits() {
        let big = 1_u64 << 40;
        type Holds = fn(u64, u64) -> bool;
        let holds: [(&str, Holds); 6] = [
            ("SCMP_CMP_EQ", |a, b| a == b),
            ("SCMP_CMP_NE", |a, b| a != b),
            ("SCMP_CMP_LT", |a, b| a < b),
            ("SCMP_CMP_LE", |a, b| a <= b),
            ("SCMP_CMP_GT", |a, b| a > b),
            ("SCMP_CMP_GE", |a, b| a >= b),
        ];
        let values = [0, 1, 5, 6, big - 1, big, big + 1, big + 5, u64::MAX];
        for (op, expected) in holds {
            for value in values {
                let args = vec![Condition {
                    index: 2,
                    value,
                    value_two: 0,
                    op: op.into(),
                }];
                let rule = Rule {
                    names: vec!["read".into()],
                    action: "SCMP_ACT_LOG".into(),
                    errno_ret: None,
                    args,
                };
                let profile = Profile {
                    default_action: "SCMP_ACT_ALLOW".into(),
                    default_errno_ret: None,
                    syscalls: vec![rule],
                };
                let program = compile(&profile).unwrap();
                for given in values {
                    let got = call(&program, "read", [0, 0, given, 0, 0, 0]) == 0x7ffc_0000;
                    assert_eq!(got, expected(given, value), "{given} {op} {value}");
                }
            }
        }
    }

    #[test]
    fn a_profile_from_a_file_is_understood_or_refused() {
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#;
        let program = compile(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!(call(&program, "mkdirat", [0; 6]), 0x0005_0000 | 13);
        assert_eq!(call(&program, "read", [0; 6]), ALLOW);
        let bad = Profile {
            default_action: "SCMP_ACT_NOTIFY".into(),
            default_errno_ret: None,
            syscalls: Vec::new(),
        };
        assert_eq!(compile(&bad), Err(SeccompError::Action("SCMP_ACT_NOTIFY".into())));
    }
}
