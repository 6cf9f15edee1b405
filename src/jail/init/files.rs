//! File calls, each in a helper process that has exactly the rights of a command.
//!
//! The helper is a fork of init under the agent's uid. It opens, and passes the descriptor out; the daemon never
//! resolves a path of the sandbox. Nothing of procfs is opened here: the helper's own entries there would be init's.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat, umask};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{linkat, pipe2};

use super::super::plan::AGENT;
use super::super::wire::{Facts, Failure, FileOrder, FromInit, Listing, Outcome, Target, Version};
use super::super::{lockdown, root};
use super::process::{failure, from_io};
use super::{HELPERS, Init, TRANSFERS, change, search, unpack, walk};
use crate::sys::process::{Forked, close_all_but, exit_now, fork};

pub(super) type Answer = Result<(Outcome, Vec<OwnedFd>), Failure>;

impl Init {
    /// Forks a helper, which answers by itself.
    pub(super) fn help(&mut self, id: u64, order: FileOrder, files: Vec<OwnedFd>) -> Result<(), Failure> {
        let transfer = matches!(order, FileOrder::Import(_) | FileOrder::Export(_));
        let (running, most) = if transfer { (&self.transfers, TRANSFERS) } else { (&self.helpers, HELPERS) };
        if running.len() >= most {
            return Err(failure("start a file helper", Errno::EAGAIN));
        }
        match fork().map_err(|error| from_io("fork", &error))? {
            Forked::Parent(pid) => {
                if transfer { &mut self.transfers } else { &mut self.helpers }.push((pid, id));
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
        let answer = match order {
            FileOrder::Open { target } => open_regular(&target),
            FileOrder::Create { target, mode, parents } => create(&target, mode, parents),
            FileOrder::Commit { name, replacing } => commit(&name, replacing, files),
            FileOrder::Stat { path, follow } => stat(&path, follow),
            FileOrder::List { path } => return self.answer_many(id, list(&path)),
            FileOrder::Glob(search) => return self.answer_many(id, search::glob(&search)),
            FileOrder::Grep(search) => return self.answer_many(id, search::grep(&search)),
            FileOrder::Import(order) => unpack::unpack(&order, files),
            FileOrder::Export(target) => return self.export(id, &target),
            FileOrder::Remove { path, recursive } => change::remove(&path, recursive),
            FileOrder::Move { from, to, replace } => change::rename(&from, &to, replace),
            FileOrder::MakeDirectory { path, mode, parents } => change::make_directory(&path, mode, parents),
            FileOrder::SetAttributes { path, mode, modified_ns } => {
                change::set_attributes(&path, mode, modified_ns)
            }
        };
        let (result, files) = match answer {
            Ok((outcome, files)) => (Ok(outcome), files),
            Err(failure) => (Err(failure), Vec::new()),
        };
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        i32::from(self.link.send(&FromInit::Answer { id, result }, &files).is_err())
    }

    /// The answer goes out first; what was found follows in a pipe, so that any amount of it needs no memory here.
    fn answer_many(&self, id: u64, found: Result<Pieces, Failure>) -> i32 {
        let opened = found.and_then(|found| {
            let pipe = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failure("make a pipe", errno))?;
            Ok((found, pipe))
        });
        let sent = match &opened {
            Ok((found, (read, _))) => {
                let result = Ok(Outcome::Facts(found.of.clone()));
                self.link.send(&FromInit::Answer { id, result }, &[read.as_fd()])
            }
            Err(failure) => self.link.send(&FromInit::Answer { id, result: Err(failure.clone()) }, &[]),
        };
        let Ok((found, (read, write))) = opened else { return 0 };
        drop(read);
        let mut out = Told::new(write);
        let told = (found.tell)(&mut out).and_then(|()| out.end());
        i32::from(sent.is_err() || told.is_err())
    }
}

/// Tells all of it into the pipe.
pub(super) type Teller = Box<dyn FnOnce(&mut Told) -> std::io::Result<()>>;

/// Something of which there may be much: the facts of where it is, and what tells it.
pub(super) struct Pieces {
    pub(super) of: Facts,
    pub(super) tell: Teller,
}

/// The writing side of the pipe.
pub(super) struct Told(std::io::BufWriter<File>);

impl Told {
    pub(super) fn new(pipe: OwnedFd) -> Self {
        Self(std::io::BufWriter::new(File::from(pipe)))
    }

    pub(super) fn end(&mut self) -> std::io::Result<()> {
        self.tell(&Listing::End)?;
        self.0.flush()
    }

