//! Following a path step by step, so that what was checked is what is operated on.
//!
//! Each step opens one name in the directory before it, never through a link; links are read and their steps taken
//! instead. The directories behind us are held open, so a rename elsewhere can't move `..` under our feet.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::super::wire::{Failure, Target};
use super::files::{kind, text};
use super::process::failure;

/// Links followed on one path, as the kernel has it.
const LINKS: usize = 40;

/// Where a path leads.
pub(super) struct Found {
    /// The directory that has, or would have, the object.
    pub(super) directory: OwnedFd,
    /// Its name there.
    pub(super) name: OsString,
    /// The object itself (`O_PATH`), if it exists; never a link.
    pub(super) object: Option<OwnedFd>,
    /// Its path without links.
    pub(super) path: PathBuf,
}

impl Found {
    pub(super) fn facts(&self) -> Result<Option<FileStat>, Failure> {
        self.object.as_ref().map(fstat).transpose().map_err(|errno| failure("stat", errno))
    }
}

/// Follows every link of a path, a dangling last one too. Missing directories are made if `parents`, but never
/// outside the target's roots.
pub(super) fn find(target: &Target, parents: bool) -> Result<Found, Failure> {
    let mut walk = Walk { trail: Vec::new(), ahead: Vec::new(), links: LINKS, target, parents };
    walk.follow(text(&target.path)?)?;
    let found = walk.go()?;
    if target.roots.is_empty() || within(&found.path, &target.roots) {
        return Ok(found);
    }
    Err(failure("resolve", Errno::EXDEV))
}

fn within(path: &Path, roots: &[Vec<u8>]) -> bool {
    roots.iter().any(|root| path.starts_with(OsStr::from_bytes(root)))
}

struct Walk<'a> {
    /// From the root to where we stand: names and handles.
    trail: Vec<(OsString, OwnedFd)>,
    /// Names to follow, the next one last.
    ahead: Vec<OsString>,
    links: usize,
    target: &'a Target,
    parents: bool,
}

impl Walk<'_> {
    /// Puts the steps of `path` before all others.
    fn follow(&mut self, path: &Path) -> Result<(), Failure> {
        if path.is_absolute() {
            let handle = handle(None, OsStr::new("/")).map_err(|errno| failure("resolve", errno))?;
            self.trail = vec![(OsString::from("/"), handle)];
        }
        for step in path.components().rev() {
            match step {
                Component::Normal(name) => self.ahead.push(name.to_owned()),
                Component::ParentDir => self.ahead.push("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.trail.iter().map(|(name, _)| name).collect()
    }

    fn go(mut self) -> Result<Found, Failure> {
        let fail = |errno| failure("resolve", errno);
        while let Some(name) = self.ahead.pop() {
            if name == ".." {
                if self.trail.len() > 1 {
                    drop(self.trail.pop());
                }
                continue;
            }
            let here = self.trail.last().map(|(_, handle)| handle);
            let opened = match handle(here, &name) {
                Err(Errno::ENOENT) if self.ahead.is_empty() => None,
                Err(Errno::ENOENT) if self.parents => Some(self.make(&name)?),
                other => Some(other.map_err(fail)?),
            };
            let Some(opened) = opened else {
                let path = self.path().join(&name);
                let (_, directory) = self.trail.pop().ok_or_else(|| fail(Errno::ENOENT))?;
                return Ok(Found { directory, name, object: None, path });
            };
            if kind(&fstat(&opened).map_err(fail)?) == libc::S_IFLNK {
                self.links = self.links.checked_sub(1).ok_or_else(|| fail(Errno::ELOOP))?;
                let target = readlinkat(&opened, "").map_err(fail)?;
                self.follow(Path::new(&target))?;
            } else {
                self.trail.push((name, opened));
            }
        }
        self.arrived()
    }

    fn arrived(mut self) -> Result<Found, Failure> {
        let fail = |errno| failure("resolve", errno);
        let path = self.path();
        let (name, object) = self.trail.pop().ok_or_else(|| fail(Errno::ENOENT))?;
        let (directory, name) = match self.trail.pop() {
            Some((_, directory)) => (directory, name),
            None => (object.try_clone().map_err(|_error| fail(Errno::EMFILE))?, ".".into()),
        };
        Ok(Found { directory, name, object: Some(object), path })
    }

    fn make(&self, name: &OsStr) -> Result<OwnedFd, Failure> {
        let fail = |errno| failure("make parents", errno);
        if !self.target.roots.is_empty() && !within(&self.path(), &self.target.roots) {
            return Err(fail(Errno::EXDEV));
        }
        let (_, here) = self.trail.last().ok_or_else(|| fail(Errno::ENOENT))?;
        match mkdirat(here, name, Mode::from_bits_truncate(0o755)) {
            // Made by somebody else meanwhile.
            Ok(()) | Err(Errno::EEXIST) => handle(Some(here), name).map_err(fail),
            Err(errno) => Err(fail(errno)),
        }
    }
}

/// One name, not followed. Nothing of procfs: the helper's own entries there would be init's.
fn handle(directory: Option<&OwnedFd>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = match directory {
        Some(directory) => openat2(directory, name, how)?,
        None => openat2(AT_FDCWD, name, how)?,
    };
    if fstatfs(&opened)?.filesystem_type() == PROC_SUPER_MAGIC {
        return Err(Errno::EACCES);
    }
    Ok(opened)
}
