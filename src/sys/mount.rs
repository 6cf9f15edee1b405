//! The descriptor-based mount interface (Linux 5.12), which needs no path to stay what it was.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::checked;

const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;

/// Attributes of a mount that can be set after it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Writes fail with `EROFS`.
    pub read_only: bool,
    /// Device nodes can be opened. Only for the handful of harmless ones that a `/dev` needs.
    pub devices: bool,
}

impl Attributes {
    fn bits(self) -> u64 {
        let read_only = if self.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
        let devices = if self.devices { 0 } else { libc::MOUNT_ATTR_NODEV };
        read_only | devices | libc::MOUNT_ATTR_NOSUID
    }
}

/// A detached copy of the mount, with everything mounted below it, at the object that `at` means.
///
/// # Errors
/// `EPERM` without rights over the mount namespace; `EINVAL` for an object of another one.
pub fn clone_tree(at: impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | libc::AT_RECURSIVE as u32
        | libc::AT_EMPTY_PATH as u32;
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor itself.
    let tree =
        checked(unsafe { libc::syscall(libc::SYS_open_tree, at.as_fd().as_raw_fd(), c"".as_ptr(), flags) })?;
    // SAFETY: on success the result is a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(tree as RawFd) })
}

/// Sets attributes on a whole detached tree; with `owner`, file owners are shown through that user namespace's maps.
///
/// # Errors
/// `EINVAL` if the file system cannot be id-mapped, `EPERM`.
pub fn set_attributes(tree: impl AsFd, attributes: Attributes, owner: Option<&OwnedFd>) -> io::Result<()> {
    // SAFETY: plain integers, zero means unchanged.
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    change.attr_set = attributes.bits();
    if let Some(owner) = owner {
        change.attr_set |= libc::MOUNT_ATTR_IDMAP;
        change.userns_fd = owner.as_raw_fd() as u64;
    }
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let tree = tree.as_fd().as_raw_fd();
    let size = size_of::<libc::mount_attr>();
    // SAFETY: `change` lives through the call and `size` is its size.
    let result =
        unsafe { libc::syscall(libc::SYS_mount_setattr, tree, c"".as_ptr(), flags, &raw const change, size) };
    checked(result).map(drop)
}

/// Attaches a detached tree at the object that `target` means.
///
/// # Errors
/// `ENOTDIR` (a directory on a file or the other way round), `EPERM`, `EINVAL` if the target is in another namespace.
pub fn attach(tree: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let (tree, target) = (tree.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let empty = c"".as_ptr();
    // SAFETY: empty paths with these flags name the descriptors themselves.
    let result = unsafe { libc::syscall(libc::SYS_move_mount, tree, empty, target, empty, flags) };
    checked(result).map(drop)
}

/// A new, detached file system of a kind, for example `tmpfs`, with its options.
///
/// # Errors
/// `EPERM` where the namespace may not have one, `EINVAL` for an option that the kernel does not know.
pub fn new_filesystem(
    kind: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: Attributes,
) -> io::Result<OwnedFd> {
    // SAFETY: the name ends in NUL.
    let context =
        checked(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })? as RawFd;
    // SAFETY: on success the result is a fresh descriptor.
    let context = unsafe { OwnedFd::from_raw_fd(context) };
    let configure = |command: u32, key: *const libc::c_char, value: *const libc::c_char| {
        let context = context.as_raw_fd();
        // SAFETY: key and value are null or end in NUL, as each command asks, and outlive the call.
        checked(unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key, value, 0) })
    };
    for (key, value) in options {
        configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?;
    }
    configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
    let context = context.as_raw_fd();
    let flags = attributes.bits();
    // SAFETY: integers only.
    let tree = checked(unsafe { libc::syscall(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, flags) })?;
    // SAFETY: on success the result is a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(tree as RawFd) })
}
