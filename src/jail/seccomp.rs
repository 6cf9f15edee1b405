//! From the commented data in `policies/seccomp/` to a filter that the kernel runs.
//!
//! ```text
//! architecture? -- other --> kill        number --> binary search over ranges --> allow | errno | argument checks
//! ```
//!
//! The kernel runs the filter before every call and walks it again to find calls that it may skip, so the length of
//! the longest path counts, not the number of instructions: a search tree costs a quarter of a list to install.

use std::collections::BTreeMap;
use std::str::FromStr;

use nix::errno::Errno;
use serde::Deserialize;

use crate::sys::seccomp::Instruction;

/// Why a profile could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// No such profile.
    #[error("there is no seccomp profile {0:?}; use `default`, `strict` or `debug`")]
    UnknownProfile(String),
    /// The file is not what the schema asks.
    #[error("seccomp profile: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A name that no supported architecture has.
    #[error("seccomp profile: {0:?} is no system call")]
    UnknownCall(String),
    /// A call in two places.
    #[error("seccomp profile: {0:?} is named twice")]
    NamedTwice(String),
    /// Not an errno.
    #[error("seccomp profile: {0:?} is no error number")]
    UnknownErrno(String),
}

/// The profile files, by name.
const PROFILES: &[(&str, &str)] = &[
    ("default", include_str!("../../policies/seccomp/default.json")),
    ("strict", include_str!("../../policies/seccomp/strict.json")),
    ("debug", include_str!("../../policies/seccomp/debug.json")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    #[serde(rename = "description")]
    _description: String,
    /// The profile that holds for every call that this one does not name.
    extends: Option<String>,
    #[serde(default)]
    allow: Vec<Allow>,
    #[serde(default)]
    check: Vec<Check>,
    #[serde(default)]
    deny: Vec<Deny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allow {
    #[serde(rename = "why")]
    _why: String,
    calls: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deny {
    #[serde(rename = "why")]
    _why: String,
    calls: Vec<String>,
    errno: String,
}

/// Alternatives of conditions: a call that meets all conditions of one alternative is allowed, or denied.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    #[serde(rename = "why")]
    _why: String,
    calls: Vec<String>,
    #[serde(default)]
    allow_if: Vec<Vec<Condition>>,
    #[serde(default)]
    deny_if: Vec<Vec<Condition>>,
    errno: String,
}

/// A test of the low 32 bits of one argument. The kernel takes the arguments concerned as 32-bit values, so rubbish
/// in the upper half must not change the verdict (CVE-2017-5226 and its sequels).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    argument: u32,
    #[serde(default)]
    one_of: Vec<Number>,
    any_bit: Option<Number>,
    other_bits: Option<Number>,
    no_low_byte: Option<Number>,
}

/// A number, or one in hexadecimal as text, since JSON has no notation for it.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "serde_json::Value")]
struct Number(u32);

impl TryFrom<serde_json::Value> for Number {
    type Error = std::num::ParseIntError;

    fn try_from(value: serde_json::Value) -> Result<Self, Self::Error> {
        match value.as_str() {
            Some(text) => u32::from_str_radix(text.trim_start_matches("0x"), 16).map(Number),
            None => value.to_string().parse().map(Number),
        }
    }
}

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const AND: u16 = 0x54;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

/// First number of the x32 calls, which share the architecture value of x86-64.
const X32: u32 = 0x4000_0000;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

fn instruction(code: u16, jump_true: u8, jump_false: u8, operand: u32) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

fn answer(value: u32) -> Instruction {
    instruction(RETURN, 0, 0, value)
}

/// Compiles the profile `name` for the machine's architecture.
///
/// # Errors
/// An unknown name, or a mistake in the data (which the tests of the shipped profiles exclude).
pub fn compile(name: &str) -> Result<Vec<Instruction>, FilterError> {
    let table = named(name)?;
    let mut program = vec![
        instruction(LOAD, 0, 0, OFFSET_ARCHITECTURE),
        instruction(JUMP_EQUAL, 1, 0, ARCHITECTURE),
        answer(KILL_PROCESS),
        instruction(LOAD, 0, 0, OFFSET_NUMBER),
        instruction(JUMP_GREATER_OR_EQUAL, 0, 1, X32),
        answer(KILL_PROCESS),
    ];
    program.extend(search(&ranges(&table)));
    Ok(program)
}

/// The table of a profile over that of the one which it extends.
fn named(name: &str) -> Result<BTreeMap<u32, Vec<Instruction>>, FilterError> {
    let found = PROFILES.iter().find(|(known, _)| *known == name);
    let (_, text) = found.ok_or_else(|| FilterError::UnknownProfile(name.to_owned()))?;
    let profile: Profile = serde_json::from_str(text)?;
    let mut below = profile.extends.as_deref().map(named).transpose()?.unwrap_or_default();
    below.extend(table(profile)?);
    Ok(below)
}

/// What is to be done, as code that ends in an answer, per call number.
fn table(profile: Profile) -> Result<BTreeMap<u32, Vec<Instruction>>, FilterError> {
    let mut table = BTreeMap::new();
    let mut put = |names: Vec<String>, code: Vec<Instruction>| {
        for name in names {
            if let Some(number) = number(&name)?
                && table.insert(number, code.clone()).is_some()
            {
                return Err(FilterError::NamedTwice(name));
            }
        }
        Ok(())
    };
    for entry in profile.allow {
        put(entry.calls, vec![answer(ALLOW)])?;
    }
    for entry in profile.deny {
        put(entry.calls, vec![answer(errno(&entry.errno)?)])?;
    }
    for entry in profile.check {
        let refuse = errno(&entry.errno)?;
        let (alternatives, met, unmet) = if entry.deny_if.is_empty() {
            (entry.allow_if, ALLOW, refuse)
        } else {
            (entry.deny_if, refuse, ALLOW)
        };
        put(entry.calls, checks(&alternatives, met, unmet))?;
    }
    Ok(table)
}

fn number(name: &str) -> Result<Option<u32>, FilterError> {
    #[cfg(target_arch = "x86_64")]
    let here = syscalls::x86_64::Sysno::from_str(name).map(|call| call.id()).ok();
    #[cfg(target_arch = "aarch64")]
    let here = syscalls::aarch64::Sysno::from_str(name).map(|call| call.id()).ok();
    let elsewhere =
        syscalls::x86_64::Sysno::from_str(name).is_ok() || syscalls::aarch64::Sysno::from_str(name).is_ok();
    if here.is_none() && !elsewhere {
        return Err(FilterError::UnknownCall(name.to_owned()));
    }
    Ok(here.and_then(|number| u32::try_from(number).ok()))
}

fn errno(name: &str) -> Result<u32, FilterError> {
    let known = [("EPERM", Errno::EPERM), ("ENOSYS", Errno::ENOSYS), ("EAFNOSUPPORT", Errno::EAFNOSUPPORT)];
    let found = known.iter().find(|(text, _)| *text == name);
    let (_, errno) = found.ok_or_else(|| FilterError::UnknownErrno(name.to_owned()))?;
    Ok(ERRNO | *errno as u32)
}

/// Tries the alternatives in order.
fn checks(alternatives: &[Vec<Condition>], met: u32, unmet: u32) -> Vec<Instruction> {
    let mut code = Vec::new();
    for conditions in alternatives {
        let mut block = vec![answer(met)];
        for condition in conditions.iter().rev() {
            let mut test = condition.code(block.len());
            test.extend(block);
            block = test;
        }
        code.extend(block);
    }
    code.push(answer(unmet));
    code
}

impl Condition {
    /// Falls through to the next `skip` instructions if the condition holds, else jumps over them.
    fn code(&self, skip: usize) -> Vec<Instruction> {
        let over = u8::try_from(skip).unwrap_or(u8::MAX);
        let mut code = vec![instruction(LOAD, 0, 0, OFFSET_ARGUMENTS + 8 * self.argument)];
        if let Some(Number(bits)) = self.any_bit {
            code.push(instruction(JUMP_ANY_BIT, 0, over, bits));
        }
        if let Some(Number(bits)) = self.other_bits {
            code.push(instruction(JUMP_ANY_BIT, 0, over, !bits));
        }
        if let Some(Number(value)) = self.no_low_byte {
            code.push(instruction(AND, 0, 0, 0xff));
            code.push(instruction(JUMP_EQUAL, over, 0, value));
        }
        let count = self.one_of.len();
        for (at, Number(value)) in self.one_of.iter().enumerate() {
            let rest = u8::try_from(count - at - 1).unwrap_or(u8::MAX);
            let last = at + 1 == count;
            code.push(instruction(JUMP_EQUAL, rest, if last { over } else { 0 }, *value));
        }
        code
    }
}

/// Neighbouring numbers with the same code become one range; gaps are unknown calls. Each starts where the last ended.
fn ranges(table: &BTreeMap<u32, Vec<Instruction>>) -> Vec<(u32, Vec<Instruction>)> {
    let unknown = vec![answer(ERRNO | Errno::ENOSYS as u32)];
    let mut ranges = vec![(0, unknown.clone())];
    let mut push = |start: u32, code: &Vec<Instruction>| match ranges.last_mut() {
        Some((_, last)) if last == code => {}
        Some((at, last)) if *at == start => last.clone_from(code),
        _ => ranges.push((start, code.clone())),
    };
    for (number, code) in table {
        push(*number, code);
        if !table.contains_key(&(number + 1)) {
            push(number + 1, &unknown);
        }
    }
    ranges
}

fn search(ranges: &[(u32, Vec<Instruction>)]) -> Vec<Instruction> {
    if let [(_, code)] = ranges {
        return code.clone();
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let below = search(left);
    let mut code = Vec::new();
    match u8::try_from(below.len()) {
        Ok(over) => code.push(instruction(JUMP_GREATER_OR_EQUAL, over, 0, right[0].0)),
        Err(_far) => {
            let over = u32::try_from(below.len()).unwrap_or(u32::MAX);
            code.push(instruction(JUMP_GREATER_OR_EQUAL, 0, 1, right[0].0));
            code.push(instruction(JUMP, 0, 0, over));
        }
    }
    code.extend(below);
    code.extend(search(right));
    code
}

#[cfg(test)]
mod tests {
    use super::{ALLOW, ARCHITECTURE, ERRNO, KILL_PROCESS, X32, compile};
    use crate::sys::seccomp::Instruction;
    use nix::errno::Errno;

    /// Runs the program as the kernel would, and counts the instructions on the way.
    fn run(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
        let (mut at, mut accumulator, mut steps) = (0_usize, 0_u32, 0);
        loop {
            let step = program[at];
            (at, steps) = (at + 1, steps + 1);
            let operand = step.operand;
            match step.code {
                super::LOAD if operand == 0 => accumulator = number,
                super::LOAD if operand == 4 => accumulator = architecture,
                super::LOAD => {
                    accumulator = (arguments[(operand as usize - 16) / 8] & 0xffff_ffff) as u32;
                }
                super::RETURN => return (operand, steps),
                super::JUMP => at += operand as usize,
                super::AND => accumulator &= operand,
                code => {
                    let holds = match code {
                        super::JUMP_EQUAL => accumulator == operand,
                        super::JUMP_GREATER_OR_EQUAL => accumulator >= operand,
                        _ => accumulator & operand != 0,
                    };
                    at += usize::from(if holds { step.jump_true } else { step.jump_false });
                }
            }
        }
    }

    fn verdict(number: libc::c_long, arguments: [u64; 6]) -> u32 {
        under("default", number, arguments)
    }

    fn under(profile: &str, number: libc::c_long, arguments: [u64; 6]) -> u32 {
        let program = compile(profile).expect("the shipped profile");
        run(&program, ARCHITECTURE, u32::try_from(number).expect("positive"), arguments).0
    }

    fn refused(errno: Errno) -> u32 {
        ERRNO | errno as u32
    }

    #[test]
    fn i_09_foreign_architectures_and_x32_are_killed() {
        let program = compile("default").expect("the shipped profile");
        assert_eq!(run(&program, 0x4000_0003, 1, [0; 6]).0, KILL_PROCESS);
        assert_eq!(run(&program, ARCHITECTURE, X32 | 1, [0; 6]).0, KILL_PROCESS);
    }

    #[test]
    fn i_10_unknown_is_enosys_dangerous_is_eperm() {
        assert_eq!(verdict(9999, [0; 6]), refused(Errno::ENOSYS));
        assert_eq!(verdict(libc::SYS_clone3, [0; 6]), refused(Errno::ENOSYS));
        for dangerous in [libc::SYS_bpf, libc::SYS_mount, libc::SYS_ptrace, libc::SYS_io_uring_setup] {
            assert_eq!(verdict(dangerous, [0; 6]), refused(Errno::EPERM));
        }
        for plain in [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_futex] {
            assert_eq!(verdict(plain, [0; 6]), ALLOW);
        }
    }

    #[test]
    fn i_08_socket_admits_four_families_and_no_raw_type() {
        for family in 0..46 {
            let expected = matches!(family, 1 | 2 | 10 | 16);
            assert_eq!(
                verdict(libc::SYS_socket, [family, 1, 0, 0, 0, 0]) == ALLOW,
                expected,
                "family {family}"
            );
        }
        assert_ne!(verdict(libc::SYS_socket, [16, 3, 9, 0, 0, 0]), ALLOW, "netlink beyond routes");
        assert_ne!(verdict(libc::SYS_socket, [2, 3 | 0x80000, 1, 0, 0, 0]), ALLOW, "raw");
    }

    #[test]
    fn i_14_terminal_injection_is_compared_on_the_low_half() {
        for request in [0x5412, 0x1_0000_5412, 0x541c, 0x5423] {
            assert_eq!(verdict(libc::SYS_ioctl, [0, request, 0, 0, 0, 0]), refused(Errno::EPERM));
        }
        assert_eq!(verdict(libc::SYS_ioctl, [0, 0x5401, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn i_15_clone_and_unshare_make_no_namespace() {
        let thread = 0x003d_0f00;
        assert_eq!(verdict(libc::SYS_clone, [thread, 0, 0, 0, 0, 0]), ALLOW);
        for namespace in
            [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
        {
            assert_eq!(verdict(libc::SYS_clone, [namespace | 17, 0, 0, 0, 0, 0]), refused(Errno::EPERM));
            assert_eq!(verdict(libc::SYS_unshare, [namespace, 0, 0, 0, 0, 0]), refused(Errno::EPERM));
        }
        assert_eq!(verdict(libc::SYS_unshare, [0x400, 0, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn i_13_only_the_debug_profile_traces_and_it_opens_nothing_else() {
        let all = 0..512;
        let changed: Vec<libc::c_long> = all
            .filter(|number| under("debug", *number, [0; 6]) != under("default", *number, [0; 6]))
            .collect();
        let mut expected =
            vec![libc::SYS_ptrace, libc::SYS_kcmp, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev];
        expected.sort_unstable();
        assert_eq!(changed, expected);
        assert_eq!(under("debug", libc::SYS_ptrace, [0; 6]), ALLOW);
        for profile in ["default", "strict"] {
            assert_eq!(under(profile, libc::SYS_ptrace, [0; 6]), refused(Errno::EPERM), "{profile}");
        }
    }

    #[test]
    fn i_08_strict_allows_nothing_that_default_refuses() {
        for number in 0..512 {
            for first in [0, 1, 2, 10, 16, 0x20000, 0xffff_ffff] {
                let arguments = [first, 1, 0, 0, 0, 0];
                let (strict, default) =
                    (under("strict", number, arguments), under("default", number, arguments));
                assert!(strict != ALLOW || default == ALLOW, "call {number} with {first:#x}");
            }
        }
        assert_eq!(under("strict", libc::SYS_socket, [16, 3, 0, 0, 0, 0]), refused(Errno::EAFNOSUPPORT));
        assert_eq!(under("strict", libc::SYS_shmget, [0; 6]), refused(Errno::ENOSYS));
        assert_eq!(under("strict", libc::SYS_openat, [0; 6]), ALLOW);
    }

    #[test]
    fn the_longest_path_is_that_of_a_tree_not_of_a_list() {
        let program = compile("default").expect("the shipped profile");
        let longest =
            (0..500).map(|number| run(&program, ARCHITECTURE, number, [0; 6]).1).max().expect("some");
        assert!(longest <= 32, "{longest} instructions of {}", program.len());
    }
}
