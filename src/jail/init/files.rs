//! File calls, each in a helper process that has exactly the rights of a command.
//!
//! The helper is a fork of init under the agent's uid. It opens, and passes the descriptor out; the daemon never
//! resolves a path of the sandbox. Nothing of procfs is opened here: the helper's own entries there would be init's.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat, umask};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{linkat, pipe2};

use super::super::plan::AGENT;
use super::super::wire::{Facts, Failure, FileOrder, FromInit, Listing, Outcome};
use super::super::{lockdown, root};
use super::process::{failure, from_io};
use super::{HELPERS, Init};
use crate::sys::process::{Forked, close_all_but, exit_now, fork};

type Answer = Result<(Outcome, Option<OwnedFd>), Failure>;

impl Init {
    /// Forks a helper, which answers by itself.
    pub(super) fn help(&mut self, id: u64, order: FileOrder, files: Vec<OwnedFd>) -> Result<(), Failure> {
        if self.helpers.len() >= HELPERS {
            return Err(failure("start a file helper", Errno::EAGAIN));
        }
        match fork().map_err(|error| from_io("fork", &error))? {
            Forked::Parent(pid) => {
                self.helpers.push(pid);
                Ok(())
            }
            Forked::Child => {
                let code = match self.become_helper(&files) {
                    Ok(()) => self.answer_file(id, order, files),
                    Err(_failure) => 1,
                };
                exit_now(code)
            }
        }
    }

    /// Keeps nothing of init's but the link: no pipe of a command stays open because a helper lives.
    fn become_helper(&self, files: &[OwnedFd]) -> std::io::Result<()> {
        let mut kept: Vec<_> = files.iter().map(root::number).collect();
        kept.extend([0, 1, 2, root::number(self.link.socket())]);
        kept.sort_unstable();
        close_all_but(&kept)?;
        Ok(lockdown::command(AGENT, self.context.rootless)?)
    }

    fn answer_file(&self, id: u64, order: FileOrder, files: Vec<OwnedFd>) -> i32 {
        umask(Mode::from_bits_truncate(0o022));
        if let FileOrder::List { path } = order {
            return self.answer_list(id, &path);
        }
        let answer = match order {
            FileOrder::Open { path } => open_regular(&path),
            FileOrder::Create { path, mode, parents } => create(&path, mode, parents),
            FileOrder::Commit { path } => commit(&path, files),
            FileOrder::Stat { path, follow } => stat(&path, follow),
            FileOrder::List { .. } => Err(failure("list", Errno::EINVAL)),
        };
        let (result, file) = match answer {
            Ok((outcome, file)) => (Ok(outcome), file),
            Err(failure) => (Err(failure), None),
        };
        let file: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        i32::from(self.link.send(&FromInit::Answer { id, result }, &file).is_err())
    }

    /// The answer goes out first; entries follow in a pipe, so that a directory of any size needs no memory here.
    fn answer_list(&self, id: u64, path: &[u8]) -> i32 {
        let opened = open_directory(path).and_then(|found| {
            let pipe = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failure("make a pipe", errno))?;
            Ok((found, pipe))
        });
        let sent = match &opened {
            Ok(((_, facts), (read, _))) => {
                let result = Ok(Outcome::Facts(facts.clone()));
                self.link.send(&FromInit::Answer { id, result }, &[read.as_fd()])
            }
            Err(failure) => self.link.send(&FromInit::Answer { id, result: Err(failure.clone()) }, &[]),
        };
        let Ok(((directory, _), (read, write))) = opened else { return 0 };
        drop(read);
        let mut out = File::from(write);
        i32::from(sent.is_err() || tell_entries(directory, &mut out).is_err())
    }
}

fn text(path: &[u8]) -> Result<&Path, Failure> {
    let path = Path::new(OsStr::from_bytes(path));
    if path.is_absolute() { Ok(path) } else { Err(failure("resolve", Errno::EINVAL)) }
}

fn open(path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    // openat2(2) refuses with O_PATH what it would ignore.
    let terminal = if flags.contains(OFlag::O_PATH) { OFlag::empty() } else { OFlag::O_NOCTTY };
    let how =
        OpenHow::new().flags(flags | OFlag::O_CLOEXEC | terminal).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = openat2(AT_FDCWD, path, how)?;
    if fstatfs(&file)?.filesystem_type() == PROC_SUPER_MAGIC {
        return Err(Errno::EACCES);
    }
    Ok(file)
}

fn open_regular(path: &[u8]) -> Answer {
    let path = text(path)?;
    // Looked at before it is opened: opening a FIFO or a device can wait or have effects.
    let handle = open(path, OFlag::O_PATH).map_err(|errno| failure("open", errno))?;
    match kind(&fstat(&handle).map_err(|errno| failure("stat", errno))?) {
        libc::S_IFREG => {}
        libc::S_IFDIR => return Err(failure("open", Errno::EISDIR)),
        _ => return Err(failure("open", Errno::ENODEV)),
    }
    let file = open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).map_err(|errno| failure("open", errno))?;
    let found = fstat(&file).map_err(|errno| failure("stat", errno))?;
    if kind(&found) != libc::S_IFREG {
        return Err(failure("open", Errno::ENODEV));
    }
    Ok((Outcome::Facts(facts(&found, None)), Some(file)))
}

