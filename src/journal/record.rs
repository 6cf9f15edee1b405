//! One record: what it says, and its bytes.

use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Which of a command's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Descriptor 1, or everything that a terminal shows.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Bytes that each stream has produced up to a point, dropped ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of stdout.
    pub stdout: u64,
    /// Bytes of stderr.
    pub stderr: u64,
}

impl Totals {
    /// Counts `bytes` more of `stream`.
    pub fn add(&mut self, stream: Stream, bytes: u64) {
        match stream {
            Stream::Stdout => self.stdout += bytes,
            Stream::Stderr => self.stderr += bytes,
        }
    }
}

/// How a command ended, as the kernel told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// `exit` with this status, 0 to 255.
    Code(i32),
    /// Ended by this signal.
    Signal(i32),
    /// Nobody was there to see it.
    Unknown,
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// By itself.
    Exited,
    /// By a signal that was not ours.
    Signaled,
    /// Its time was up.
    TimedOut,
    /// The workspace's memory limit was reached.
    OutOfMemory,
    /// A caller asked.
    Cancelled,
    /// Its workspace was stopped.
    WorkspaceStopped,
    /// The machine or the supervisor went away under it.
    Lost,
}

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// What the kernel's wait status says.
    pub outcome: Outcome,
    /// Why.
    pub cause: Cause,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// First record of a journal: the command, in the encoding of whoever started it.
    Started(Bytes),
    /// Output in the order in which it was read.
    Output(Stream, Bytes),
    /// Output that was not kept: this many bytes of each stream are missing before the next record.
    Gap(Totals),
    /// The command ended. Output of children that outlived it may follow.
    Exit(ExitStatus),
    /// First record of a segment; readers do not pass it on.
    Segment(Totals),
}

/// A record with its place and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counts records from 0; never used twice in one journal. A gap carries the number of the last record missed.
    pub sequence: u64,
    /// When it was written, by the wall clock.
    pub at: SystemTime,
    /// What it says.
    pub kind: Kind,
}

/// Bytes before the payload: length, checksum, sequence number, time, kind.
pub(super) const HEADER: usize = 4 + 4 + 8 + 8 + 1;

const STARTED: u8 = 1;
const STDOUT: u8 = 2;
const STDERR: u8 = 3;
const EXIT: u8 = 4;
const SEGMENT: u8 = 5;

impl Entry {
    /// Appends the record's bytes to `out`.
    ///
    /// # Errors
    /// `InvalidInput` for a gap, which exists only while reading, and for a status that cannot be encoded.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.sequence.to_le_bytes());
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        out.extend_from_slice(&u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
        match &self.kind {
            Kind::Started(header) => payload(out, STARTED, header),
            Kind::Output(Stream::Stdout, data) => payload(out, STDOUT, data),
            Kind::Output(Stream::Stderr, data) => payload(out, STDERR, data),
            Kind::Exit(status) => {
                let status = postcard::to_stdvec(status).map_err(io::Error::other)?;
                payload(out, EXIT, &status);
            }
            Kind::Segment(totals) => {
                payload(out, SEGMENT, &totals.stdout.to_le_bytes());
                out.extend_from_slice(&totals.stderr.to_le_bytes());
            }
            Kind::Gap(_) => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
        }
        let length = u32::try_from(out.len() - start).map_err(io::Error::other)?;
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32fast::hash(&out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
        Ok(())
    }

    /// Reads the record at the start of `bytes`, and says how many bytes it takes. `None` if it is not whole.
    pub(super) fn decode(bytes: &Bytes) -> Option<(Self, usize)> {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        if length < HEADER || bytes.len() < length || crc32fast::hash(&bytes[8..length]) != u32_at(bytes, 4)?
        {
            return None;
        }
        let data = bytes.slice(HEADER..length);
        let kind = match bytes[HEADER - 1] {
            STARTED => Kind::Started(data),
            STDOUT => Kind::Output(Stream::Stdout, data),
            STDERR => Kind::Output(Stream::Stderr, data),
            EXIT => Kind::Exit(postcard::from_bytes(&data).ok()?),
            SEGMENT => Kind::Segment(Totals { stdout: u64_at(&data, 0)?, stderr: u64_at(&data, 8)? }),
            _ => return None,
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64_at(bytes, 16)?);
        Some((Self { sequence: u64_at(bytes, 8)?, at, kind }, length))
    }
}

fn payload(out: &mut Vec<u8>, kind: u8, data: &[u8]) {
    out.push(kind);
    out.extend_from_slice(data);
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
