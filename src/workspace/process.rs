//! Commands: what is known of a running one, what its journal tells of an ended one, and reading its output.

use std::fs::File;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::error::{Reason, WorkspaceError};
use super::types::{Command, ProcessView};
use crate::id::Id;
use crate::journal::{Cause, Entry, ExitStatus, Kind, Outcome, Reader, Writer};
use crate::storage::journals::Journals;

/// The first record of a journal: enough to show the command after any restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) command: Command,
    pub(super) generation: u64,
}

/// How far a command is.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// Changes with every growth of the journal.
    pub(super) growth: u64,
    /// How and when it ended.
    pub(super) exit: Option<(ExitStatus, SystemTime)>,
    /// Whether its journal has its last record.
    pub(super) closed: bool,
    /// Egress denials while it ran: the latest few and their number.
    pub(super) denials: (Vec<String>, u64),
}

/// A command of a running workspace.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) header: Header,
    pub(super) denial_mark: u64,
    pub(super) progress: watch::Sender<Progress>,
}

impl Live {
    pub(super) fn new(header: Header, denial_mark: u64) -> Self {
        Self { header, denial_mark, progress: watch::Sender::new(Progress::default()) }
    }
}

/// A journal as it is read from the disk.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) header: Header,
    pub(super) started: SystemTime,
    pub(super) exit: Option<(ExitStatus, SystemTime)>,
    next_sequence: u64,
}

impl Recorded {
    /// Reads a journal; `None` if there is none, or one whose command never started.
    pub(super) fn read(
        journals: &Journals,
        workspace: &Id,
        process: &Id,
    ) -> Result<Option<Self>, WorkspaceError> {
        let Some(file) = journals.open(workspace, process)? else { return Ok(None) };
        if file.metadata().is_ok_and(|facts| facts.len() == 0) {
            return Ok(None);
        }
        let mut reader = Reader::open(file)?;
        let Some(Entry { kind: Kind::Started(header), at: started, .. }) = reader.next_entry()? else {
            return Ok(None);
        };
        let header =
            postcard::from_bytes(&header).map_err(|_foreign| crate::journal::JournalError::Format)?;
        let mut exit = None;
        while let Some(entry) = reader.next_entry()? {
            if let Kind::Exit(status) = entry.kind {
                exit = Some((status, entry.at));
            }
        }
        Ok(Some(Self { header, started, exit, next_sequence: reader.next_sequence() }))
    }

    pub(super) fn view(self, workspace: &Id, process: &Id) -> ProcessView {
        ProcessView {
            id: process.clone(),
            workspace: workspace.clone(),
            generation: self.header.generation,
            command: self.header.command,
            started: self.started,
            exit: self.exit.map(|(status, _)| status),
            ended: self.exit.map(|(_, at)| at),
            next_sequence: self.next_sequence,
            denials: Vec::new(),
            denial_count: 0,
        }
    }
}

/// Ends the journal of a command whose init is gone, unless it has its end already.
pub(super) fn close_journal(
    journals: &Journals,
    workspace: &Id,
    process: &Id,
    cause: Cause,
) -> Result<ExitStatus, WorkspaceError> {
    let status = ExitStatus { outcome: Outcome::Unknown, cause };
    let file = journals
        .open(workspace, process)?
        .ok_or_else(|| WorkspaceError::unknown_process(process.as_str()))?;
    if let Some((known, _)) = Recorded::read(journals, workspace, process)?.and_then(|recorded| recorded.exit)
    {
        return Ok(known);
    }
    Writer::resume(file)?.append(Kind::Exit(status)).map_err(crate::journal::JournalError::from)?;
    Ok(status)
}

/// A cursor over the output of a command.
#[derive(Debug)]
pub struct Output {
    reader: Reader,
    progress: watch::Receiver<Progress>,
    /// Keeps the channel of an ended command open.
    _ended: Option<watch::Sender<Progress>>,
}

impl Output {
    pub(super) fn live(file: File, from: u64, live: &Live) -> Result<Self, WorkspaceError> {
        Ok(Self { reader: at(file, from)?, progress: live.progress.subscribe(), _ended: None })
    }

    pub(super) fn ended(file: File, from: u64) -> Result<Self, WorkspaceError> {
        let ended = watch::Sender::new(Progress { closed: true, ..Progress::default() });
        Ok(Self { reader: at(file, from)?, progress: ended.subscribe(), _ended: Some(ended) })
    }

    /// The next record; waits for it as long as the command, or a child that holds its output, may still write.
    /// `None` when there will be no more.
    ///
    /// # Errors
    /// If the journal can't be read.
    pub async fn next(&mut self) -> Result<Option<Entry>, WorkspaceError> {
        loop {
            // Read before the journal is: what was written before the last growth is found.
            let closed = self.progress.borrow_and_update().closed;
            if let Some(entry) = self.reader.next_entry()? {
                return Ok(Some(entry));
            }
            if closed || self.progress.changed().await.is_err() {
                // The workspace ended between two looks: one more.
                return Ok(self.reader.next_entry()?);
            }
        }
    }
}

impl Output {
    /// Bytes of output up to the cursor, kept or not.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.reader.position()
    }
}

fn at(file: File, from: u64) -> Result<Reader, WorkspaceError> {
    let mut reader = Reader::open(file)?;
    reader.seek(from)?;
    if reader.next_sequence() < from {
        let remedy = format!("the next record will have number {}", reader.next_sequence());
        return Err(WorkspaceError::new(
            Reason::InvalidArgument,
            "no such sequence number yet",
            from,
            remedy,
        ));
    }
    Ok(reader)
}
