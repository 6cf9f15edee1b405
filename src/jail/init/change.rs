//! Changes of the tree: removing, renaming, making directories, setting attributes. A link at the end of a path is
//! the object of a removal or a renaming, never what it points to.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, renameat2};
use nix::sys::stat::{FileStat, Mode, UtimensatFlags, fchmodat, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::super::wire::{Failure, Outcome, Target};
use super::files::{Answer, facts, kind, text};
use super::process::failure;
use super::walk;

/// Deepest tree that is removed in one call: each level holds a descriptor.
const DEPTH: usize = 512;

/// The directory of a path and the last name, which is not followed.
fn parent(path: &[u8]) -> Result<(OwnedFd, OsString), Failure> {
    let path = text(path)?;
    let name = path.file_name().ok_or_else(|| failure("resolve", Errno::EBUSY))?;
    let above = path.parent().ok_or_else(|| failure("resolve", Errno::EBUSY))?;
    let found = walk::find(&Target::from(above.as_os_str().as_bytes()), false)?;
    let directory = found.object.ok_or_else(|| failure("resolve", Errno::ENOENT))?;
    Ok((directory, name.to_owned()))
}

fn look(directory: impl AsFd, name: &OsStr) -> Result<FileStat, Errno> {
    fstatat(directory.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

pub(super) fn remove(path: &[u8], recursive: bool) -> Answer {
    let fail = |errno| failure("remove", errno);
    let (directory, name) = parent(path)?;
    let found = look(&directory, &name).map_err(fail)?;
    if recursive && kind(&found) == libc::S_IFDIR {
        clear(directory.as_fd(), &name, found.st_dev, DEPTH).map_err(fail)?;
    }
    let how =
        if kind(&found) == libc::S_IFDIR { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
    unlinkat(&directory, name.as_os_str(), how).map_err(fail)?;
    Ok((Outcome::Done, Vec::new()))
}

/// Removes what a directory holds, never across a mount and never through a link.
fn clear(above: BorrowedFd<'_>, name: &OsStr, device: u64, depth: usize) -> Result<(), Errno> {
    let left = depth.checked_sub(1).ok_or(Errno::ENAMETOOLONG)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut directory = Dir::openat(above, name, flags, Mode::empty())?;
    let handle = directory.as_fd().try_clone_to_owned().map_err(|_error| Errno::EMFILE)?;
    for entry in directory.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let found = look(&handle, name)?;
        if found.st_dev != device {
            return Err(Errno::EXDEV);
        }
        if kind(&found) == libc::S_IFDIR {
            clear(handle.as_fd(), name, device, left)?;
            unlinkat(&handle, name, UnlinkatFlags::RemoveDir)?;
        } else {
            unlinkat(&handle, name, UnlinkatFlags::NoRemoveDir)?;
        }
    }
    Ok(())
}

pub(super) fn rename(from: &[u8], to: &[u8], replace: bool) -> Answer {
    let ((from, old), (to, new)) = (parent(from)?, parent(to)?);
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
    renameat2(&from, old.as_os_str(), &to, new.as_os_str(), flags).map_err(|errno| failure("move", errno))?;
    let found = look(&to, &new).map_err(|errno| failure("move", errno))?;
    Ok((Outcome::Facts(facts(&found, None)), Vec::new()))
}

pub(super) fn make_directory(path: &[u8], mode: u32, parents: bool) -> Answer {
    let fail = |errno| failure("make a directory", errno);
    let found = walk::find(&Target::from(path), parents)?;
    match found.facts()? {
        Some(there) if parents && kind(&there) == libc::S_IFDIR => {
            return Ok((Outcome::Facts(facts(&there, None)), Vec::new()));
        }
        Some(_) => return Err(fail(Errno::EEXIST)),
        None => {}
    }
    let mode = Mode::from_bits_truncate(mode & 0o777);
    mkdirat(&found.directory, found.name.as_os_str(), mode).map_err(fail)?;
    let made = look(&found.directory, &found.name).map_err(fail)?;
    Ok((Outcome::Facts(facts(&made, None)), Vec::new()))
}

pub(super) fn set_attributes(path: &[u8], mode: Option<u32>, modified_ns: Option<i64>) -> Answer {
    let found = walk::find(&Target::from(path), false)?;
    let before = found.facts()?.ok_or_else(|| failure("set attributes", Errno::ENOENT))?;
    let (directory, name) = (&found.directory, found.name.as_os_str());
    if !matches!(kind(&before), libc::S_IFREG | libc::S_IFDIR) {
        return Err(failure("set attributes", Errno::ENODEV));
    }
    if let Some(mode) = mode {
        let mode = Mode::from_bits_truncate(mode & 0o777);
        fchmodat(directory, name, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
            .map_err(|errno| failure("chmod", errno))?;
    }
    if let Some(modified) = modified_ns {
        let modified = Duration::from_nanos(u64::try_from(modified).unwrap_or(0));
        let (keep, modified) = (TimeSpec::UTIME_OMIT, TimeSpec::from_duration(modified));
        utimensat(directory, name, &keep, &modified, UtimensatFlags::NoFollowSymlink)
            .map_err(|errno| failure("set the time", errno))?;
    }
    let after = look(directory, name).map_err(|errno| failure("stat", errno))?;
    Ok((Outcome::Facts(facts(&after, None)), Vec::new()))
}
