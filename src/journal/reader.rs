//! Reading a journal that may still be written, from any sequence number.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::JournalError;
use super::record::{Entry, Kind, Totals};
use super::writer::{MAGIC, START};

/// Bytes fetched at a time.
const CHUNK: usize = 128 * 1024;

/// A cursor over a journal. Any number of them may read while one writer appends.
#[derive(Debug)]
pub struct Reader {
    file: File,
    segment: u64,
    offset: u64,
    next: u64,
    totals: Totals,
    pending: Option<Entry>,
    ahead: Bytes,
}

impl Reader {
    /// Opens a journal at its beginning.
    ///
    /// # Errors
    /// [`JournalError::Format`] if it is none, what the kernel says otherwise.
    pub fn open(file: File) -> Result<Self, JournalError> {
        let mut header = [0_u8; 16];
        file.read_exact_at(&mut header, 0).map_err(|_short| JournalError::Format)?;
        let (magic, segment) = header.split_at(8);
        let segment = u64::from_le_bytes(segment.try_into().map_err(|_length| JournalError::Format)?);
        if magic != MAGIC || segment == 0 || !segment.is_multiple_of(4096) {
            return Err(JournalError::Format);
        }
        let (totals, ahead) = (Totals::default(), Bytes::new());
        Ok(Self { file, segment, offset: START, next: 0, totals, pending: None, ahead })
    }

    /// The next record, or `None` if there is no whole one yet. Records over which the file has a hole are told as
    /// one [`Kind::Gap`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, JournalError> {
        if let Some(entry) = self.pending.take() {
            return Ok(Some(entry));
        }
        while let Some(entry) = self.fetch()? {
            let Kind::Segment(totals) = entry.kind else {
                return Ok(Some(self.pass(entry)));
            };
            let missed = Totals {
                stdout: totals.stdout.saturating_sub(self.totals.stdout),
                stderr: totals.stderr.saturating_sub(self.totals.stderr),
            };
            self.next = entry.sequence + 1;
            self.totals = totals;
            if missed != Totals::default() {
                return Ok(Some(Entry { kind: Kind::Gap(missed), ..entry }));
            }
        }
        Ok(None)
    }

    /// Goes to the first record whose number is at least `sequence`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn seek(&mut self, sequence: u64) -> Result<(), JournalError> {
        while self.next < sequence {
            match self.next_entry()? {
                Some(entry) if entry.sequence >= sequence => {
                    self.pending = Some(entry);
                    return Ok(());
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// The number that the next record will have, if none is missing.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Bytes of output up to the cursor, kept or not.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.totals.stdout + self.totals.stderr
    }

    pub(super) fn segment(&self) -> u64 {
        self.segment
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    fn pass(&mut self, entry: Entry) -> Entry {
        if let Kind::Output(stream, data) = &entry.kind {
            self.totals.add(*stream, data.len() as u64);
        }
        self.next = self.next.max(entry.sequence + 1);
        entry
    }

    /// The record at the cursor; where there is none, the one at the next segment that holds data.
    fn fetch(&mut self) -> Result<Option<Entry>, JournalError> {
        loop {
            if let Some(entry) = self.decode()? {
                return Ok(Some(entry));
            }
            let border = START + (self.offset - START + 1).next_multiple_of(self.segment);
            let Some(data) = self.data_from(border)? else { return Ok(None) };
            let resume = START + (data - START) / self.segment * self.segment;
            self.ahead = Bytes::new();
            let before = std::mem::replace(&mut self.offset, resume.max(border));
            if self.decode_at_border()? {
                continue;
            }
            self.offset = before;
            return Ok(None);
        }
    }

    /// Whether a whole record stands at the border to which the cursor was just moved.
    fn decode_at_border(&mut self) -> Result<bool, JournalError> {
        let at = self.offset;
        let found = self.decode()?.is_some();
        self.offset = at;
        self.ahead = Bytes::new();
        Ok(found)
    }

    fn decode(&mut self) -> Result<Option<Entry>, JournalError> {
        for attempt in 0..2 {
            if let Some((entry, length)) = Entry::decode(&self.ahead) {
                self.ahead = self.ahead.slice(length..);
                self.offset += length as u64;
                return Ok(Some(entry));
            }
            if attempt == 0 {
                self.read_ahead()?;
            }
        }
        Ok(None)
    }

    /// Reads up to the end of the cursor's segment, since no record crosses it.
    fn read_ahead(&mut self) -> io::Result<()> {
        let room = self.segment - (self.offset - START) % self.segment;
        let wanted = usize::try_from(room).unwrap_or(CHUNK);
        let mut size = wanted.min(CHUNK);
        loop {
            let mut buffer = vec![0_u8; size];
            let got = self.file.read_at(&mut buffer, self.offset)?;
            buffer.truncate(got);
            let needed = buffer.get(..4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])) as usize;
            self.ahead = Bytes::from(buffer);
            if needed <= size || size == wanted {
                return Ok(());
            }
            size = needed.min(wanted);
        }
    }

    /// Where data begins at or after `offset`; `None` past the end.
    fn data_from(&self, offset: u64) -> io::Result<Option<u64>> {
        match lseek(&self.file, offset.try_into().map_err(io::Error::other)?, Whence::SeekData) {
            Ok(found) => Ok(u64::try_from(found).ok()),
            Err(Errno::ENXIO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}
