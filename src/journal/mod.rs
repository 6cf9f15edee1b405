//! The append-only record of what a command printed and how it ended.
//!
//! init writes it, the daemon reads it, and either may die at any moment. A journal is one sparse file:
//!
//! ```text
//! | header | segment 0 | segment 1 | ... hole ... | segment k | segment k+1 |
//!            `-- head, kept --------'              `-- tail, kept ----------'
//! ```
//!
//! A record never crosses a segment border, so a reader that meets a hole goes on at the next border. The first
//! record of each segment holds the totals so far: a reader that comes over a hole knows how many bytes it missed.
//! Records are checksummed; a torn tail ends the journal at the last whole record. Nothing is synced per record:
//! a journal survives the death of its writer and its readers, not the loss of power within the kernel's write-back.

mod reader;
mod record;
mod writer;

pub use reader::Reader;
pub use record::{Cause, Entry, ExitStatus, Kind, Outcome, Stream, Totals};
pub use writer::{Limits, Writer};

/// What went wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file is not a journal, or one of an unknown version.
    #[error("not a journal of this version")]
    Format,
    /// The kernel refused.
    #[error("journal: {0}")]
    Io(#[from] std::io::Error),
}

#[cfg(test)]
mod tests;
