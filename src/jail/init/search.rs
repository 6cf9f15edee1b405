//! Glob and grep, with the rights of a command: ripgrep's own walk, globs and line search.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use globset::GlobMatcher;
use grep_regex::RegexMatcher;
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, sinks};
use ignore::{DirEntry, WalkBuilder};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::fchdir;

use super::super::pattern::{expression, matcher, split};
use super::super::wire::{Failure, Listing, Search, Stopped, Target};
use super::files::{Pieces, Told, facts, kind};
use super::process::failure;
use super::walk::{self, Found};

/// Directories that a glob enters only if they are named.
const UNENTERED: [&str; 2] = [".git", "node_modules"];
/// Longest part of a line that is told, in bytes.
const LINE: usize = 2000;
/// Largest line that a search holds, in bytes; a file with a longer one is left out.
const LONGEST: usize = 16 * 1024 * 1024;

fn directory(target: &Target, step: &'static str) -> Result<(Found, nix::sys::stat::FileStat), Failure> {
    let found = walk::find(target, false)?;
    let of = found.facts()?.ok_or_else(|| failure(step, Errno::ENOENT))?;
    Ok((found, of))
}

pub(super) fn glob(search: &Search) -> Result<Pieces, Failure> {
    let fail = |errno| failure("glob", errno);
    let (found, of) = directory(&search.target, "glob")?;
    if kind(&of) != libc::S_IFDIR {
        return Err(fail(Errno::ENOTDIR));
    }
    let root = found.path.as_os_str().as_bytes().to_vec();
    let (prefix, rest) = split(&search.pattern);
    let matcher = matcher(&search.pattern).map_err(|_pattern| fail(Errno::EINVAL))?;
    let below = Target { path: found.path.join(&prefix).as_os_str().as_bytes().to_vec(), roots: vec![root] };
    let named = |name: &&str| {
        let path = Path::new(OsStr::from_bytes(&search.target.path));
        search.pattern.contains(name) || path.iter().any(|part| part == *name)
    };
    let skipped: Vec<&str> = UNENTERED.iter().copied().filter(|name| !named(name)).collect();
    let depth = (!rest.contains("**")).then(|| rest.split('/').count());
    // Nothing there, or a link that leads away: nothing matches.
    let base = walk::find(&below, false).ok().and_then(|base| base.object);
    let globbing = Globbing { prefix, matcher, below, skipped, depth, until: Until::new(search) };
    Ok(Pieces {
        of: facts(&of, None),
        tell: Box::new(move |out| match base {
            Some(base) => {
                fchdir(&base)?;
                globbing.tell(out)
            }
            None => Ok(()),
        }),
    })
}

/// When a search has to end.
struct Until {
    entries: u64,
    at: Instant,
}

impl Until {
    fn new(search: &Search) -> Self {
        Self { entries: search.entries, at: Instant::now() + Duration::from_millis(search.time) }
    }

    fn over(&mut self) -> Option<Stopped> {
        if Instant::now() >= self.at {
            return Some(Stopped::Time);
        }
        match self.entries.checked_sub(1) {
            Some(left) => self.entries = left,
            None => return Some(Stopped::Entries),
        }
        None
    }
}

struct Globbing {
    prefix: PathBuf,
    matcher: GlobMatcher,
    below: Target,
    skipped: Vec<&'static str>,
    depth: Option<usize>,
    until: Until,
}

impl Globbing {
    fn tell(mut self, out: &mut Told) -> io::Result<()> {
        let skipped = std::mem::take(&mut self.skipped);
        let mut walk = WalkBuilder::new(".");
        walk.standard_filters(false).max_depth(self.depth).filter_entry(move |entry| {
            let entered = entry.file_type().is_some_and(|kind| kind.is_dir());
            !(entered && entry.depth() > 0 && skipped.iter().any(|name| entry.file_name() == *name))
        });
        for entry in walk.build() {
            if let Some(why) = self.until.over() {
                return out.tell(&Listing::Stopped(why));
            }
            // What can't be read, or is gone, does not match.
            let Ok(entry) = entry else { continue };
            let path = relative(&entry);
            if path.as_os_str().is_empty() || !self.matcher.is_match(path) || self.leaves(&entry, path) {
                continue;
            }
            let Ok(found) = fstatat(nix::fcntl::AT_FDCWD, path, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)
            else {
                continue;
            };
            let told = self.prefix.join(path).as_os_str().as_bytes().to_vec();
            out.tell(&Listing::Entry(told, facts(&found, None)))?;
        }
        Ok(())
    }

