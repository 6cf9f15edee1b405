//! Files of a workspace: opened inside by init with the rights of the sandbox's user, moved by descriptor.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::error::{Reason, WorkspaceError};
use super::running::Running;
use super::types::{DirectoryEntry, FileKind, Stat};
use crate::jail::wire::{Facts, FileOrder, Listing, Outcome, Target, Version};

/// Largest entry of a directory listing in bytes; a name has at most 255, a link's target 4096.
const LARGEST_ENTRY: usize = 16 * 1024;
/// Most entries of one listing.
const MOST_ENTRIES: usize = 1_000_000;

/// A file that has no name yet. Dropped, it has never been.
#[derive(Debug)]
pub struct NewFile {
    running: Arc<Running>,
    /// As the caller wrote it.
    path: Vec<u8>,
    /// Where it is, and what it will be called there.
    directory: OwnedFd,
    name: Vec<u8>,
    file: File,
}

impl NewFile {
    /// The file, open for writing.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Takes over what another file has; its length. Within one file system the kernel may share the bytes.
    pub(super) async fn fill(&self, mut from: File) -> Result<u64, WorkspaceError> {
        let mut file = self.file.try_clone().map_err(|error| from_io(&self.path, &error))?;
        let copied = tokio::task::spawn_blocking(move || std::io::copy(&mut from, &mut file)).await;
        let copied = copied.map_err(|_ended| odd(&self.path))?;
        copied.map_err(|error| from_io(&self.path, &error))
    }

    /// Gives it its name, replacing at once what had that name.
    ///
    /// # Errors
    /// What the kernel says, for example `EISDIR`.
    pub async fn commit(self) -> Result<Stat, WorkspaceError> {
        self.give(None).await
    }

    /// The same if the name has this version now.
    ///
    /// # Errors
    /// [`Reason::Stale`] if it has another or none; nothing is changed then.
    pub async fn commit_over(self, version: Version) -> Result<Stat, WorkspaceError> {
        let running = Arc::clone(&self.running);
        // Looking and replacing are two steps: of all conditional writers one goes at a time.
        let _turn = running.commits.lock().await;
        self.give(Some(version)).await
    }

    async fn give(self, replacing: Option<Version>) -> Result<Stat, WorkspaceError> {
        let path = &self.path;
        // What was acknowledged survives the loss of power.
        self.file.sync_all().map_err(|error| from_io(path, &error))?;
        let order = FileOrder::Commit { name: self.name.clone(), replacing };
        let files = [self.file.as_fd(), self.directory.as_fd()];
        let (outcome, _) = ask(&self.running, order, &files, path).await?;
        facts(outcome, path)
    }
}

pub(super) async fn open(running: &Running, target: Target) -> Result<(File, Stat), WorkspaceError> {
    let path = &target.path;
    check(path)?;
    let (outcome, file) = ask(running, FileOrder::Open { target: target.clone() }, &[], path).await?;
    let file = regular(file.into_iter().next(), path)?;
    Ok((file, facts(outcome, path)?))
}

pub(super) async fn create(
    running: Arc<Running>,
    target: Target,
    mode: Option<u32>,
    parents: bool,
) -> Result<NewFile, WorkspaceError> {
    check(&target.path)?;
    let mode = mode.map(|mode| mode & 0o777);
    let order = FileOrder::Create { target: target.clone(), mode, parents };
    let path = target.path;
    let (outcome, files) = ask(&running, order, &[], &path).await?;
    let mut files = files.into_iter();
    let (file, Outcome::Name(name), Some(directory)) = (files.next(), outcome, files.next()) else {
        return Err(odd(&path));
    };
    let file = regular(file, &path)?;
    Ok(NewFile { running, path, directory, name, file })
}

/// A change of the tree; answers with what stands under the path now, where that is told.
pub(super) async fn change(
    running: &Running,
    order: FileOrder,
    paths: &[&[u8]],
) -> Result<Option<Stat>, WorkspaceError> {
    paths.iter().try_for_each(|path| check(path))?;
    match ask(running, order, &[], paths.first().unwrap_or(&&b""[..])).await? {
        (Outcome::Facts(facts), _) => Ok(Some(facts.into())),
        _ => Ok(None),
    }
}

pub(super) async fn stat(running: &Running, path: &[u8], follow: bool) -> Result<Stat, WorkspaceError> {
    check(path)?;
    let (outcome, _) = ask(running, FileOrder::Stat { path: path.to_vec(), follow }, &[], path).await?;
    facts(outcome, path)
}

