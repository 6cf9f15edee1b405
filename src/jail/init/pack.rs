//! Packing what a path names, with the rights of a command: sorted, links as they are, on one file system.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::pipe2;
use tar::{EntryType, Header};

use super::super::archive::{LeftOut, Transfer};
use super::super::wire::{Failure, FromInit, Listing, Outcome, Target};
use super::Init;
use super::files::{Told, facts, kind};
use super::process::{failure, from_io};
use super::walk::{self, Found};

/// Deepest tree in steps: each level holds a descriptor.
const DEPTH: usize = 128;
/// Longest name in a header without an extended one, in bytes.
const SHORT: usize = 100;

impl Init {
    /// The answer goes out first, with two pipes: the archive, and what came of it when the archive has ended.
    pub(super) fn export(&self, id: u64, target: &Target) -> i32 {
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| failure("make a pipe", errno));
        let opened = begin(target).and_then(|begun| Ok((begun, pipe()?, pipe()?)));
        let ((found, of), (read, write), (report, told)) = match opened {
            Ok(opened) => opened,
            Err(failure) => {
                let answer = FromInit::Answer { id, result: Err(failure) };
                return i32::from(self.link.send(&answer, &[]).is_err());
            }
        };
        let answer = FromInit::Answer { id, result: Ok(Outcome::Facts(facts(&of, None))) };
        let sent = self.link.send(&answer, &[read.as_fd(), report.as_fd()]);
        drop((read, report));
        let done = pack(&found, &of, File::from(write));
        let mut out = Told::new(told);
        let ended = out.tell(&Listing::Transferred(Box::new(done))).and_then(|()| out.end());
        i32::from(sent.is_err() || ended.is_err())
    }
}

fn begin(target: &Target) -> Result<(Found, FileStat), Failure> {
    let found = walk::find(target, false)?;
    let of = found.facts()?.ok_or_else(|| failure("export", Errno::ENOENT))?;
    match kind(&of) {
        libc::S_IFDIR | libc::S_IFREG => Ok((found, of)),
        _ => Err(failure("export", Errno::ENODEV)),
    }
}

fn pack(found: &Found, of: &FileStat, out: File) -> Transfer {
    let mut packing = Packing {
        out: BufWriter::with_capacity(64 * 1024, out),
        device: of.st_dev,
        linked: HashMap::new(),
        done: Transfer::default(),
        path: Vec::new(),
    };
    let packed = match (&found.object, kind(of)) {
        (Some(directory), libc::S_IFDIR) => packing.below(directory, OsStr::new("."), DEPTH),
        _ => packing.object(&found.directory, &found.name, DEPTH),
    };
    let packed = packed.and_then(|()| {
        let end = packing.out.write_all(&[0; 1024]).and_then(|()| packing.out.flush());
        end.map_err(|error| from_io("write the archive", &error))
    });
    match packed {
        Ok(()) => packing.done,
        Err(failure) => packing.done.fail(&packing.path, failure),
    }
}

struct Packing {
    out: BufWriter<File>,
    device: u64,
    /// Under which name an object that has several was packed.
    linked: HashMap<u64, Vec<u8>>,
    done: Transfer,
    /// Of the object that is being packed.
    path: Vec<u8>,
}

impl Packing {
    /// All that a directory holds, in the order of names.
    fn below(&mut self, above: &OwnedFd, name: &OsStr, depth: usize) -> Result<(), Failure> {
        let left = depth.checked_sub(1).ok_or_else(|| failure("tree too deep", Errno::ENAMETOOLONG))?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fail = |errno| failure("list", errno);
        let handle = match openat(above, name, flags, Mode::empty()) {
            Err(Errno::EACCES) => {
                self.leave_out(LeftOut::Unreadable);
                return Ok(());
            }
            other => other.map_err(fail)?,
        };
        let copy = handle.try_clone().map_err(|error| from_io("list", &error))?;
        let mut names: Vec<OsString> = Vec::new();
        for entry in Dir::from_fd(copy).map_err(fail)?.iter() {
            let name = entry.map_err(fail)?.file_name().to_bytes().to_vec();
            names.push(OsString::from_vec(name));
        }
        names.retain(|name| name != "." && name != "..");
        names.sort_unstable();
        for name in names {
            self.object(&handle, &name, left)?;
        }
        Ok(())
    }

