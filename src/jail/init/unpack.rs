//! Unpacking an archive with the rights of a command, below one directory and never through a link.
//!
//! Links are made as the archive has them, wherever they point; no later member is written, linked or changed through
//! one, because every step below the directory is opened with `RESOLVE_NO_SYMLINKS`. A file is a new one each time: it
//! takes the name of what was there, and the old object stays as it was for whoever else has it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, geteuid, linkat, symlinkat, unlinkat};

use super::super::archive::{Transfer, Unpack};
use super::super::root;
use super::super::wire::{Failure, Outcome};
use super::files::Answer;
use super::members::{Archive, Kind, Member};
use super::process::{failure, from_io};
use super::walk;

/// Deepest member, in steps below the directory.
const DEPTH: usize = 128;
/// Longest name of a step, and longest path, in bytes: the kernel's.
const LONGEST: (usize, usize) = (255, 4095);
const CHUNK: usize = 64 * 1024;

pub(super) fn unpack(order: &Unpack, files: Vec<OwnedFd>) -> Answer {
    let Ok([pipe]) = <[OwnedFd; 1]>::try_from(files) else { return Err(failure("import", Errno::EBADF)) };
    let mut unpacking = Unpacking {
        root: directory(order)?,
        archive: Archive::new(BufReader::with_capacity(CHUNK, File::from(pipe))),
        order,
        done: Transfer::default(),
        directories: Vec::new(),
        parent: None,
    };
    let ended = unpacking.go();
    let done = unpacking.done;
    let done = match ended {
        Ok(()) => done,
        Err((path, failure)) => done.fail(&path, failure),
    };
    Ok((Outcome::Transferred(Box::new(done)), Vec::new()))
}

fn directory(order: &Unpack) -> Result<OwnedFd, Failure> {
    let found = walk::find(&order.target, order.parents)?;
    let fail = |errno| failure("import", errno);
    if found.object.is_none() {
        if !order.parents {
            return Err(fail(Errno::ENOENT));
        }
        mkdirat(&found.directory, found.name.as_os_str(), Mode::from_bits_truncate(0o755)).map_err(fail)?;
    }
    let name = if found.object.is_some() { OsStr::new(".") } else { found.name.as_os_str() };
    below(&found.object.unwrap_or(found.directory), name, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(fail)
}

/// Opens something below a directory, through no link.
fn below(directory: &OwnedFd, path: &OsStr, flags: OFlag) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    openat2(directory, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
}

/// The steps of a member's name.
fn steps(path: &[u8]) -> Result<Vec<&OsStr>, Failure> {
    if path.starts_with(b"/") {
        return Err(failure("absolute name", Errno::EXDEV));
    }
    if path.contains(&0) || path.len() > LONGEST.1 {
        return Err(failure("name of a member", Errno::ENAMETOOLONG));
    }
    let mut steps = Vec::new();
    for step in path.split(|byte| *byte == b'/').filter(|step| !matches!(*step, b"" | b".")) {
        match step {
            b".." => return Err(failure("name that leads up", Errno::EXDEV)),
            _ if step.len() > LONGEST.0 => return Err(failure("name of a member", Errno::ENAMETOOLONG)),
            _ => steps.push(OsStr::from_bytes(step)),
        }
    }
    if steps.len() > DEPTH { Err(failure("member too deep", Errno::ENAMETOOLONG)) } else { Ok(steps) }
}

struct Unpacking<'a> {
    root: OwnedFd,
    archive: Archive<BufReader<File>>,
    order: &'a Unpack,
    done: Transfer,
    /// Their attributes come last: what follows changes their times, and may not be allowed by their modes.
    directories: Vec<(PathBuf, u32, (i64, i64))>,
    /// The directory of the last member; the next one is mostly there too.
    parent: Option<(PathBuf, OwnedFd)>,
}

type Broken = (Vec<u8>, Failure);

