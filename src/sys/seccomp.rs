//! Installing a compiled system call filter.

use std::io;

use serde::{Deserialize, Serialize};

use super::checked;

/// One instruction of classic BPF, as the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if the test holds.
    pub jump_true: u8,
    /// Instructions to skip if it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// Puts this process and all its descendants under a filter for good. `no_new_privs` must be set before.
///
/// # Errors
/// `EINVAL` for a malformed program, `EACCES` without `no_new_privs`.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    // `sock_filter` has the layout of `Instruction`: u16, u8, u8, u32.
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `filter` points to `length` instructions, which the kernel only reads, during the call.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    checked(result).map(drop)
}
