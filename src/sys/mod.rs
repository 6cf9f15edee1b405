//! Everything that needs `unsafe` or a raw system call, each with why it is needed and why it holds.
#![expect(unsafe_code, reason = "raw system calls live here and nowhere else")]

pub mod landlock;
pub mod mount;
pub mod net;
pub mod process;
pub mod seccomp;
pub mod terminal;

use std::io;

/// Turns the C convention (-1 and `errno`) into a result.
fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