impl Unpacking<'_> {
    fn go(&mut self) -> Result<(), Broken> {
        let mut seen = 0;
        while let Some(member) = self.archive.next().map_err(|failure| (Vec::new(), failure))? {
            seen += 1;
            let made = self.admit(seen, &member).and_then(|()| self.member(&member));
            made.map_err(|failure| (member.path, failure))?;
        }
        while let Some((path, mode, modified)) = self.directories.pop() {
            let set = below(&self.root, path.as_os_str(), OFlag::O_RDONLY | OFlag::O_DIRECTORY);
            let set = set.and_then(|handle| attributes(&handle, mode, modified));
            set.map_err(|errno| {
                (path.as_os_str().as_bytes().to_vec(), failure("attributes of a directory", errno))
            })?;
        }
        Ok(())
    }

    fn admit(&mut self, seen: u64, member: &Member) -> Result<(), Failure> {
        if seen > self.order.entries {
            return Err(failure("too many members", Errno::E2BIG));
        }
        let room = self.order.bytes.saturating_sub(self.done.bytes);
        if member.size > room {
            return Err(failure("too many bytes", Errno::EFBIG));
        }
        let own = u64::from(geteuid().as_raw());
        self.done.owners += u64::from(member.owner.0 != own || member.owner.1 != own);
        self.done.set_ids += u64::from(member.mode & 0o7000 != 0);
        Ok(())
    }

    fn member(&mut self, member: &Member) -> Result<(), Failure> {
        let steps = steps(&member.path)?;
        if let Kind::None(why) = member.kind {
            self.done.leave_out(&member.path, why);
            return Ok(());
        }
        let Some((name, above)) = steps.split_last() else {
            // The directory itself: its attributes stay.
            let itself = member.kind == Kind::Directory;
            return if itself { Ok(()) } else { Err(failure("member without a name", Errno::EINVAL)) };
        };
        let parent = self.parent(above)?;
        match &member.kind {
            Kind::File => self.file(&parent, name, member)?,
            Kind::Directory => {
                make(&parent, name, 0o700).map_err(|errno| failure("make a directory", errno))?;
                self.directories.push((steps.iter().collect(), member.mode & 0o777, member.modified));
            }
            Kind::Symlink(target) => symlink(&parent, name, target, member.modified)?,
            Kind::HardLink(target) => self.hard_link(&parent, name, target)?,
            Kind::None(_) => {}
        }
        self.parent = Some((above.iter().collect(), parent));
        self.done.entries += 1;
        Ok(())
    }

    /// The directory of these steps; missing ones are made.
    fn parent(&mut self, above: &[&OsStr]) -> Result<OwnedFd, Failure> {
        let path: PathBuf = above.iter().collect();
        if let Some((known, handle)) = self.parent.take()
            && known == path
        {
            return Ok(handle);
        }
        let clone = self.root.as_fd().try_clone_to_owned();
        let mut here = clone.map_err(|error| from_io("open a directory", &error))?;
        for step in above {
            here = make(&here, step, 0o755).map_err(|errno| failure("open a directory", errno))?;
        }
        Ok(here)
    }

    /// It has no name until it is complete.
    fn file(&mut self, parent: &OwnedFd, name: &OsStr, member: &Member) -> Result<(), Failure> {
        let fail = |errno| failure("create", errno);
        let how = OpenHow::new()
            .flags(OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC)
            .mode(Mode::from_bits_truncate(0o600));
        let mut file = File::from(openat2(parent, ".", how).map_err(fail)?);
        let mut buffer = [0; CHUNK];
        loop {
            let length = self.archive.read(&mut buffer)?;
            let data = &buffer[..length];
            let written = match length {
                0 => break,
                // Zeros need no disk: holes stay holes.
                CHUNK if data.iter().all(|byte| *byte == 0) => {
                    file.seek(SeekFrom::Current(CHUNK as i64)).map(drop)
                }
                _ => file.write_all(data),
            };
            written.map_err(|error| from_io("write", &error))?;
        }
        file.set_len(member.size).map_err(|error| from_io("write", &error))?;
        let file = OwnedFd::from(file);
        attributes(&file, member.mode & 0o777, member.modified).map_err(fail)?;
        let own = format!("/proc/self/fd/{}", root::number(&file));
        place(parent, name, |name| linkat(AT_FDCWD, own.as_str(), parent, name, AtFlags::AT_SYMLINK_FOLLOW))
            .map_err(fail)?;
        self.done.bytes += member.size;
        Ok(())
    }

    /// Only to something below the directory, by the same rules as for names.
    fn hard_link(&self, parent: &OwnedFd, name: &OsStr, target: &[u8]) -> Result<(), Failure> {
        let fail = |errno| failure("hard link", errno);
        let steps = steps(target)?;
        let (old, above) = steps.split_last().ok_or_else(|| fail(Errno::EINVAL))?;
        let above: PathBuf = std::iter::once(&OsStr::new(".")).chain(above).collect();
        let from = below(&self.root, above.as_os_str(), OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(fail)?;
        place(parent, name, |name| linkat(&from, *old, parent, name, AtFlags::empty())).map_err(fail)
    }
}

/// A directory of this name, there or made.
fn make(parent: &OwnedFd, name: &OsStr, mode: u32) -> Result<OwnedFd, Errno> {
    match mkdirat(parent, name, Mode::from_bits_truncate(mode)) {
        Ok(()) | Err(Errno::EEXIST) => below(parent, name, OFlag::O_PATH | OFlag::O_DIRECTORY),
        Err(errno) => Err(errno),
    }
}

fn symlink(parent: &OwnedFd, name: &OsStr, target: &[u8], modified: (i64, i64)) -> Result<(), Failure> {
    let fail = |errno| failure("symbolic link", errno);
    if target.is_empty() || target.len() > LONGEST.1 || target.contains(&0) {
        return Err(fail(Errno::EINVAL));
    }
    place(parent, name, |name| symlinkat(OsStr::from_bytes(target), parent, name)).map_err(fail)?;
    let time = time(modified);
    utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink).map_err(fail)
}

/// Gives a new object its name, replacing at once what had it, unless that is a directory.
fn place(parent: &OwnedFd, name: &OsStr, link: impl Fn(&OsStr) -> Result<(), Errno>) -> Result<(), Errno> {
    match link(name) {
        Err(Errno::EEXIST) => {}
        other => return other,
    }
    let spare = format!(".hands-{}", crate::id::Id::fresh("import"));
    link(OsStr::new(&spare))?;
    let renamed = renameat(parent, spare.as_str(), parent, name);
    // It failed, or both were names of one file, which renaming leaves alone.
    match unlinkat(parent, spare.as_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => renamed,
        Err(errno) => renamed.and(Err(errno)),
    }
}

fn attributes(handle: &OwnedFd, mode: u32, modified: (i64, i64)) -> Result<(), Errno> {
    fchmod(handle, Mode::from_bits_truncate(mode))?;
    let time = time(modified);
    futimens(handle, &time, &time)
}

fn time((seconds, nanoseconds): (i64, i64)) -> TimeSpec {
    TimeSpec::new(seconds, nanoseconds)
}