    pub(super) fn tell(&mut self, piece: &Listing) -> std::io::Result<()> {
        let bytes = postcard::to_stdvec(piece).map_err(std::io::Error::other)?;
        let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
        self.0.write_all(&length.to_le_bytes())?;
        self.0.write_all(&bytes)
    }
}

pub(super) fn text(path: &[u8]) -> Result<&Path, Failure> {
    let path = Path::new(OsStr::from_bytes(path));
    if path.is_absolute() { Ok(path) } else { Err(failure("resolve", Errno::EINVAL)) }
}

pub(super) fn open(path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
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

fn open_regular(target: &Target) -> Answer {
    let found = walk::find(target, false)?;
    // Looked at before it is opened: opening a FIFO or a device can wait or have effects.
    let handle = found.object.ok_or_else(|| failure("open", Errno::ENOENT))?;
    match kind(&fstat(&handle).map_err(|errno| failure("stat", errno))?) {
        libc::S_IFREG => {}
        libc::S_IFDIR => return Err(failure("open", Errno::EISDIR)),
        _ => return Err(failure("open", Errno::ENODEV)),
    }
    let file = reopen(&handle, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
    let facts = facts(&fstat(&file).map_err(|errno| failure("stat", errno))?, None);
    Ok((Outcome::Facts(facts), vec![file]))
}

/// The very object that a handle means, opened: no path is looked at again.
fn reopen(handle: &OwnedFd, flags: OFlag) -> Result<OwnedFd, Failure> {
    let own = format!("/proc/self/fd/{}", root::number(handle));
    nix::fcntl::open(own.as_str(), flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty())
        .map_err(|errno| failure("open", errno))
}

fn create(target: &Target, mode: Option<u32>, parents: bool) -> Answer {
    let found = walk::find(target, parents)?;
    let before = found.facts()?;
    match before.map(|found| kind(&found)) {
        None | Some(libc::S_IFREG) => {}
        Some(libc::S_IFDIR) => return Err(failure("create", Errno::EISDIR)),
        Some(_) => return Err(failure("create", Errno::ENODEV)),
    }
    // setuid, setgid and sticky bits mean nothing good in here.
    let mode = mode.or(before.map(|found| found.st_mode)).unwrap_or(0o644) & 0o777;
    let how = OpenHow::new()
        .flags(OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC)
        .mode(Mode::from_bits_truncate(0o600));
    let file = openat2(&found.directory, ".", how).map_err(|errno| failure("create", errno))?;
    fchmod(&file, Mode::from_bits_truncate(mode)).map_err(|errno| failure("chmod", errno))?;
    Ok((Outcome::Name(found.name.as_bytes().to_vec()), vec![file, found.directory]))
}

/// A nameless file can only get a free name, so it takes two steps; the second one is the atomic one.
fn commit(name: &[u8], replacing: Option<Version>, files: Vec<OwnedFd>) -> Answer {
    let fail = |errno| failure("commit", errno);
    let Ok([file, directory]) = <[OwnedFd; 2]>::try_from(files) else { return Err(fail(Errno::EBADF)) };
    // The directory that was checked when the file was made, wherever its path leads now.
    let (directory, name) = (&directory, OsStr::from_bytes(name));
    if let Some(expected) = replacing {
        let now = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        if now.ok().map(|now| version(&now)) != Some(expected) {
            return Err(fail(Errno::ESTALE));
        }
    }
    let own = format!("/proc/self/fd/{}", root::number(&file));
    let spare = format!(".hands-{}", crate::id::Id::fresh("write"));
    linkat(AT_FDCWD, own.as_str(), directory, spare.as_str(), AtFlags::AT_SYMLINK_FOLLOW)
        .map_err(|errno| failure("commit", errno))?;
    if let Err(errno) = renameat(directory, spare.as_str(), directory, name) {
        nix::unistd::unlinkat(directory, spare.as_str(), nix::unistd::UnlinkatFlags::NoRemoveDir)
            .map_err(|errno| failure("remove the unnamed file", errno))?;
        return Err(failure("commit", errno));
    }
    let found = fstat(&file).map_err(|errno| failure("stat", errno))?;
    Ok((Outcome::Facts(facts(&found, None)), Vec::new()))
}

fn stat(path: &[u8], follow: bool) -> Answer {
    let flags = if follow { OFlag::O_PATH } else { OFlag::O_PATH | OFlag::O_NOFOLLOW };
    let handle = open(text(path)?, flags).map_err(|errno| failure("stat", errno))?;
    let found = fstat(&handle).map_err(|errno| failure("stat", errno))?;
    let target = if kind(&found) == libc::S_IFLNK { readlinkat(&handle, "").ok() } else { None };
    Ok((Outcome::Facts(facts(&found, target.map(|target| target.as_bytes().to_vec()))), Vec::new()))
}

fn list(path: &[u8]) -> Result<Pieces, Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let handle = open(text(path)?, flags).map_err(|errno| failure("list", errno))?;
    let found = fstat(&handle).map_err(|errno| failure("stat", errno))?;
    let directory = Dir::from_fd(handle).map_err(|errno| failure("list", errno))?;
    Ok(Pieces { of: facts(&found, None), tell: Box::new(|out| tell_entries(directory, out)) })
}

fn tell_entries(mut directory: Dir, out: &mut Told) -> std::io::Result<()> {
    let handle = directory.as_fd().try_clone_to_owned()?;
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
        out.tell(&Listing::Entry(name.to_bytes().to_vec(), facts))?;
    }
    Ok(())
}

pub(super) fn kind(stat: &FileStat) -> u32 {
    stat.st_mode & libc::S_IFMT
}

pub(super) fn facts(stat: &FileStat, link_target: Option<Vec<u8>>) -> Facts {
    Facts {
        mode: stat.st_mode,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified_ns: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec),
        version: version(stat),
        link_target,
    }
}

fn version(stat: &FileStat) -> Version {
    Version {
        inode: stat.st_ino,
        changed_ns: stat.st_ctime.saturating_mul(1_000_000_000).saturating_add(stat.st_ctime_nsec),
        size: u64::try_from(stat.st_size).unwrap_or(0),
    }
}