pub(super) async fn list(running: &Running, path: &[u8]) -> Result<Vec<DirectoryEntry>, WorkspaceError> {
    check(path)?;
    let (_, pipe) = ask(running, FileOrder::List { path: path.to_vec() }, &[], path).await?;
    let pieces = Pieces::new(pipe.into_iter().next(), path)?;
    let read = tokio::task::spawn_blocking(move || entries(pieces)).await;
    let mut entries = read.map_err(|_ended| odd(path))??;
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

pub(super) async fn ask(
    running: &Running,
    order: FileOrder,
    files: &[BorrowedFd<'_>],
    path: &[u8],
) -> Result<(Outcome, Vec<OwnedFd>), WorkspaceError> {
    running
        .init
        .file(order, files)
        .await
        .map_err(|error| WorkspaceError::from_init(error, String::from_utf8_lossy(path)))
}

/// The descriptor came from inside: whatever else it is, we only move the bytes of a regular file.
fn regular(file: Option<OwnedFd>, path: &[u8]) -> Result<File, WorkspaceError> {
    let file = File::from(file.ok_or_else(|| odd(path))?);
    if !file.metadata().map_err(|error| from_io(path, &error))?.is_file() {
        let object = String::from_utf8_lossy(path).into_owned();
        return Err(WorkspaceError::new(
            Reason::InvalidArgument,
            "not a regular file",
            object,
            "name a regular file",
        ));
    }
    Ok(file)
}

fn entries(mut pieces: Pieces) -> Result<Vec<DirectoryEntry>, WorkspaceError> {
    let mut entries = Vec::new();
    while let Some(piece) = pieces.next()? {
        let Listing::Entry(name, facts) = piece else { return Err(odd(&pieces.path)) };
        entries.push(DirectoryEntry { name, stat: facts.into() });
        if entries.len() > MOST_ENTRIES {
            let object = String::from_utf8_lossy(&pieces.path).into_owned();
            let remedy = format!("more than {MOST_ENTRIES} entries; list it with a command");
            return Err(WorkspaceError::new(
                Reason::ResourceExhausted,
                "directory too large",
                object,
                remedy,
            ));
        }
    }
    Ok(entries)
}

/// The pipe of a listing. The other side is as trustworthy as the sandbox itself.
pub(super) struct Pieces {
    pipe: std::io::BufReader<File>,
    buffer: Vec<u8>,
    path: Vec<u8>,
}

impl Pieces {
    pub(super) fn new(pipe: Option<OwnedFd>, path: &[u8]) -> Result<Self, WorkspaceError> {
        let pipe = std::io::BufReader::new(File::from(pipe.ok_or_else(|| odd(path))?));
        Ok(Self { pipe, buffer: vec![0; LARGEST_ENTRY], path: path.to_vec() })
    }

    /// Waits for the next piece; `None` when all were told.
    pub(super) fn next(&mut self) -> Result<Option<Listing>, WorkspaceError> {
        let mut length = [0_u8; 4];
        self.pipe.read_exact(&mut length).map_err(|error| from_io(&self.path, &error))?;
        let length = usize::try_from(u32::from_le_bytes(length)).ok();
        let piece = length.and_then(|length| self.buffer.get_mut(..length)).ok_or_else(|| odd(&self.path))?;
        self.pipe.read_exact(piece).map_err(|error| from_io(&self.path, &error))?;
        match postcard::from_bytes(piece).map_err(|_malformed| odd(&self.path))? {
            Listing::End => Ok(None),
            piece => Ok(Some(piece)),
        }
    }
}

pub(super) fn check(path: &[u8]) -> Result<(), WorkspaceError> {
    if path.starts_with(b"/") && !path.contains(&0) {
        return Ok(());
    }
    let object = String::from_utf8_lossy(path).into_owned();
    Err(WorkspaceError::invalid(object, "an absolute path inside the workspace, without NUL"))
}

fn facts(outcome: Outcome, path: &[u8]) -> Result<Stat, WorkspaceError> {
    match outcome {
        Outcome::Facts(facts) => Ok(facts.into()),
        _ => Err(odd(path)),
    }
}

pub(super) fn odd(path: &[u8]) -> WorkspaceError {
    let object = String::from_utf8_lossy(path).into_owned();
    WorkspaceError::new(
        Reason::Internal,
        "unexpected answer of init",
        object,
        "stop the workspace and start it again",
    )
}

pub(super) fn from_io(path: &[u8], error: &std::io::Error) -> WorkspaceError {
    let full = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
    let reason = if full { Reason::ResourceExhausted } else { Reason::Internal };
    let object = String::from_utf8_lossy(path).into_owned();
    WorkspaceError::new(reason, "file", object, error.to_string())
}

impl From<Facts> for Stat {
    fn from(facts: Facts) -> Self {
        let kind = match facts.mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::File,
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFLNK => FileKind::Symlink,
            _ => FileKind::Other,
        };
        Self {
            kind,
            size: facts.size,
            mode: facts.mode & 0o7777,
            uid: facts.uid,
            gid: facts.gid,
            modified_ns: facts.modified_ns,
            version: facts.version,
            link_target: facts.link_target,
        }
    }
}
