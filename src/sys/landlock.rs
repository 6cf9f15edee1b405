//! Landlock (Linux 5.13): a second lock on what the mount and user namespaces already forbid.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::checked;

/// `struct landlock_ruleset_attr` of ABI 6.
#[repr(C)]
#[derive(Default)]
struct Ruleset {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`, which is packed.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
const ACCESS_FS_MAKE_CHAR: u64 = 1 << 6;
const ACCESS_FS_MAKE_BLOCK: u64 = 1 << 11;
const ACCESS_FS_REFER: u64 = 1 << 13;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;

/// The highest ABI that the kernel offers; 0 if it has no Landlock or it is switched off.
#[must_use]
pub fn abi() -> u32 {
    let none = std::ptr::null::<Ruleset>();
    // SAFETY: with this flag the kernel reads no structure.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, CREATE_RULESET_VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// Forbids this process and its descendants to make device nodes, to change mounts, and, where the kernel knows how
/// (ABI 6), to signal or reach by abstract sockets anything outside. Returns the ABI in force, 0 for none.
///
/// # Errors
/// What the kernel says; a kernel without Landlock is no error.
pub fn restrict() -> io::Result<u32> {
    let abi = abi();
    if abi == 0 {
        return Ok(0);
    }
    let refer = if abi >= 2 { ACCESS_FS_REFER } else { 0 };
    let scoped = if abi >= 6 { SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL } else { 0 };
    let wanted = Ruleset {
        handled_access_fs: ACCESS_FS_MAKE_CHAR | ACCESS_FS_MAKE_BLOCK | refer,
        handled_access_net: 0,
        scoped,
    };
    // Older kernels know a shorter structure and refuse a longer one only if the rest is not zero.
    let size = if abi >= 6 { size_of::<Ruleset>() } else { size_of::<u64>() };
    // SAFETY: `wanted` is readable for `size` bytes.
    let ruleset =
        checked(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const wanted, size, 0_u32) })?;
    // SAFETY: on success the result is a fresh descriptor.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset as RawFd) };
    if refer != 0 {
        allow_beneath_root(&ruleset, refer)?;
    }
    // SAFETY: integers only.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) })?;
    Ok(abi)
}

/// Renames and links between directories are denied by any ruleset unless it allows them.
fn allow_beneath_root(ruleset: &OwnedFd, access: u64) -> io::Result<()> {
    let root = std::fs::File::open("/")?;
    let rule = PathBeneath { allowed_access: access, parent_fd: root.as_raw_fd() };
    // SAFETY: `rule` is a packed structure of the kernel's layout and lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0_u32,
        )
    };
    checked(result).map(drop)
}
