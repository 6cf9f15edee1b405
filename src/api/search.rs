//! The streams of Glob and Grep.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::convert::stat;
use super::proto::file_service_glob_response::Message as Path;
use super::proto::file_service_grep_response::Message as Line;
use super::proto::{
    DirectoryEntry, FileServiceGlobResponse, FileServiceGrepResponse, GrepLine, SearchEnd, SearchStop,
};
use crate::shutdown::Shutdown;
use crate::workspace::{Found, Hit, Search, Stopped, Target};

/// Most milliseconds of a search.
const TIME: u64 = 60_000;
/// Most objects that a search looks at.
const ENTRIES: u64 = 1_000_000;
/// Messages that wait for a slow reader; the search waits then.
const AHEAD: usize = 64;

/// What a caller reads.
pub(super) type Told<T> = ReceiverStream<Result<T, Status>>;

pub(super) fn within(path: &[u8], pattern: String) -> Search {
    Search { target: Target::from(path), pattern, time: TIME, entries: ENTRIES }
}

pub(super) fn paths(found: Found, tasks: &Shutdown) -> Told<FileServiceGlobResponse> {
    tell(found, tasks, |said| {
        let message = match said {
            Said::Hit(Hit::Path(name, facts)) => {
                Path::Entry(DirectoryEntry { name: name.into(), stat: Some(stat(facts)) })
            }
            Said::End(end) => Path::End(end),
            Said::Hit(_) => return None,
        };
        Some(FileServiceGlobResponse { message: Some(message) })
    })
}

pub(super) fn lines(found: Found, tasks: &Shutdown) -> Told<FileServiceGrepResponse> {
    tell(found, tasks, |said| {
        let message = match said {
            Said::Hit(Hit::Line { path, number, text, cut }) => {
                Line::Line(GrepLine { path: path.into(), number, text: text.into(), truncated: cut })
            }
            Said::End(end) => Line::End(end),
            Said::Hit(_) => return None,
        };
        Some(FileServiceGrepResponse { message: Some(message) })
    })
}

enum Said {
    Hit(Hit),
    End(SearchEnd),
}

fn tell<T: Send + 'static>(
    mut found: Found,
    tasks: &Shutdown,
    encode: impl Fn(Said) -> Option<T> + Send + 'static,
) -> Told<T> {
    let (answers, received) = mpsc::channel(AHEAD);
    tasks.spawn_until_cancelled(async move {
        let mut stopped = SearchStop::Unspecified;
        loop {
            let (said, last) = match found.next().await {
                Ok(Some(Hit::Stopped(why))) => {
                    stopped = match why {
                        Stopped::Entries => SearchStop::Entries,
                        Stopped::Time => SearchStop::Time,
                    };
                    continue;
                }
                Ok(Some(hit)) => (Ok(Said::Hit(hit)), false),
                Ok(None) => (Ok(Said::End(SearchEnd { stopped: stopped.into() })), true),
                Err(error) => (Err(Status::from(error)), true),
            };
            let Some(answer) = said.map(&encode).transpose() else { continue };
            if answers.send(answer).await.is_err() || last {
                return;
            }
        }
    });
    ReceiverStream::new(received)
}
