//! Writing a journal: head and tail within a limit.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use bytes::Bytes;
use nix::fcntl::{FallocateFlags, fallocate};

use super::JournalError;
use super::reader::Reader;
use super::record::{Entry, HEADER, Kind, Stream, Totals};

pub(super) const MAGIC: &[u8; 8] = b"HANDSJ1\n";
/// The file's header takes one block, so that segments stay aligned and holes free whole blocks.
pub(super) const START: u64 = 4096;
/// First record of each segment, in bytes.
const SEGMENT_RECORD: usize = HEADER + 16;
/// Smallest segment in bytes.
const SMALLEST: u64 = 8 * 1024;
/// Largest segment in bytes.
const LARGEST: u64 = 1024 * 1024;

/// How much of a journal is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    segment: u64,
    head: u64,
    tail: usize,
}

impl Limits {
    /// Keeps about `bytes`, half of it from the beginning and half from the end; at least 64 KiB.
    #[must_use]
    pub fn keep(bytes: u64) -> Self {
        let segment = (bytes / 16).clamp(SMALLEST, LARGEST).next_multiple_of(4096);
        let half = (bytes / 2 / segment).max(4);
        Self { segment, head: half, tail: usize::try_from(half).unwrap_or(usize::MAX) }
    }
}

/// The one writer of a journal.
#[derive(Debug)]
pub struct Writer {
    pub(super) file: File,
    limits: Limits,
    offset: u64,
    sequence: u64,
    totals: Totals,
    tail: VecDeque<u64>,
    buffer: Vec<u8>,
}

impl Writer {
    /// Begins a journal in an empty file.
    ///
    /// # Errors
    /// What the kernel says, above all `ENOSPC`.
    pub fn create(file: File, limits: Limits) -> io::Result<Self> {
        let mut header = [0_u8; 16];
        header[..8].copy_from_slice(MAGIC);
        header[8..].copy_from_slice(&limits.segment.to_le_bytes());
        file.write_all_at(&header, 0)?;
        Ok(Self {
            file,
            limits,
            offset: START,
            sequence: 0,
            totals: Totals::default(),
            tail: VecDeque::new(),
            buffer: Vec::new(),
        })
    }

    /// Goes on with a journal whose writer is gone, after its last whole record.
    ///
    /// # Errors
    /// [`JournalError::Format`] if the file is no journal; what the kernel says otherwise.
    pub fn resume(file: File) -> Result<Self, JournalError> {
        let mut reader = Reader::open(file.try_clone()?)?;
        while reader.next_entry()?.is_some() {}
        let segment = reader.segment();
        file.set_len(reader.offset())?;
        Ok(Self {
            file,
            limits: Limits { segment, head: u64::MAX, tail: usize::MAX },
            offset: reader.offset(),
            sequence: reader.next_sequence(),
            totals: reader.totals(),
            tail: VecDeque::new(),
            buffer: Vec::new(),
        })
    }

    /// The number that the next record will have.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.sequence
    }

    /// Appends output; a piece too large for one record becomes several.
    ///
    /// # Errors
    /// What the kernel says. The bytes then count as dropped: a later record tells of the gap.
    pub fn output(&mut self, stream: Stream, data: &[u8]) -> io::Result<()> {
        let most = usize::try_from(self.limits.segment).unwrap_or(usize::MAX) - SEGMENT_RECORD - HEADER;
        for piece in data.chunks(most) {
            let written = self.append(Kind::Output(stream, Bytes::copy_from_slice(piece)));
            self.totals.add(stream, piece.len() as u64);
            if written.is_err() {
                self.break_segment();
                written?;
            }
        }
        Ok(())
    }

    /// Appends a record that is not output.
    ///
    /// # Errors
    /// What the kernel says; `InvalidInput` for kinds that only readers make and for a record over the segment size.
    pub fn append(&mut self, kind: Kind) -> io::Result<()> {
        self.buffer.clear();
        let entry = Entry { sequence: self.sequence, at: SystemTime::now(), kind };
        entry.encode(&mut self.buffer)?;
        let room = self.limits.segment - (self.offset - START) % self.limits.segment;
        let fresh = room == self.limits.segment;
        if !fresh && self.buffer.len() as u64 > room {
            self.break_segment();
        }
        if (self.offset - START).is_multiple_of(self.limits.segment) {
            return self.open_segment(entry);
        }
        self.write_buffer()
    }

    /// Writes the first record of a segment together with the record that needed the room.
    fn open_segment(&mut self, mut entry: Entry) -> io::Result<()> {
        self.free_oldest()?;
        self.buffer.clear();
        let totals = Kind::Segment(self.totals);
        Entry { sequence: self.sequence, at: entry.at, kind: totals }.encode(&mut self.buffer)?;
        entry.sequence += 1;
        entry.encode(&mut self.buffer)?;
        if self.buffer.len() as u64 > self.limits.segment {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        self.write_buffer()?;
        self.sequence += 1;
        Ok(())
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.sequence += 1;
        Ok(())
    }

    /// Bytes of output so far, kept or not.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.totals.stdout + self.totals.stderr
    }

    /// Leaves the rest of the segment empty: readers go on at the next border and learn the totals there.
    fn break_segment(&mut self) {
        self.offset = START + (self.offset - START).next_multiple_of(self.limits.segment);
    }

    /// Past the head only the newest segments stay; the one that falls out becomes a hole in the file.
    fn free_oldest(&mut self) -> io::Result<()> {
        if (self.offset - START) / self.limits.segment < self.limits.head {
            return Ok(());
        }
        self.tail.push_back(self.offset);
        if self.tail.len() > self.limits.tail
            && let Some(oldest) = self.tail.pop_front()
        {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let (at, length) = (oldest.try_into(), self.limits.segment.try_into());
            fallocate(&self.file, hole, at.map_err(io::Error::other)?, length.map_err(io::Error::other)?)?;
        }
        Ok(())
    }
}