    /// Whether a link leads out of where the search began.
    fn leaves(&self, entry: &DirEntry, path: &Path) -> bool {
        if !entry.path_is_symlink() {
            return false;
        }
        let path = Path::new(OsStr::from_bytes(&self.below.path)).join(path);
        let target = Target { path: path.as_os_str().as_bytes().to_vec(), roots: self.below.roots.clone() };
        walk::find(&target, false).is_err_and(|failure| failure.errno != Errno::ENOENT as i32)
    }
}

fn relative(entry: &DirEntry) -> &Path {
    let path = entry.path();
    path.strip_prefix(".").unwrap_or(path)
}

pub(super) fn grep(search: &Search) -> Result<Pieces, Failure> {
    let fail = |errno| failure("grep", errno);
    let (found, of) = directory(&search.target, "grep")?;
    let matcher = expression(&search.pattern).map_err(|_pattern| fail(Errno::EINVAL))?;
    let binary = BinaryDetection::quit(0);
    let searcher = SearcherBuilder::new().binary_detection(binary).heap_limit(Some(LONGEST)).build();
    let mut grepping = Grepping { matcher, searcher, until: Until::new(search) };
    let single = match kind(&of) {
        libc::S_IFDIR => None,
        libc::S_IFREG => Some(found.name.clone()),
        _ => return Err(fail(Errno::ENODEV)),
    };
    let at = if single.is_some() { Some(found.directory) } else { found.object };
    let at = at.ok_or_else(|| fail(Errno::ENOENT))?;
    Ok(Pieces {
        of: facts(&of, None),
        tell: Box::new(move |out| {
            fchdir(&at)?;
            let stopped = match single {
                Some(name) => grepping.file(Path::new(&name), Path::new(""), out),
                None => grepping.tree(out),
            };
            match stopped {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    out.tell(&Listing::Stopped(Stopped::Time))
                }
                other => other,
            }
        }),
    })
}

struct Grepping {
    matcher: RegexMatcher,
    searcher: Searcher,
    until: Until,
}

impl Grepping {
    fn tree(&mut self, out: &mut Told) -> io::Result<()> {
        let mut walk = WalkBuilder::new(".");
        // The user's own settings are no part of a workspace.
        walk.git_global(false).add_custom_ignore_filename(".rgignore");
        walk.sort_by_file_name(|one, other| one.cmp(other));
        for entry in walk.build() {
            if let Some(why) = self.until.over() {
                return out.tell(&Listing::Stopped(why));
            }
            let Ok(entry) = entry else { continue };
            if entry.file_type().is_some_and(|kind| kind.is_file()) {
                let path = relative(&entry);
                self.file(path, path, out)?;
            }
        }
        Ok(())
    }

    /// Searches one file; what can't be read is left out.
    fn file(&mut self, path: &Path, told: &Path, out: &mut Told) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let Ok(file) = open(path, flags, Mode::empty()).map(File::from) else { return Ok(()) };
        if !file.metadata().is_ok_and(|facts| facts.mode() & libc::S_IFMT == libc::S_IFREG) {
            return Ok(());
        }
        let mut broken = None;
        let timed = Timed { file, until: self.until.at };
        let sink = sinks::Bytes(|number, line| {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            let (text, cut) = if text.len() > LINE { (&text[..LINE], true) } else { (text, false) };
            let name = told.as_os_str().as_bytes().to_vec();
            match out.tell(&Listing::Line(name, number, text.to_vec(), cut)) {
                Ok(()) => Ok(true),
                Err(error) => {
                    broken = Some(error);
                    Ok(false)
                }
            }
        });
        match self.searcher.search_reader(&self.matcher, timed, sink) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error),
            // A line too long to hold, or a file that can't be read to its end.
            _ => broken.map_or(Ok(()), Err),
        }
    }
}

/// A file that ends in an error when the time is up.
struct Timed {
    file: File,
    until: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.file.read(buffer)
    }
}