/// The path that will be replaced: where a link at its end points, if that exists.
fn resolved(path: &[u8]) -> Result<(PathBuf, PathBuf), Failure> {
    let path = text(path)?;
    let real = std::fs::canonicalize(path).unwrap_or_else(|_missing| path.to_path_buf());
    let parent = real.parent().map(Path::to_path_buf).ok_or_else(|| failure("resolve", Errno::EISDIR))?;
    Ok((real, parent))
}

fn create(path: &[u8], mode: Option<u32>, parents: bool) -> Answer {
    let (real, parent) = resolved(path)?;
    if parents {
        std::fs::create_dir_all(&parent).map_err(|error| from_io("make parents", &error))?;
    }
    let before = fstatat(AT_FDCWD, &real, AtFlags::AT_SYMLINK_NOFOLLOW).ok();
    if before.is_some_and(|found| kind(&found) == libc::S_IFDIR) {
        return Err(failure("create", Errno::EISDIR));
    }
    let directory =
        open(&parent, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(|errno| failure("create", errno))?;
    // setuid, setgid and sticky bits mean nothing good in here.
    let mode = mode.or(before.map(|found| found.st_mode)).unwrap_or(0o644) & 0o777;
    let how = OpenHow::new()
        .flags(OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC)
        .mode(Mode::from_bits_truncate(0o600));
    let file = openat2(&directory, ".", how).map_err(|errno| failure("create", errno))?;
    fchmod(&file, Mode::from_bits_truncate(mode)).map_err(|errno| failure("chmod", errno))?;
    let found = fstat(&file).map_err(|errno| failure("stat", errno))?;
    Ok((Outcome::Facts(facts(&found, None)), Some(file)))
}

/// A nameless file can only get a free name, so it takes two steps; the second one is the atomic one.
fn commit(path: &[u8], files: Vec<OwnedFd>) -> Answer {
    let file = files.into_iter().next().ok_or_else(|| failure("commit", Errno::EBADF))?;
    let (real, parent) = resolved(path)?;
    let name = real.file_name().ok_or_else(|| failure("commit", Errno::EISDIR))?;
    let directory =
        open(&parent, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(|errno| failure("commit", errno))?;
    let own = format!("/proc/self/fd/{}", root::number(&file));
    let spare = format!(".hands-{}", crate::id::Id::fresh("write"));
    linkat(AT_FDCWD, own.as_str(), &directory, spare.as_str(), AtFlags::AT_SYMLINK_FOLLOW)
        .map_err(|errno| failure("commit", errno))?;
    if let Err(errno) = renameat(&directory, spare.as_str(), &directory, name) {
        nix::unistd::unlinkat(&directory, spare.as_str(), nix::unistd::UnlinkatFlags::NoRemoveDir)
            .map_err(|errno| failure("remove the unnamed file", errno))?;
        return Err(failure("commit", errno));
    }
    let found = fstat(&file).map_err(|errno| failure("stat", errno))?;
    Ok((Outcome::Facts(facts(&found, None)), None))
}

fn stat(path: &[u8], follow: bool) -> Answer {
    let flags = if follow { OFlag::O_PATH } else { OFlag::O_PATH | OFlag::O_NOFOLLOW };
    let handle = open(text(path)?, flags).map_err(|errno| failure("stat", errno))?;
    let found = fstat(&handle).map_err(|errno| failure("stat", errno))?;
    let target = if kind(&found) == libc::S_IFLNK { readlinkat(&handle, "").ok() } else { None };
    Ok((Outcome::Facts(facts(&found, target.map(|target| target.as_bytes().to_vec()))), None))
}

fn open_directory(path: &[u8]) -> Result<(Dir, Facts), Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let handle = open(text(path)?, flags).map_err(|errno| failure("list", errno))?;
    let found = fstat(&handle).map_err(|errno| failure("stat", errno))?;
    let directory = Dir::from_fd(handle).map_err(|errno| failure("list", errno))?;
    Ok((directory, facts(&found, None)))
}

fn tell_entries(mut directory: Dir, out: &mut File) -> std::io::Result<()> {
    let handle = directory.as_fd().try_clone_to_owned()?;
    let mut out = std::io::BufWriter::new(out);
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // Gone since it was read: not an entry any more.
        let Ok(found) = fstatat(&handle, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        let target = if kind(&found) == libc::S_IFLNK { readlinkat(&handle, name).ok() } else { None };
        let facts = facts(&found, target.map(|target| target.as_bytes().to_vec()));
        tell(&mut out, &Listing::Entry(name.to_bytes().to_vec(), facts))?;
    }
    tell(&mut out, &Listing::End)?;
    out.flush()
}

fn tell(out: &mut impl Write, listing: &Listing) -> std::io::Result<()> {
    let bytes = postcard::to_stdvec(listing).map_err(std::io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&bytes)
}

fn kind(stat: &FileStat) -> u32 {
    stat.st_mode & libc::S_IFMT
}

fn facts(stat: &FileStat, link_target: Option<Vec<u8>>) -> Facts {
    Facts {
        mode: stat.st_mode,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified_ns: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec),
        link_target,
    }
}
