//! Whether the audit log is what was written: every record there, unchanged, in its place.
//!
//! The chain has no key. Who may write the directory can make up a whole new history; note the last number and hash
//! elsewhere, and such a history is found out as well.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ledger::{FILE_NAME, HEAD_NAME, Link, follows, full_files};

/// What was found in a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many records there are.
    pub records: u64,
    /// Number of the last one; 0 if there is none.
    pub last: u64,
    /// Its hash, to be noted elsewhere.
    pub hash: String,
    /// What is wrong; nothing if the log is whole.
    pub findings: Vec<Finding>,
}

/// Something wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 if it is about the end.
    pub line: u64,
    /// What is wrong.
    #[serde(flatten)]
    pub fault: Fault,
}

/// What can be wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// The line is no record.
    #[error("this is no record")]
    Garbage,
    /// Its hash does not follow.
    #[error("record {seq} was changed, or the one before it")]
    Changed {
        /// The record.
        seq: u64,
    },
    /// A lower number behind a higher one.
    #[error("record {seq} is out of its place, or repeated")]
    Misplaced {
        /// The record.
        seq: u64,
    },
    /// Numbers that are left out.
    #[error("records {from} to {to} are missing before this one")]
    Missing {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
    /// The end was cut off.
    #[error("records {from} to {to} are missing at the end")]
    Cut {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
    /// The last record is not the one that was written last.
    #[error("record {seq} is not the one that was written last")]
    OtherEnd {
        /// The record.
        seq: u64,
    },
    /// Nobody knows where the log should end.
    #[error("the file that knows the last record is missing or unreadable")]
    NoHead,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(out, "{}: {}", self.file.display(), self.fault),
            line => write!(out, "{}:{line}: {}", self.file.display(), self.fault),
        }
    }
}

/// Reads the log in `directory` from its first record to its last. A line that is only half there at the very end is
/// what a crash leaves, and no finding; the daemon may go on writing meanwhile.
///
/// # Errors
/// If a file can't be read.
pub fn verify(directory: &Path) -> io::Result<Report> {
    // Read first: what is written meanwhile only adds to the log.
    let head = Link::at_head(directory)?;
    let mut check = Check { last: Link::origin(), report: Report::default() };
    for path in full_files(directory)?.into_iter().chain([directory.join(FILE_NAME)]) {
        check.file(&path)?;
    }
    check.end(directory, head);
    let Check { last, mut report } = check;
    (report.last, report.hash) = (last.seq, last.hash);
    Ok(report)
}

struct Check {
    last: Link,
    report: Report,
}

impl Check {
    fn file(&mut self, path: &Path) -> io::Result<()> {
        let mut reader = BufReader::new(File::open(path)?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 || line.pop() != Some(b'\n') {
                break;
            }
            if let Some(fault) = self.line(&line) {
                self.find(path, number, fault);
            }
        }
        Ok(())
    }

    /// Goes on from whatever the line says of itself, so that each fault is told once and where it is.
    fn line(&mut self, line: &[u8]) -> Option<Fault> {
        let Some(link) = Link::of(line) else { return Some(Fault::Garbage) };
        self.report.records += 1;
        let expected = self.last.seq + 1;
        let seq = link.seq;
        if seq < expected {
            return Some(Fault::Misplaced { seq });
        }
        let fault = match seq {
            // Without its predecessor nobody can tell whether it was changed.
            _ if seq > expected => Some(Fault::Missing { from: expected, to: seq - 1 }),
            _ if !follows(line, &self.last.hash) => Some(Fault::Changed { seq }),
            _ => None,
        };
        self.last = link;
        fault
    }

    fn end(&mut self, directory: &Path, head: Option<Link>) {
        let (current, seq) = (directory.join(FILE_NAME), self.last.seq);
        match head {
            None if seq > 0 => self.find(&directory.join(HEAD_NAME), 0, Fault::NoHead),
            Some(head) if head.seq > seq => {
                self.find(&current, 0, Fault::Cut { from: seq + 1, to: head.seq });
            }
            Some(head) if head.seq == seq && head.hash != self.last.hash => {
                self.find(&current, 0, Fault::OtherEnd { seq });
            }
            _ => {}
        }
    }

    fn find(&mut self, file: &Path, line: u64, fault: Fault) {
        self.report.findings.push(Finding { file: file.to_owned(), line, fault });
    }
}
