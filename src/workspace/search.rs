//! Globs and greps: what init's helper finds, as it finds it.

use tokio::sync::mpsc;

use super::error::WorkspaceError;
use super::file::{Pieces, ask, check, odd};
use super::running::Running;
use super::types::Stat;
use crate::jail::wire::{FileOrder, Listing, Search, Stopped};

/// Findings that wait for a slow reader; the search waits then.
const AHEAD: usize = 256;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hit {
    /// A path, relative to where the search began, and what it names without following a link.
    Path(Vec<u8>, Stat),
    /// A line.
    Line {
        /// Relative to where the search began; empty if that is a file.
        path: Vec<u8>,
        /// Counts from 1.
        number: u64,
        /// Without its end; the first part of a long one.
        text: Vec<u8>,
        /// Whether it is longer.
        cut: bool,
    },
    /// Last, if not everything was looked at.
    Stopped(Stopped),
}

/// A search that goes on. Dropped, it ends.
#[derive(Debug)]
pub struct Found {
    hits: mpsc::Receiver<Result<Hit, WorkspaceError>>,
}

impl Found {
    /// The next finding; `None` when there are no more.
    ///
    /// # Errors
    /// If the search broke: the workspace was stopped.
    pub async fn next(&mut self) -> Result<Option<Hit>, WorkspaceError> {
        self.hits.recv().await.transpose()
    }
}

pub(super) async fn begin(
    running: &Running,
    search: Search,
    order: fn(Search) -> FileOrder,
) -> Result<Found, WorkspaceError> {
    let path = search.target.path.clone();
    check(&path)?;
    let (_, pipe) = ask(running, order(search), &[], &path).await?;
    let mut pieces = Pieces::new(pipe.into_iter().next(), &path)?;
    let (found, hits) = mpsc::channel(AHEAD);
    // Reading the pipe blocks. It ends with the search, whose time is limited.
    drop(tokio::task::spawn_blocking(move || {
        loop {
            let hit = match pieces.next() {
                Ok(None) => return,
                Ok(Some(Listing::Entry(path, facts))) => Ok(Hit::Path(path, facts.into())),
                Ok(Some(Listing::Line(path, number, text, cut))) => Ok(Hit::Line { path, number, text, cut }),
                Ok(Some(Listing::Stopped(why))) => Ok(Hit::Stopped(why)),
                Ok(Some(Listing::End | Listing::Transferred(_))) => Err(odd(&path)),
                Err(error) => Err(error),
            };
            let broken = hit.is_err();
            if found.blocking_send(hit).is_err() || broken {
                return;
            }
        }
    }));
    Ok(Found { hits })
}