    fn object(&mut self, directory: &OwnedFd, name: &OsStr, depth: usize) -> Result<(), Failure> {
        let before = self.path.len();
        if before > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.as_bytes());
        let of = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(of) => Some(of),
            // Gone since the directory was read: not a part of the tree any more.
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(failure("stat", errno)),
        };
        if let Some(of) = of {
            self.pack(directory, name, &of, depth)?;
        }
        // Where it stood when something failed is told.
        self.path.truncate(before);
        Ok(())
    }

    fn pack(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        of: &FileStat,
        depth: usize,
    ) -> Result<(), Failure> {
        if of.st_dev != self.device {
            self.leave_out(LeftOut::Mount);
            return Ok(());
        }
        match kind(of) {
            libc::S_IFDIR => {
                self.header(of, EntryType::Directory, 0, b"")?;
                self.below(directory, name, depth)
            }
            libc::S_IFREG | libc::S_IFLNK if of.st_nlink > 1 && self.linked.contains_key(&of.st_ino) => {
                let first = self.linked[&of.st_ino].clone();
                self.header(of, EntryType::Link, 0, &first)
            }
            libc::S_IFREG => self.file(directory, name),
            libc::S_IFLNK => {
                let target = readlinkat(directory, name).map_err(|errno| failure("readlink", errno))?;
                self.remember(of);
                self.header(of, EntryType::Symlink, 0, target.as_bytes())
            }
            kind => {
                self.leave_out(match kind {
                    libc::S_IFIFO => LeftOut::Fifo,
                    libc::S_IFSOCK => LeftOut::Socket,
                    _ => LeftOut::Device,
                });
                Ok(())
            }
        }
    }

    fn leave_out(&mut self, why: LeftOut) {
        self.done.leave_out(&self.path, why);
    }

    fn remember(&mut self, of: &FileStat) {
        if of.st_nlink > 1 {
            self.linked.insert(of.st_ino, self.path.clone());
        }
    }

    fn file(&mut self, directory: &OwnedFd, name: &OsStr) -> Result<(), Failure> {
        // Not blocking, should it have become a FIFO meanwhile.
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = match openat(directory, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::EACCES) => {
                self.leave_out(LeftOut::Unreadable);
                return Ok(());
            }
            Err(errno) => return Err(failure("open", errno)),
        };
        let of = fstat(&file).map_err(|errno| failure("stat", errno))?;
        if kind(&of) != libc::S_IFREG {
            return Err(failure("changed while it was read", Errno::ESTALE));
        }
        let size = u64::try_from(of.st_size).unwrap_or(0);
        self.remember(&of);
        self.header(&of, EntryType::Regular, size, b"")?;
        let copied = io::copy(&mut File::from(file).take(size), &mut self.out);
        let copied = copied.map_err(|error| from_io("read", &error))?;
        if copied < size {
            return Err(failure("changed while it was read", Errno::ESTALE));
        }
        self.done.bytes += size;
        self.pad(size)
    }

    fn header(&mut self, of: &FileStat, kind: EntryType, size: u64, link: &[u8]) -> Result<(), Failure> {
        let mut path = self.path.clone();
        if kind == EntryType::Directory {
            path.push(b'/');
        }
        let mut records = Vec::new();
        for (key, value) in [("path", &path[..]), ("linkpath", link)] {
            if value.len() > SHORT {
                record(&mut records, key, value);
            }
        }
        if of.st_mtime < 0 || of.st_mtime_nsec != 0 {
            record(&mut records, "mtime", seconds(of.st_mtime, of.st_mtime_nsec).as_bytes());
        }
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_size(records.len() as u64);
            self.write(header, EntryType::XHeader, b"extended", b"")?;
            self.bytes(&records)?;
            self.pad(records.len() as u64)?;
        }
        // A size beyond octal digits is binary, which is GNU's.
        let mut header = if size < 1 << 33 { Header::new_ustar() } else { Header::new_gnu() };
        header.set_size(size);
        header.set_mode(of.st_mode & 0o7777);
        header.set_mtime(u64::try_from(of.st_mtime).unwrap_or(0));
        header.set_uid(of.st_uid.into());
        header.set_gid(of.st_gid.into());
        self.done.entries += 1;
        self.write(header, kind, &path, link)
    }

    fn write(
        &mut self,
        mut header: Header,
        kind: EntryType,
        path: &[u8],
        link: &[u8],
    ) -> Result<(), Failure> {
        header.set_entry_type(kind);
        let old = header.as_old_mut();
        for (field, value) in [(&mut old.name, path), (&mut old.linkname, link)] {
            let length = value.len().min(SHORT);
            field[..length].copy_from_slice(&value[..length]);
        }
        header.set_cksum();
        self.bytes(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> Result<(), Failure> {
        let padding = usize::try_from(size.next_multiple_of(512) - size).unwrap_or(0);
        self.bytes(&[0; 512][..padding])
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(|error| from_io("write the archive", &error))
    }
}

/// Appends `<length> <key>=<value>\n`, whose length counts its own digits.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() > length {
        length += 1;
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn seconds(seconds: i64, nanoseconds: i64) -> String {
    match (seconds < 0, nanoseconds) {
        (false, _) | (true, 0) => format!("{seconds}.{nanoseconds:09}"),
        (true, _) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
    }
}
