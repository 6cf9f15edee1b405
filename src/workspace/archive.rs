//! Imports and exports: a helper of init packs and unpacks, the bytes only pass through here.

use std::os::fd::{AsFd, OwnedFd};

use bytes::{Bytes, BytesMut};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::Workspaces;
use super::error::WorkspaceError;
use super::file::{Pieces, ask, check, from_io, odd};
use crate::jail::archive::{Transfer, Unpack};
use crate::jail::client::AskError;
use crate::jail::wire::{FileOrder, Listing, Outcome, Target};

/// Bytes in one piece of an export.
const CHUNK: usize = 64 * 1024;

/// An export that goes on. Dropped, it ends.
#[derive(Debug)]
pub struct Export {
    pipe: pipe::Receiver,
    report: OwnedFd,
    path: Vec<u8>,
}

impl Export {
    /// More of the archive; `None` after the last byte, when [`Self::end`] tells whether that is all of it.
    ///
    /// # Errors
    /// If the pipe breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, WorkspaceError> {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        let read = self.pipe.read_buf(&mut buffer).await;
        let read = read.map_err(|error| from_io(&self.path, &error))?;
        Ok((read > 0).then(|| buffer.freeze()))
    }

    /// What is in the archive.
    ///
    /// # Errors
    /// Why it is not complete.
    pub async fn end(self) -> Result<Transfer, WorkspaceError> {
        let Self { pipe, report, path } = self;
        drop(pipe);
        let mut pieces = Pieces::new(Some(report), &path)?;
        let told = tokio::task::spawn_blocking(move || pieces.next()).await;
        match told.map_err(|_ended| odd(&path))?? {
            Some(Listing::Transferred(done)) => complete(*done, &path, "packed"),
            _ => Err(odd(&path)),
        }
    }
}

fn complete(mut done: Transfer, path: &[u8], what: &str) -> Result<Transfer, WorkspaceError> {
    let Some((member, failure)) = done.failed.take() else { return Ok(done) };
    let (path, member) = (String::from_utf8_lossy(path), String::from_utf8_lossy(&member));
    let object = if member.is_empty() { path.into_owned() } else { format!("{path}: {member}") };
    let before = format!("; {} entries with {} bytes were {what}", done.entries, done.bytes);
    Err(WorkspaceError::from_init(AskError::Failed(failure), object).adding(&before))
}

impl Workspaces {
    /// Unpacks a tar archive below a directory, as its pieces arrive; it ends when the channel does.
    ///
    /// # Errors
    /// Why it could not be unpacked, or not all of it: at which member, and how much was written before.
    pub async fn import(
        &self,
        name: &str,
        order: Unpack,
        archive: mpsc::Receiver<Bytes>,
    ) -> Result<Transfer, WorkspaceError> {
        let path = order.target.path.clone();
        check(&path)?;
        let running = self.awake(name).await?;
        let broken = |errno: nix::errno::Errno| from_io(&path, &errno.into());
        let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(broken)?;
        let pipe = pipe::Sender::from_owned_fd(write).map_err(|error| from_io(&path, &error))?;
        let files = [read.as_fd()];
        let answer = ask(&running, FileOrder::Import(order), &files, &path);
        tokio::pin!(answer);
        // A helper that gives up early answers early, which ends the feeding.
        let feeding = feed(pipe, archive);
        tokio::pin!(feeding);
        let answered = tokio::select! {
            answered = &mut answer => answered,
            () = &mut feeding => answer.await,
        };
        match answered? {
            (Outcome::Transferred(done), _) => complete(*done, &path, "written"),
            _ => Err(odd(&path)),
        }
    }

    /// Packs a file, or what a directory holds, as a tar archive.
    ///
    /// # Errors
    /// As open(2) inside would say.
    pub async fn export(&self, name: &str, path: &[u8]) -> Result<Export, WorkspaceError> {
        check(path)?;
        let running = self.awake(name).await?;
        let (_, pipes) = ask(&running, FileOrder::Export(Target::from(path)), &[], path).await?;
        let Ok([pipe, report]) = <[OwnedFd; 2]>::try_from(pipes) else { return Err(odd(path)) };
        let pipe = pipe::Receiver::from_owned_fd(pipe).map_err(|error| from_io(path, &error))?;
        Ok(Export { pipe, report, path: path.to_vec() })
    }
}

async fn feed(mut pipe: pipe::Sender, mut archive: mpsc::Receiver<Bytes>) {
    while let Some(piece) = archive.recv().await {
        if let Err(error) = pipe.write_all(&piece).await {
            // The helper has given up; its answer says why.
            tracing::debug!(%error, "import");
            return;
        }
    }
}
